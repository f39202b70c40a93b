package codec

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGoodbye(t *testing.T) {
	for _, tt := range []struct {
		name    string
		code    uint16
		text    string
		payload string
	}{
		{"no text", 300, "", "\x01\x2c"},
		{"text", 301, "restart", "\x01\x2drestart"},
		{"zero", 0, "", "\x00\x00"},
		{"largest number", 65535, "x", "\xff\xffx"},
		{"runes", 1000, "再见 👋", "\x03\xe8再见 👋"},
		{"NUL is UTF-8", 1, "\x00", "\x00\x01\x00"},
		{"longest", 2, strings.Repeat("x", 123), "\x00\x02" + strings.Repeat("x", 123)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := AppendGoodbye([]byte("before"), tt.code, tt.text)
			require.NoError(t, err)
			require.Equal(t, "before"+tt.payload, string(p))
			code, text, err := ParseGoodbye([]byte(tt.payload))
			require.NoError(t, err)
			require.Equal(t, tt.code, code)
			require.Equal(t, tt.text, text)
		})
	}
}

func TestParseGoodbyeEmpty(t *testing.T) {
	for _, p := range [][]byte{nil, {}} {
		code, text, err := ParseGoodbye(p)
		require.NoError(t, err)
		require.Zero(t, code)
		require.Zero(t, text)
	}
}

func TestParseGoodbyeErrors(t *testing.T) {
	for _, tt := range []struct {
		name, payload, text string
		want                error
	}{
		{"one byte", "\x01", "codec: malformed goodbye: 1 byte is too short for a reason number", ErrGoodbye},
		{"not UTF-8", "\x01\x2cab\xff", `codec: malformed goodbye: text "ab\xff" is not UTF-8`, ErrGoodbye},
		{"half a rune", "\x01\x2c\xe5\x86", `codec: malformed goodbye: text "\xe5\x86" is not UTF-8`, ErrGoodbye},
		{"too long", strings.Repeat("x", 126), "codec: goodbye text of 124 bytes is longer than the limit of 123", ErrTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, text, err := ParseGoodbye([]byte(tt.payload))
			require.ErrorIs(t, err, tt.want)
			require.EqualError(t, err, tt.text)
			require.Zero(t, code)
			require.Zero(t, text)
		})
	}
}

func TestAppendGoodbyeErrors(t *testing.T) {
	b, err := AppendGoodbye([]byte("before"), 300, strings.Repeat("x", 124))
	requireError(t, Error{ErrTooLong, Goodbye, 124, 123, "text"}, err)
	require.EqualError(t, err, "codec: goodbye text of 124 bytes is longer than the limit of 123")
	require.Equal(t, "before", string(b))

	b, err = AppendGoodbye([]byte("before"), 300, "caf\xe9")
	require.ErrorIs(t, err, ErrGoodbye)
	require.EqualError(t, err, `codec: malformed goodbye: text "caf\xe9" is not UTF-8`)
	require.Equal(t, "before", string(b))
}

func TestCutGoodbyeText(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, tt := range []struct {
		name, text, want string
		changed          bool
	}{
		{"empty", "", "", false},
		{"short", "restart", "restart", false},
		{"fits", x(123), x(123), false},
		{"one byte too many", x(124), x(123), true},
		{"large", x(1 << 20), x(123), true},
		{"rune fits", x(120) + "再", x(120) + "再", false},
		{"rune cut before its first byte", x(121) + "再", x(121), true},
		{"rune cut before its first byte, more to come", x(122) + "再xxx", x(122), true},
		{"emoji", x(119) + "👋" + "x", x(119) + "👋", true},
		{"not UTF-8", "caf\xe9!", "caf\ufffd!", true},
		{"each bad byte", "\xff\xff", "\ufffd\ufffd", true},
		{"U+FFFD itself stays", "\ufffd", "\ufffd", false},
		{"replacing makes it too long", x(122) + "\xff", x(122), true},
		{"all bad", strings.Repeat("\xff", 123), strings.Repeat("\ufffd", 41), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, changed := CutGoodbyeText(tt.text)
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.changed, changed)
		})
	}
}
