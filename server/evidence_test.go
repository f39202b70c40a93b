//go:build unix

package server_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// A frozen peer for which megabytes wait cannot be sent a Ping any more. What it does not take asks it
// just as well: it is suspect at the interval, and ended at the timeout.
func TestFrozenBehindABacklog(t *testing.T) { busy.Try(t, testFrozenBehindABacklog) }

func testFrozenBehindABacklog(t *busy.T) {
	t.Parallel()
	cfg := quick()
	cfg.Policy = heartbeat.Policy{Interval: 500 * time.Millisecond, Timeout: 1500 * time.Millisecond}
	cfg.BacklogMax = 64 << 20
	cfg.Loops = 1
	h := newRecorder()
	_, c, s := open(t, h, cfg)
	c.echoes(t)
	froze := time.Now()
	written := make(chan time.Time, 1)
	require.NoError(t, s.Post(func() {
		for range 500 {
			assert.NoError(t, s.Send(make([]byte, 32<<10)))
		}
		assert.NoError(t, s.Post(func() { written <- time.Now() })) // the turn after
	}))
	e := h.nextClose(t)
	took := e.at.Sub(froze)
	writing := (<-written).Sub(froze) // under the race detector that may take a second; until then it has been asked nothing
	assert.Contains(t, []server.Reason{server.PeerFrozen, server.PeerSlow}, e.end.Reason, "%v", e.end)
	assert.GreaterOrEqual(t, took, cfg.Policy.Timeout-20*time.Millisecond)
	t.NotLater(froze, e.at, writing+cfg.Policy.Timeout+2*cfg.Tick+slack, "the verdict")
	h.mu.Lock()
	defer h.mu.Unlock()
	if assert.Len(t, h.suspects[s.ID()], 1) {
		suspect := h.suspects[s.ID()][0].Sub(froze)
		t.Logf("suspect after %v, %v after %v; written after %v", suspect, e.end.Reason, took, writing)
		assert.GreaterOrEqual(t, suspect, cfg.Policy.Interval-20*time.Millisecond)
		t.NotLater(froze, froze.Add(suspect), writing+cfg.Policy.Interval+2*cfg.Tick+slack, "the suspicion")
	}
}

// A slow reader of a long backlog cannot answer a Ping that is behind it, but it reads: it lives.
func TestSlowReaderLives(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.BacklogMax = 64 << 20
	h := newRecorder()
	srv := start(t, h, cfg)
	c := dial(t, srv)
	require.NoError(t, c.Conn.(*net.TCPConn).SetReadBuffer(64<<10))
	s := h.nextOpen(t)
	c.echoes(t)
	const messages = 400
	require.NoError(t, s.Post(func() {
		for range messages {
			assert.NoError(t, s.Send(make([]byte, 32<<10)))
		}
	}))
	begun := time.Now()
	for n := range messages {
		c.readUntil(t, codec.Data)
		time.Sleep(time.Until(begun.Add(time.Duration(n) * 3 * cfg.Policy.Timeout / messages)))
	}
	t.Logf("it read for %v, %v is the timeout", time.Since(begun), cfg.Policy.Timeout)
	assert.Empty(t, h.closes)
}

// Everything that was queued, and what the kernel holds of it, arrives before CloseTimeout begins: a
// slow reader is not cut off while it reads.
func TestPoliteCloseOfASlowReader(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Policy = heartbeat.Policy{Interval: 2 * time.Second}
	cfg.CloseTimeout = 300 * time.Millisecond
	h := newRecorder()
	srv := start(t, h, cfg)
	c := dial(t, srv)
	require.NoError(t, c.Conn.(*net.TCPConn).SetReadBuffer(64<<10))
	s := h.nextOpen(t)
	require.NoError(t, s.Post(func() {
		for range 30 {
			assert.NoError(t, s.Send(make([]byte, 32<<10)))
		}
		assert.NoError(t, s.Close(server.ServerClosed, "bye"))
	}))
	begun := time.Now()
	for n := 0; ; n++ {
		f, err := c.read()
		require.NoError(t, err, "after %d messages and %v", n, time.Since(begun))
		if f.Type == codec.Goodbye {
			assert.Equal(t, 30, n)
			break
		}
		time.Sleep(30 * time.Millisecond)
	}
	t.Logf("all read in %v; CloseTimeout is %v", time.Since(begun), cfg.CloseTimeout)
	assert.Greater(t, time.Since(begun), 2*cfg.CloseTimeout, "slow enough to show something")
	c.Close()
	e := h.nextClose(t)
	assert.Equal(t, server.ServerClosed, e.end.Reason)
	assert.False(t, e.end.Record.Reset)
	assert.Zero(t, e.end.Record.Unsent)
}

// Our send met the RST before the loop came to read what the peer had said: its last words and its
// Goodbye are told all the same.
func TestLastWordsBeforeTheReset(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Loops = 1
	h := newRecorder()
	heard := make(chan string, 10)
	h.onMessage = func(_ *server.Session, p []byte) error { heard <- string(p); return nil }
	srv, helper, hs := open(t, h, cfg)
	go helper.beat()
	goodbye, err := codec.AppendGoodbye(nil, 7, "off to bed")
	require.NoError(t, err)
	for range 5 {
		c := dial(t, srv)
		s := h.nextOpen(t)
		c.send(t, codec.Data, []byte("hello"))
		require.Equal(t, "hello", <-heard)
		stall(t, hs, 60*time.Millisecond)
		_, err := c.Write(append(frame(codec.Data, []byte("last words")), frame(codec.Goodbye, goodbye)...))
		require.NoError(t, err)
		require.NoError(t, s.Send([]byte("you?")))
		require.NoError(t, hs.Post(func() { time.Sleep(60 * time.Millisecond) }))
		c.rst(t)
		e := h.nextClose(t)
		assert.Equal(t, server.PeerGoodbye, e.end.Reason, "%v", e.end)
		assert.Equal(t, "off to bed", e.end.Detail)
		require.Len(t, heard, 1)
		assert.Equal(t, "last words", <-heard)
	}
}

// A handler that returns what sending to another session returned, because that one has gone, goes on
// serving its own.
func TestRelayToOneThatIsGone(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	var to atomic.Pointer[server.Session]
	h.onMessage = func(_ *server.Session, p []byte) error { return to.Load().Send(p) }
	srv := start(t, h, quick())
	a := dial(t, srv)
	other := h.nextOpen(t)
	to.Store(other)
	b := dial(t, srv)
	h.nextOpen(t)
	a.Close()
	require.Equal(t, server.PeerClosed, h.nextClose(t).end.Reason)
	b.send(t, codec.Data, []byte("hi"))
	b.send(t, codec.Ping, nil)
	b.readUntil(t, codec.Pong)
	assert.Empty(t, h.closes)
	var ended *server.EndedError
	require.ErrorAs(t, other.Send(nil), &ended)
	assert.Equal(t, server.EndedError{Session: other.ID(), Reason: server.PeerClosed}, *ended)
	assert.ErrorIs(t, ended, net.ErrClosed)
	assert.ErrorIs(t, ended, server.PeerClosed)
	var r server.Reason
	assert.False(t, errors.As(error(ended), &r))
	assert.Equal(t, 1, srv.Stats().Live)
}

// Work that a loop brings upon itself does not keep it from its sockets.
func TestPostThatPostsItself(t *testing.T) { busy.Try(t, testPostThatPostsItself) }

func testPostThatPostsItself(t *busy.T) {
	t.Parallel()
	cfg := quick()
	cfg.Loops = 1
	h := newRecorder()
	_, c, s := open(t, h, cfg)
	c.echoes(t)
	stop, posts := atomic.NewBool(false), atomic.NewInt64(0)
	defer stop.Store(true)
	var again func()
	again = func() {
		posts.Inc()
		time.Sleep(100 * time.Microsecond)
		if !stop.Load() {
			_ = s.Post(again)
		}
	}
	require.NoError(t, s.Post(again))
	eventually(t, 5*time.Second, func() bool { return posts.Load() > 100 }, "100 posts")
	before := posts.Load()
	c.echoes(t)
	t.Logf("an echo took %d posts of 0.1 ms", posts.Load()-before)
	assert.Less(t.IfQuiet(20*time.Millisecond), posts.Load()-before, int64(500))
}

// Two thousand evictions that come due in one moment do not hold up an echo until the last is done.
func TestManyEvictionsAndAnEcho(t *testing.T) { busy.Try(t, testManyEvictionsAndAnEcho) }

func testManyEvictionsAndAnEcho(t *busy.T) {
	if testing.Short() {
		t.Skip("2,000 connections; not with -short")
	}
	const n = 2000
	cfg := quick()
	cfg.Loops = 1
	cfg.Policy = heartbeat.Policy{Interval: 2 * time.Second}
	cfg.HandshakeTimeout = time.Second
	h := newRecorder()
	srv := start(t, h, cfg)
	c := dial(t, srv)
	h.nextOpen(t)
	c.echoes(t)
	for i := range affordable(t, n) {
		dial(t, srv)
		if i%100 == 0 {
			c.echoes(t) // this may take longer than its own timeout
		}
	}
	worst, closed := time.Duration(0), 0
	for srv.Stats().Live > 1 {
		before, begun := srv.Stats().Closed, time.Now()
		c.echoes(t)
		if took := time.Since(begun); took > worst {
			worst, closed = took, int(srv.Stats().Closed-before)
		}
	}
	t.Logf("the slowest of the echoes next to %d evictions took %v, in which %d sessions were ended", n, worst, closed)
	assert.Less(t.IfQuiet(slack), closed, n/2)
	assert.Equal(t, uint64(n), srv.Stats().Reasons[server.PeerUnready])
}
