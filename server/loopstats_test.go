package server_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// A turn that takes long is counted as such, one that does not as well, and nothing else is told.
func TestLoops(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	h.onMessage = func(s *server.Session, p []byte) error {
		if bytes.Equal(p, []byte("slow")) {
			time.Sleep(150 * time.Millisecond)
		}
		return s.Send(p)
	}
	cfg := calm()
	cfg.Loops = 2
	srv, err := server.New(h, cfg)
	require.NoError(t, err)
	assert.Empty(t, srv.Loops(), "before the first Serve")
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	srv = serveOn(t, h, cfg, ln)
	clients := []*client{dial(t, srv), dial(t, srv), dial(t, srv)}
	for range clients {
		h.nextOpen(t)
	}
	for range 20 {
		clients[0].echoes(t)
	}
	before := srv.Loops()
	require.Len(t, before, 2)
	assert.Equal(t, []int{0, 1}, []int{before[0].Loop, before[1].Loop})
	assert.Equal(t, 3, before[0].Sessions+before[1].Sessions)
	assert.Equal(t, 3, before[0].Conns+before[1].Conns)
	sum := func(h server.TurnHistogram, from int) (n uint64) {
		for _, c := range h[from:] {
			n += c
		}
		return n
	}
	assert.GreaterOrEqual(t, sum(before[0].Turns, 0)+sum(before[1].Turns, 0), uint64(20))
	clients[0].send(t, codec.Data, []byte("slow"))
	clients[0].readUntil(t, codec.Data)
	long := 7 // over 100 ms
	eventually(t, 10*time.Second, func() bool {
		after := srv.Loops()
		return sum(after[0].Turns, long)+sum(after[1].Turns, long) > sum(before[0].Turns, long)+sum(before[1].Turns, long)
	}, "the slow turn")
	after := srv.Loops()
	busy := after[0].Busy + after[1].Busy - before[0].Busy - before[1].Busy
	assert.GreaterOrEqual(t, busy, 150*time.Millisecond)
	assert.Zero(t, after[0].Lags+after[1].Lags)
	clients[1].Close()
	h.nextClose(t)
	after = srv.Loops()
	assert.Equal(t, 2, after[0].Sessions+after[1].Sessions)
}

// A histogram prints what there is.
func TestLoopsHistogram(t *testing.T) {
	t.Parallel()
	assert.Empty(t, server.TurnHistogram{}.String())
	assert.Equal(t, "100µs:8 5ms:1 more:2", server.TurnHistogram{0: 8, 2: 1, len(server.TurnBounds): 2}.String())
}

const (
	lagsLine    = "an event loop lags"
	keepsUpLine = "that lagged keeps up again"
)

// A loop of which no turn is long, but every round, is told to lag: once, and once when it keeps up
// again.
func TestLoopsLagging(t *testing.T) {
	t.Parallel()
	const clients, each = 30, 20 * time.Millisecond // 600 ms a round
	log := &lines{}
	var calm30 atomic.Bool
	h := newRecorder()
	h.onMessage = func(s *server.Session, p []byte) error {
		if !calm30.Load() {
			time.Sleep(each)
		}
		return s.Send(p)
	}
	cfg := calm()
	cfg.BlockWarning, cfg.Logger = 250*time.Millisecond, log.logger()
	srv := start(t, h, cfg)
	var all []*client
	for range clients {
		all = append(all, dial(t, srv))
		h.nextOpen(t)
	}
	for _, cl := range all {
		go echoer(cl)
	}
	eventually(t, 30*time.Second, func() bool { return len(log.with(lagsLine)) > 0 }, "the line")
	line := log.with(lagsLine, "level=WARN")[0]
	assert.Contains(t, line, " loop=0 ")
	assert.Contains(t, line, " sessions=30 ")
	st := srv.Loops()[0]
	assert.Greater(t, max(st.LagWorst, st.LateWorst), cfg.BlockWarning)
	calm30.Store(true)
	eventually(t, 30*time.Second, func() bool { return len(log.with(keepsUpLine)) > 0 }, "the other line")
	if n := len(log.with(heldUpLine)); n > 0 {
		t.Skipf("this machine is too busy to tell: %d turns of 20 ms took 250 ms", n)
	}
	st = srv.Loops()[0]
	assert.EqualValues(t, 1, st.Lags)
	assert.False(t, st.Lagging)
	assert.Len(t, log.with(lagsLine), 1)
	assert.Zero(t, srv.Stats().Suspected)
}

// A turn that is itself too long is the watchdog's to tell, and no lag.
func TestLoopsHeldUpDoesNotLag(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	log, srv, cl, s := watched(t, h)
	s[0].After(100*time.Millisecond, func() {})
	require.NoError(t, s[0].Post(func() { time.Sleep(time.Second) }))
	eventually(t, 10*time.Second, func() bool { return len(log.with(goesOnLine)) > 0 }, "the watchdog's line")
	cl[0].echoes(t)
	time.Sleep(20 * quick().Tick)
	assert.Empty(t, log.with(lagsLine))
	assert.Zero(t, srv.Loops()[0].Lags)
}
