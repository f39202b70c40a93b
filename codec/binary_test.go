package codec

import (
	"bytes"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func header(t Type, length int) []byte {
	return []byte{byte(t), byte(length >> 16), byte(length >> 8), byte(length)}
}

func TestTypeString(t *testing.T) {
	for typ, want := range map[Type]string{
		Invalid: "invalid", Data: "data", Ping: "ping", Pong: "pong", Goodbye: "goodbye",
		Hello: "hello", Welcome: "welcome", Ack: "ack", 8: "type(8)", 9: "type(9)", 254: "type(254)", Raw: "raw",
	} {
		require.Equal(t, want, typ.String())
	}
}

func TestConstantsAreThoseOfTheWire(t *testing.T) {
	for i, typ := range []Type{Invalid, Data, Ping, Pong, Goodbye, Hello, Welcome, Ack} {
		require.EqualValues(t, i, typ)
	}
	require.EqualValues(t, 255, Raw)
	require.Equal(t, []int{4, 65536, 16777215, 64, 123},
		[]int{HeaderSize, DefaultPayloadMax, PayloadLimit, PingPayloadMax, GoodbyeTextMax})
}

// limits has each type's limit under some values of PayloadMax.
var limits = []struct {
	payloadMax int
	typ        Type
	limit      int
}{
	{0, Data, 65536},
	{-1, Data, 65536},
	{1, Data, 1},
	{16, Data, 16},
	{65535, Data, 65535},
	{1<<24 - 1, Data, 1<<24 - 1},
	{1 << 24, Data, 1<<24 - 1},
	{0, Ping, 64},
	{1, Ping, 64},
	{1 << 20, Ping, 64},
	{0, Pong, 64},
	{1 << 20, Pong, 64},
	{0, Goodbye, 125},
	{1, Goodbye, 125},
	{1 << 20, Goodbye, 125},
	{0, Hello, 65536},
	{16, Hello, 16},
	{0, Welcome, 65536},
	{16, Ack, 16},
}

func TestBinaryLimits(t *testing.T) {
	for _, tt := range limits {
		t.Run(fmt.Sprintf("PayloadMax=%d/%s", tt.payloadMax, tt.typ), func(t *testing.T) {
			c := Binary{PayloadMax: tt.payloadMax}
			for _, length := range []int{0, 1, tt.limit - 1, tt.limit, tt.limit + 1, PayloadLimit, PayloadLimit + 1} {
				payload := bytes.Repeat([]byte{0xa5}, length)
				want := Error{ErrTooLong, tt.typ, length, tt.limit, "frame"}
				b, err := c.AppendFrame(nil, Frame{tt.typ, payload})
				if length > tt.limit {
					requireError(t, want, err)
					require.Nil(t, b)
				} else {
					require.NoError(t, err)
					require.Equal(t, header(tt.typ, length), b[:HeaderSize])
					require.True(t, bytes.Equal(payload, b[HeaderSize:]))
				}
				if length > PayloadLimit {
					continue // the header cannot say so
				}

				// The header alone tells whether it is too long.
				b = header(tt.typ, length)
				f, n, err := c.Decode(b)
				if length > tt.limit {
					requireError(t, want, err)
					require.Zero(t, n)
					require.Zero(t, f)
					require.Equal(t, HeaderSize, c.Need(b))
					continue
				}
				require.NoError(t, err)
				require.Equal(t, HeaderSize+length, c.Need(b))
				if length > 0 {
					require.Zero(t, n)
				}
				f, n, err = c.Decode(append(b, payload...))
				require.NoError(t, err)
				require.Equal(t, HeaderSize+length, n)
				require.Equal(t, tt.typ, f.Type)
				require.True(t, bytes.Equal(payload, f.Payload))
			}
		})
	}
}

func TestBinaryTypes(t *testing.T) {
	for i := range 256 {
		typ := Type(i)
		known := 1 <= i && i <= 7
		b := append(header(typ, 8), "12345678"...)
		for length := range len(b) + 1 {
			f, n, err := Binary{}.Decode(b[:length])
			switch {
			case length > 0 && !known: // at once, with the first byte
				requireError(t, Error{Kind: ErrType, Type: typ}, err)
				require.Zero(t, n)
				require.Equal(t, 1, Binary{}.Need(b[:length]))
			case length < len(b):
				require.NoError(t, err)
				require.Zero(t, n)
				require.Zero(t, f)
			default:
				require.NoError(t, err)
				require.Equal(t, len(b), n)
				require.Equal(t, Frame{typ, []byte("12345678")}, f)
			}
		}
		got, err := Binary{}.AppendFrame([]byte("before"), Frame{typ, []byte("12345678")})
		if known {
			require.NoError(t, err)
			require.Equal(t, append([]byte("before"), b...), got)
		} else {
			requireError(t, Error{Kind: ErrType, Type: typ}, err)
			require.Equal(t, "before", string(got))
		}
	}
}

func TestBinaryNeed(t *testing.T) {
	for _, tt := range []struct {
		b    []byte
		need int
	}{
		{nil, 1}, // a wrong type shows in one byte
		{[]byte{1}, 4},
		{[]byte{1, 0}, 4},
		{[]byte{1, 0, 0}, 4},
		{[]byte{1, 0, 0, 0}, 4},
		{[]byte{1, 0, 0, 5}, 9},
		{[]byte{1, 0, 0, 5, 'h', 'e'}, 9},
		{[]byte{1, 0, 0, 1, 'h', 'e'}, 5},
		{[]byte{1, 1, 0, 0}, 65540},
		{[]byte{1, 1, 0, 1}, 4}, // too long: nothing more is needed to say so
		{[]byte{2, 255, 255, 255}, 4},
		{[]byte{0}, 1},
		{[]byte{8, 0, 0, 0}, 1},
	} {
		require.Equal(t, tt.need, Binary{}.Need(tt.b), "%x", tt.b)
	}
}

func TestBinaryErrorText(t *testing.T) {
	_, err := Binary{}.AppendFrame(nil, Frame{Data, make([]byte, 70000)})
	require.EqualError(t, err, "codec: data frame of 70000 bytes is longer than the limit of 65536")
	_, _, err = Binary{}.Decode([]byte{2, 0, 0, 65})
	require.EqualError(t, err, "codec: ping frame of 65 bytes is longer than the limit of 64")
	_, _, err = Binary{}.Decode([]byte{0})
	require.EqualError(t, err, "codec: type 0 (invalid) is not a frame type of the wire")
	_, _, err = Binary{}.Decode([]byte("GET / HTTP/1.1"))
	require.EqualError(t, err, "codec: type 71 (type(71)) is not a frame type of the wire")
	require.EqualError(t, &Error{Kind: errors.ErrUnsupported, Type: Ack}, "codec: ack frame: unsupported operation")
}

func TestBinaryPayloadDoesNotReachTheNextFrame(t *testing.T) {
	b := []byte{1, 0, 0, 1, 'a', 1, 0, 0, 1, 'b'}
	f, n, err := Binary{}.Decode(b)
	require.NoError(t, err)
	require.Same(t, &b[HeaderSize], &f.Payload[0], "the payload aliases the input")
	_ = append(f.Payload, 0)
	f, _, err = Binary{}.Decode(b[n:])
	require.NoError(t, err)
	require.Equal(t, Frame{Data, []byte("b")}, f)
}

func TestBinaryDoesNotAllocate(t *testing.T) {
	var c Codec = Binary{} // as a server holds it
	payload := make([]byte, 64)
	buf := make([]byte, 0, HeaderSize+len(payload))
	wire, err := c.AppendFrame(nil, Frame{Data, payload})
	require.NoError(t, err)
	for name, f := range map[string]func(){
		"encode":      func() { _, err = c.AppendFrame(buf, Frame{Data, payload}) },
		"decode":      func() { _, _, err = c.Decode(wire) },
		"decode less": func() { _, _, err = c.Decode(wire[:len(wire)-1]) },
		"need":        func() { c.(Needer).Need(wire) },
		"goodbye":     func() { _, err = AppendGoodbye(buf, 301, "restart") },
		"cut":         func() { CutGoodbyeText("fits as it is") },
	} {
		require.Zero(t, testing.AllocsPerRun(1000, f), name)
		require.NoError(t, err, name)
	}
}

func TestBinaryIsComparable(t *testing.T) {
	require.True(t, Codec(Binary{}) == Codec(Binary{}))
	require.False(t, Codec(Binary{}) == Codec(Binary{PayloadMax: 1}))
}

func TestPackageIsPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	allowed := []string{"encoding/binary", "errors", "fmt", "slices", "strconv", "strings", "unicode/utf8"}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, spec := range parsed.Imports {
			require.Contains(t, allowed, strings.Trim(spec.Path.Value, `"`), file)
		}
	}
}

func requireError(t *testing.T, want Error, err error) {
	t.Helper()
	var got *Error
	require.ErrorAs(t, err, &got)
	require.Equal(t, want, *got)
	require.ErrorIs(t, err, want.Kind)
}

func BenchmarkEncode64(b *testing.B) {
	var c Codec = Binary{}
	payload := make([]byte, 64)
	buf := make([]byte, 0, 128)
	b.SetBytes(HeaderSize + 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.AppendFrame(buf, Frame{Data, payload}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode64(b *testing.B) {
	var c Codec = Binary{}
	wire, err := c.AppendFrame(nil, Frame{Data, make([]byte, 64)})
	require.NoError(b, err)
	b.SetBytes(HeaderSize + 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, n, err := c.Decode(wire); n != len(wire) || err != nil {
			b.Fatal(n, err)
		}
	}
}
