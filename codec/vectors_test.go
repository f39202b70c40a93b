package codec

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// vector is an entry of testdata/vectors.json; PROTOCOL.md says what the fields mean.
type vector struct {
	Name       string        `json:"name"`
	PayloadMax int           `json:"payload_max"`
	Bytes      hexBytes      `json:"bytes"`
	Frames     []vectorFrame `json:"frames"`
	Rest       int           `json:"rest"`
	Error      string        `json:"error"`
}

type vectorFrame struct {
	Type     Type     `json:"type"`
	Name     string   `json:"name"`
	Payload  hexBytes `json:"payload"`
	Reserved bool     `json:"reserved"`
	Code     *uint16  `json:"code"`
	Text     string   `json:"text"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

var vectorErrors = map[string]error{"type": ErrType, "too_long": ErrTooLong, "goodbye": ErrGoodbye}

func readVectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	var file struct {
		Version    int      `json:"version"`
		PayloadMax int      `json:"payload_max"`
		Vectors    []vector `json:"vectors"`
	}
	require.NoError(t, json.Unmarshal(b, &file))
	require.Equal(t, 1, file.Version)
	require.Equal(t, DefaultPayloadMax, file.PayloadMax)
	require.NotEmpty(t, file.Vectors)
	for i := range file.Vectors {
		if file.Vectors[i].PayloadMax == 0 {
			file.Vectors[i].PayloadMax = file.PayloadMax
		}
	}
	return file.Vectors
}

func TestVectors(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			c := Binary{PayloadMax: v.PayloadMax}
			frames, rest, err := decodeAll(c, v.Bytes)
			for i, f := range frames {
				if f.Type == Goodbye && err == nil {
					if _, _, err = ParseGoodbye(f.Payload); err != nil {
						frames = frames[:i]
						break
					}
				}
			}

			if v.Error == "" {
				require.NoError(t, err)
				require.Len(t, rest, v.Rest)
			} else {
				require.Contains(t, vectorErrors, v.Error)
				require.ErrorIs(t, err, vectorErrors[v.Error])
			}

			require.Len(t, frames, len(v.Frames))
			var again []byte
			for i, want := range v.Frames {
				require.Equal(t, Frame{want.Type, want.Payload}, frames[i])
				require.Equal(t, want.Name, want.Type.String())
				require.Equal(t, want.Reserved, Hello <= want.Type && want.Type <= Ack)
				checkVectorGoodbye(t, want)
				var err error
				again, err = c.AppendFrame(again, Frame{want.Type, want.Payload})
				require.NoError(t, err)
			}
			require.Equal(t, []byte(v.Bytes[:len(again)]), append([]byte{}, again...), "encoded again")
			if v.Error == "" {
				require.Len(t, v.Bytes, len(again)+v.Rest)
			}
		})
	}
}

func checkVectorGoodbye(t *testing.T, want vectorFrame) {
	t.Helper()
	if want.Type != Goodbye {
		require.Nil(t, want.Code)
		return
	}
	require.NotNil(t, want.Code)
	code, text, err := ParseGoodbye(want.Payload)
	require.NoError(t, err)
	require.Equal(t, *want.Code, code)
	require.Equal(t, want.Text, text)
	if len(want.Payload) > 0 {
		p, err := AppendGoodbye(nil, *want.Code, want.Text)
		require.NoError(t, err)
		require.Equal(t, []byte(want.Payload), p)
	}
}

// decodeAll decodes what is in b, in one go, and copies the payloads.
func decodeAll(c Codec, b []byte) (frames []Frame, rest []byte, err error) {
	for {
		f, n, err := c.Decode(b)
		if n == 0 || err != nil {
			return frames, b, err
		}
		frames = append(frames, Frame{f.Type, append([]byte{}, f.Payload...)})
		b = b[n:]
	}
}
