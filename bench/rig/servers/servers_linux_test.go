package servers

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/codec"
)

func TestMain(m *testing.M) {
	Register()
	rig.Main()
	os.Setenv("GORACE", "atexit_sleep_ms=0") // else each role takes a second to end under the race detector
	os.Exit(m.Run())
}

func frame(t *testing.T, size int) []byte {
	b, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: bytes.Repeat([]byte{'x'}, size)})
	require.NoError(t, err)
	return b
}

func TestEcho(t *testing.T) {
	for _, name := range []string{Epoll, Pings, Gnet, Pulsewheel, Unwatched} {
		for _, loops := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/loops=%d", name, loops), func(t *testing.T) {
				p, err := rig.Start(Server(name, Options{Loops: loops}))
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, p.Stop()) })
				for range 4 { // each loop has one at least
					c, err := net.Dial("tcp", p.Addr())
					require.NoError(t, err)
					t.Cleanup(func() { _ = c.Close() })
					require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
					long := 400 // more than the kernel's buffers hold
					if name == Pulsewheel || name == Unwatched {
						long = 10 // who leaves more than Config.BacklogMax unread is peer_slow
					}
					checkEcho(t, c, long)
				}
			})
		}
	}
}

// checkEcho sends a frame in pieces, many at once, and so many long ones before anything is read.
func checkEcho(t *testing.T, c net.Conn, frames int) {
	one := frame(t, 64)
	for _, piece := range [][]byte{one[:2], one[2:30], one[30:]} {
		_, err := c.Write(piece)
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
	}
	many := bytes.Repeat(frame(t, 100), 50)
	_, err := c.Write(many)
	require.NoError(t, err)
	want := append(one, many...)
	back := make([]byte, len(want))
	_, err = io.ReadFull(c, back)
	require.NoError(t, err)
	require.Equal(t, want, back)

	long := bytes.Repeat(frame(t, 60_000), frames)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(long)
		sent <- err
	}()
	time.Sleep(20 * time.Millisecond)
	back = make([]byte, len(long))
	_, err = io.ReadFull(c, back)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.True(t, bytes.Equal(long, back))
}

// TestPings: liveness is on in one and off in the other.
func TestPings(t *testing.T) {
	for name, asks := range map[string]bool{Pings: true, Epoll: false, Pulsewheel: true, Unwatched: false} {
		pair, err := rig.StartPair(rig.Candidate{
			Server: Server(name, Options{Interval: 300 * time.Millisecond}),
			Load:   load.Options{Conns: 5, Message: frame(t, 1), Pongs: true},
		})
		require.NoError(t, err)
		_, err = pair.Load.Run(load.Round{Messages: 5})
		require.NoError(t, err)
		time.Sleep(600 * time.Millisecond)
		n, err := pair.Load.Pings()
		require.NoError(t, err)
		assert.Equal(t, asks, n >= 5, "%s: %d Pings", name, n)
		_, err = pair.Load.Run(load.Round{Messages: 5})
		require.NoError(t, err, "all are still there")
		require.NoError(t, pair.Stop())
	}
}
