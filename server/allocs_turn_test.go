//go:build !race

package server

import (
	"net/netip"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
)

// A turn of the loop allocates nothing, whatever the number of messages that it decodes, hands to the
// Handler, encodes and writes. (The race detector has sync.Pool forget on purpose: TestAllocsEcho says so.)
func TestAllocsTurn(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pool of buffers
	srv, err := New(echoer{}, Config{Loops: 1})
	require.NoError(t, err)
	srv.now.Store(uint32(srv.tickAt(srv.elapsed())))
	l := newLoop(srv, 0)
	one, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: make([]byte, 64)})
	require.NoError(t, err)
	for _, messages := range []int{1, 16, 200} {
		var all []byte
		for range messages {
			all = append(all, one...)
		}
		c, err := newConn(srv, netip.AddrPort{}, false)
		require.NoError(t, err)
		p := &paper{in: all}
		c.loop, c.sock, c.phase = l, p, open
		c.id = l.add(c)
		c.watching, c.pathWatched = true, true
		c.onTraffic()
		before := p.wrote
		allocs := testing.AllocsPerRun(1, func() {
			for range 100 {
				c.onTraffic()
			}
		})
		assert.Zero(t, allocs, "in 100 turns of %d messages", messages)
		assert.Equal(t, 200*len(all), p.wrote-before, "all were echoed: AllocsPerRun runs once more than it counts")
		require.Nil(t, c.end)
	}
}
