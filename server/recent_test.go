package server_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// Recent has the last sessions, the newest first, as OnClose was given them.
func TestRecent(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.RecentMax = 5
	h := newRecorder()
	srv := start(t, h, cfg)
	assert.Empty(t, srv.Recent())
	var ends []ending
	for i := range 12 {
		began := time.Now()
		c := dial(t, srv)
		s := h.nextOpen(t)
		c.echoes(t)
		switch i % 3 {
		case 0:
			require.NoError(t, c.Close())
		case 1:
			c.rst(t)
		case 2:
			payload, err := codec.AppendGoodbye(nil, 1007, fmt.Sprint("so long ", i))
			require.NoError(t, err)
			c.send(t, codec.Goodbye, payload)
		}
		e := h.nextClose(t)
		require.Same(t, s, e.s)
		ends = append(ends, e)
		got := srv.Recent()
		require.Len(t, got, min(i+1, 5))
		for back, r := range got {
			want := ends[i-back]
			assert.Equal(t, want.s.ID(), r.ID)
			assert.Equal(t, want.s.RemoteAddr(), r.RemoteAddr)
			assert.Equal(t, *want.end, r.End)
		}
		assert.Equal(t, c.LocalAddr().(*net.TCPAddr).AddrPort(), got[0].RemoteAddr)
		assert.WithinRange(t, got[0].At, began, e.at)
		got[0].ID, got[0].RemoteAddr = 0, netip.AddrPort{} // the copy is the caller's
		assert.Equal(t, s.ID(), srv.Recent()[0].ID)
	}
}

func TestRecentKeepsAThousand(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	h.onMessage = func(*server.Session, []byte) error { return nil }
	srv := start(t, h, calm())
	for range 1030 {
		c := dial(t, srv)
		c.send(t, codec.Data, nil)
		c.Close()
		h.nextClose(t)
	}
	got := srv.Recent()
	require.Len(t, got, 1024)
	assert.EqualValues(t, 1030, got[0].ID)
	for i := range got[1:] {
		require.Greater(t, got[i].ID, got[i+1].ID)
	}
}

// A load balancer that looks whether the port is open, again and again, drives nobody out of Recent.
func TestRecentWithoutProbes(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	h.onMessage = func(*server.Session, []byte) error { return nil }
	srv := start(t, h, calm())
	var real []uint64
	for i := range 10 {
		c := dial(t, srv)
		s := h.nextOpen(t)
		real = append(real, s.ID())
		switch i % 3 {
		case 0: // it says something, and goes
			c.send(t, codec.Data, []byte("hello"))
			c.Close()
		case 1: // it says nothing, and is reset
			c.rst(t)
		case 2: // half a header is no visit of a balancer's
			_, err := c.Write([]byte{byte(codec.Data), 0})
			require.NoError(t, err)
			c.Close()
		}
		h.nextClose(t)
	}
	for range 1030 {
		dial(t, srv).Close()
		h.nextClose(t)
	}
	var kept []uint64
	for _, e := range srv.Recent() {
		kept = append(kept, e.ID)
	}
	for _, id := range real {
		assert.True(t, slices.Contains(kept, id), "session %d is not among the %d that are kept", id, len(kept))
	}
	assert.EqualValues(t, 1040, srv.Stats().Closed, "they are counted all the same")
}
