package codec

import (
	"bytes"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// wantLimit is the table of PROTOCOL.md again, in other words: -1 for no type at all.
func wantLimit(t Type, payloadMax int) int {
	switch t {
	case 1, 5, 6, 7:
		return payloadMax
	case 2, 3:
		return 64
	case 4:
		return 125
	}
	return -1
}

func FuzzDecodeEncode(f *testing.F) {
	for _, v := range readVectors(f) {
		for _, frame := range v.Frames {
			f.Add(uint8(frame.Type), []byte(frame.Payload), uint16(v.PayloadMax-1), []byte("before"), []byte("after"))
		}
	}
	for _, length := range []int{0, 1, 15, 16, 17, 64, 65, 125, 126, 65535, 65536} {
		for typ := range uint8(9) {
			f.Add(typ, make([]byte, length), uint16(15), []byte{}, []byte{})
		}
	}
	f.Add(uint8(255), []byte("raw"), uint16(100), []byte{1}, []byte{2})
	f.Fuzz(func(t *testing.T, typ uint8, payload []byte, payloadMax uint16, before, after []byte) {
		c := Binary{PayloadMax: int(payloadMax) + 1}
		limit := wantLimit(Type(typ), c.PayloadMax)
		b, err := c.AppendFrame(bytes.Clone(before), Frame{Type(typ), payload})
		if limit < 0 {
			require.ErrorIs(t, err, ErrType)
		} else if len(payload) > limit {
			require.ErrorIs(t, err, ErrTooLong)
		} else {
			require.NoError(t, err)
		}
		require.True(t, bytes.HasPrefix(b, before))
		b = b[len(before):]
		if err != nil {
			require.Empty(t, b)
			return
		}

		size := len(b)
		got, n, err := c.Decode(append(b, after...))
		require.NoError(t, err)
		require.Equal(t, size, n)
		require.Equal(t, HeaderSize+len(payload), n)
		require.Equal(t, Type(typ), got.Type)
		require.True(t, bytes.Equal(payload, got.Payload))
	})
}

func FuzzDecodeAny(f *testing.F) {
	for _, v := range readVectors(f) {
		f.Add([]byte(v.Bytes), uint16(v.PayloadMax-1))
		f.Add([]byte(v.Bytes), uint16(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, payloadMax uint16) {
		c := Binary{PayloadMax: int(payloadMax) + 1}
		before := bytes.Clone(b)
		for rest := b; ; {
			frame, n, err := c.Decode(rest)
			need := c.Need(rest)
			require.Greater(t, need, 0)
			require.LessOrEqual(t, need, HeaderSize+max(c.PayloadMax, 125))
			require.Equal(t, n == 0 && err == nil, need > len(rest), "Need and Decode agree")
			if err != nil {
				require.Zero(t, n)
				require.Zero(t, frame)
				_, _, again := c.Decode(rest[:need]) // what comes later changes nothing
				require.Equal(t, err, again)
				break
			}
			if n == 0 {
				require.Zero(t, frame)
				break
			}
			require.Equal(t, need, n)
			require.LessOrEqual(t, n, len(rest))
			require.LessOrEqual(t, len(frame.Payload), wantLimit(frame.Type, c.PayloadMax))
			again, err := c.AppendFrame(nil, frame)
			require.NoError(t, err)
			require.True(t, bytes.Equal(rest[:n], again))
			_, less, err := c.Decode(rest[:n-1])
			require.NoError(t, err)
			require.Zero(t, less)
			rest = rest[n:]
		}
		require.True(t, bytes.Equal(before, b), "Decode changed its input")
	})
}

func FuzzByteAtATime(f *testing.F) {
	for _, v := range readVectors(f) {
		f.Add([]byte(v.Bytes), uint16(v.PayloadMax-1))
	}
	f.Fuzz(func(t *testing.T, b []byte, payloadMax uint16) {
		c := Binary{PayloadMax: int(payloadMax) + 1}
		wantFrames, wantRest, wantErr := decodeAll(c, b)

		for _, wait := range []bool{false, true} { // true: Decode only when Need says so
			var (
				frames []Frame
				rest   []byte
				err    error
				need   = 1
			)
			for i := 0; i < len(b) && err == nil; i++ {
				rest = append(rest, b[i])
				if wait && len(rest) < need {
					continue
				}
				var more []Frame
				more, rest, err = decodeAll(c, rest)
				frames = append(frames, more...)
				if len(more) > 1 {
					t.Fatalf("%d frames ended with byte %d", len(more), i)
				}
				need = c.Need(rest)
			}
			require.Equal(t, wantFrames, frames)
			require.Equal(t, wantErr, err)
			if err == nil {
				require.True(t, bytes.Equal(wantRest, rest))
			} else {
				require.True(t, bytes.HasPrefix(wantRest, rest), "refused no later than all at once")
				require.LessOrEqual(t, len(rest), HeaderSize)
			}
		}
	})
}

func FuzzGoodbye(f *testing.F) {
	for _, v := range readVectors(f) {
		for _, frame := range v.Frames {
			if frame.Type == Goodbye {
				f.Add(*frame.Code, frame.Text, []byte(frame.Payload))
			}
		}
		if v.Error == "goodbye" {
			f.Add(uint16(300), string(v.Bytes[HeaderSize:]), []byte(v.Bytes[HeaderSize:]))
		}
	}
	f.Add(uint16(1), string(bytes.Repeat([]byte("再"), 42)), bytes.Repeat([]byte{'x'}, 126))
	f.Fuzz(func(t *testing.T, code uint16, text string, p []byte) {
		fits := len(text) <= 123 && utf8.ValidString(text)
		b, err := AppendGoodbye(nil, code, text)
		require.Equal(t, fits, err == nil)

		cut, changed := CutGoodbyeText(text)
		require.Equal(t, !fits, changed)
		require.Equal(t, changed, cut != text)
		require.True(t, utf8.ValidString(cut))
		require.LessOrEqual(t, len(cut), GoodbyeTextMax)
		if valid := string([]rune(text)); valid != cut {
			require.True(t, bytes.HasPrefix([]byte(valid), []byte(cut)))
			require.Greater(t, len(cut)+utf8.UTFMax, GoodbyeTextMax, "cut no more than it must")
		}
		b, err = AppendGoodbye(b[:0], code, cut)
		require.NoError(t, err)
		gotCode, gotText, err := ParseGoodbye(b)
		require.NoError(t, err)
		require.Equal(t, code, gotCode)
		require.Equal(t, cut, gotText)
		_, err = Binary{}.AppendFrame(nil, Frame{Goodbye, b})
		require.NoError(t, err)

		gotCode, gotText, err = ParseGoodbye(p)
		if err != nil {
			require.True(t, len(p) == 1 || len(p) > 125 || !utf8.Valid(p[2:]))
			require.Zero(t, gotCode)
			require.Zero(t, gotText)
			return
		}
		if len(p) > 0 {
			again, err := AppendGoodbye(nil, gotCode, gotText)
			require.NoError(t, err)
			require.Equal(t, p, again)
		}
	})
}
