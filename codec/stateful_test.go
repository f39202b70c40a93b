package codec

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

var errGreeting = errors.New("greeting: want HELLO v1")

// greeter is a codec with a state and an answer of its own, one value per
// connection: a line "HELLO v1\n" comes first and is answered with
// "OK\n", frames of Binary follow. A blank line before the greeting is skipped.
type greeter struct {
	Binary
	greeted atomic.Bool // Decode sets it, AppendFrame may read it on another goroutine
}

const greeting = "HELLO v1\n"

func (g *greeter) Decode(b []byte) (Frame, int, error) {
	switch {
	case g.greeted.Load():
		return g.Binary.Decode(b)
	case len(b) > 0 && b[0] == '\n':
		return Frame{Type: Raw}, 1, nil
	case !bytes.HasPrefix([]byte(greeting), b[:min(len(b), len(greeting))]):
		return Frame{}, 0, errGreeting
	case len(b) < len(greeting):
		return Frame{}, 0, nil
	}
	g.greeted.Store(true)
	return Frame{Type: Raw, Payload: []byte("OK\n")}, len(greeting), nil
}

func (g *greeter) AppendFrame(b []byte, f Frame) ([]byte, error) {
	if !g.greeted.Load() {
		return b, fmt.Errorf("%s frame before the greeting: %w", f.Type, errGreeting)
	}
	return g.Binary.AppendFrame(b, f)
}

func (g *greeter) Need(b []byte) int {
	if !g.greeted.Load() {
		return 1 // a greeting is short: look at each byte
	}
	return g.Binary.Need(b)
}

// peer does with a Codec what a server does for one connection.
type peer struct {
	codec  Codec
	in     []byte
	out    []byte
	frames []Frame
	need   int
}

func (p *peer) receive(b []byte) error {
	p.in = append(p.in, b...)
	for len(p.in) >= p.need {
		f, n, err := p.codec.Decode(p.in)
		if err != nil {
			return err
		}
		if n == 0 {
			p.need = p.codec.(Needer).Need(p.in)
			return nil
		}
		if f.Type == Raw {
			p.out = append(p.out, f.Payload...)
		} else {
			p.frames = append(p.frames, Frame{f.Type, bytes.Clone(f.Payload)})
		}
		p.in, p.need = p.in[n:], 0
	}
	return nil
}

func TestStatefulCodec(t *testing.T) {
	stream := []byte("\n\n" + greeting)
	stream, err := Binary{}.AppendFrame(stream, Frame{Data, []byte("first")})
	require.NoError(t, err)
	stream, err = Binary{}.AppendFrame(stream, Frame{Ping, []byte{}})
	require.NoError(t, err)
	want := []Frame{{Data, []byte("first")}, {Ping, []byte{}}}

	for size := 1; size <= len(stream); size++ {
		p, other := &peer{codec: new(greeter)}, &peer{codec: new(greeter)}
		_, err := p.codec.AppendFrame(nil, Frame{Data, nil})
		require.ErrorIs(t, err, errGreeting, "nothing can be said before the greeting")

		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			require.NoError(t, p.receive(rest[:n]))
			rest = rest[n:]
		}
		require.Equal(t, want, p.frames, "in pieces of %d", size)
		require.Empty(t, p.in)
		p.out, err = p.codec.AppendFrame(p.out, Frame{Pong, nil})
		require.NoError(t, err)
		require.Equal(t, "OK\n\x03\x00\x00\x00", string(p.out))

		require.ErrorIs(t, other.receive(stream[len("\n\n")+len(greeting):]), errGreeting, "the state is one connection's")
		require.Empty(t, other.out)
	}
}
