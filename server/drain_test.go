package server_test

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

func TestServeAfterClose(t *testing.T) {
	t.Parallel()
	srv, err := server.New(server.Base{}, calm())
	require.NoError(t, err)
	assert.Nil(t, srv.Addr())
	require.NoError(t, srv.Close())
	require.NoError(t, srv.Close())
	require.NoError(t, srv.Drain(t.Context()))
	ln := listen(t, "127.0.0.1:0")
	err = srv.Serve(ln)
	require.ErrorIs(t, err, server.ErrServerClosed)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = ln.Accept()
	assert.ErrorIs(t, err, net.ErrClosed, "Serve has closed it")
	assert.ErrorIs(t, srv.ListenAndServe("127.0.0.1:0"), server.ErrServerClosed)
}

// Whoever calls what and when: everything returns, and every OnOpen has its OnClose.
func TestCloseDrainServe(t *testing.T) {
	t.Parallel()
	for range 20 {
		h := newRecorder()
		srv := start(t, h, quick())
		var clients, all sync.WaitGroup
		for range 4 {
			cl := dial(t, srv)
			clients.Go(func() { _, _ = cl.beat() })
		}
		h.nextOpen(t)
		for range 2 {
			all.Go(func() { assert.NoError(t, srv.Close()) })
			all.Go(func() {
				if err := srv.Drain(t.Context()); err != nil {
					assert.ErrorIs(t, err, server.ErrServerClosed)
				}
			})
			ln := listen(t, "127.0.0.1:0")
			all.Go(func() { assert.ErrorIs(t, srv.Serve(ln), server.ErrServerClosed) })
		}
		all.Wait()
		clients.Wait()
		st := srv.Stats()
		assert.Equal(t, st.Opened, st.Closed)
		assert.EqualValues(t, st.Opened, st.Reasons[server.ServerShutdown])
		assert.Len(t, h.closes, int(st.Opened))
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	const n = 50
	h := newRecorder()
	srv := start(t, h, calm())
	var clients sync.WaitGroup
	for i := range n {
		cl := dial(t, srv)
		clients.Go(func() {
			bye, err := cl.beat() // closes when it is told to go
			if assert.NotNil(t, bye, "client %d: %v", i, err) {
				code, text, err := codec.ParseGoodbye(bye.Payload)
				assert.NoError(t, err)
				assert.EqualValues(t, server.ServerShutdown, code)
				_, text, told := codec.CutRetryAfter(text)
				assert.True(t, told)
				assert.Equal(t, "the server is shutting down", text)
			}
		})
	}
	for range n {
		h.nextOpen(t)
	}
	require.NoError(t, srv.Drain(t.Context()))
	assert.Len(t, h.closes, n, "every OnClose has been called")
	for range n {
		e := h.nextClose(t)
		assert.Equal(t, server.ServerShutdown, e.end.Reason)
		assert.False(t, e.end.Record.Reset)
	}
	clients.Wait()
	_, err := net.Dial("tcp", srv.Addr().String())
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// retryAfter reads up to the Goodbye of a server that shuts down, and returns the wait in its text; -1 if
// there is none.
func (c *client) retryAfter(t testing.TB) time.Duration {
	t.Helper()
	code, text := c.goodbye(t)
	require.Equal(t, server.ServerShutdown, code)
	ms, text, told := codec.CutRetryAfter(text)
	require.Equal(t, "the server is shutting down", text)
	if !told {
		return -1
	}
	return time.Duration(ms) * time.Millisecond
}

// Nobody is told a wait of the spread or above, and the waits are everywhere below it.
func TestRetrySpread(t *testing.T) {
	t.Parallel()
	const n = 200
	for _, c := range []struct{ spread, most time.Duration }{{10 * time.Second, 10 * time.Second}, {0, n * time.Millisecond}, {-1, -1}} {
		cfg := calm()
		cfg.RetrySpread = c.spread
		h := newRecorder()
		srv := start(t, h, cfg)
		var all []*client
		for range n {
			all = append(all, dial(t, srv))
			h.nextOpen(t)
		}
		drained := make(chan error, 1)
		go func() { drained <- srv.Drain(t.Context()) }()
		var fifths [5]int
		for _, cl := range all {
			wait := cl.retryAfter(t)
			require.NoError(t, cl.Close())
			if c.spread < 0 {
				require.EqualValues(t, -1, wait)
				continue
			}
			require.GreaterOrEqual(t, wait, time.Duration(0))
			require.Less(t, wait, c.most)
			fifths[wait*5/c.most]++
		}
		require.NoError(t, within(t, drained, "the end of Drain"))
		if c.spread >= 0 {
			assert.NotContains(t, fifths, 0, "%v", fifths) // by chance once in 10^18 runs
		}
	}
}

func TestRetrySpreadTooLong(t *testing.T) {
	t.Parallel()
	_, err := server.New(server.Base{}, server.Config{RetrySpread: 8 * 24 * time.Hour})
	assert.EqualError(t, err, "server: Config.RetrySpread: 192h0m0s is longer than 168h0m0s")
}

// Close sends them away as well, those whom it can tell.
func TestCloseTellsWhenToComeBack(t *testing.T) {
	t.Parallel()
	srv, cl, _ := open(t, newRecorder(), calm())
	require.NoError(t, srv.Close())
	assert.EqualValues(t, 0, cl.retryAfter(t), "one session: below a millisecond")
	cl.wasReset(t, nil)
}

// A health endpoint hears of Drain before any session does.
func TestReady(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	fresh, err := server.New(h, calm())
	require.NoError(t, err)
	assert.False(t, fresh.Ready(), "nobody serves")
	require.NoError(t, fresh.Close())
	assert.False(t, fresh.Ready())

	ln := &slowListener{listen(t, "127.0.0.1:0"), make(chan struct{})}
	srv := serveOn(t, h, calm(), ln)
	release := sync.OnceFunc(func() { close(ln.let) })
	t.Cleanup(release)
	assert.True(t, srv.Ready())
	cl := dial(t, srv)
	h.nextOpen(t)
	drained := make(chan error, 1)
	go func() { drained <- srv.Drain(t.Context()) }()
	eventually(t, 10*time.Second, func() bool { return !srv.Ready() }, "Drain has begun")
	assert.Equal(t, 1, srv.Stats().Live)
	assert.Empty(t, drained, "Drain waits for Serve")
	release()
	cl.retryAfter(t)
	assert.False(t, srv.Ready())
	require.NoError(t, cl.Close())
	require.NoError(t, within(t, drained, "the end of Drain"))
	assert.False(t, srv.Ready())
}

// slowListener does not give up Accept before let is closed.
type slowListener struct {
	net.Listener
	let chan struct{}
}

func (l *slowListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		<-l.let
	}
	return nc, err
}

// A server whose last listener has failed accepts nothing more.
func TestReadyWithoutListener(t *testing.T) {
	t.Parallel()
	srv, err := server.New(server.Base{}, calm())
	require.NoError(t, err)
	defer srv.Close()
	ln := listen(t, "127.0.0.1:0")
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	eventually(t, 10*time.Second, srv.Ready, "Serve")
	require.NoError(t, ln.Close())
	require.ErrorIs(t, within(t, served, "the end of Serve"), net.ErrClosed)
	assert.False(t, srv.Ready())
}

// Who is told last is served until then: the batches leave the loop time, and are no faster than
// 1,000 a second.
func TestDrainInBatches(t *testing.T) {
	t.Parallel()
	const n, first = 400, 16
	h := newRecorder()
	srv := start(t, h, calm()) // one loop
	var all []*client
	for range n {
		all = append(all, dial(t, srv))
		h.nextOpen(t)
	}
	begun := time.Now()
	drained := make(chan error, 1)
	go func() { drained <- srv.Drain(context.Background()) }()
	all[0].retryAfter(t)
	served := 0
	for last := all[n-1]; ; served++ {
		_, err := last.Write(frame(codec.Data, nil))
		require.NoError(t, err)
		f, err := last.read()
		require.NoError(t, err)
		if f.Type == codec.Goodbye {
			break
		}
		require.Equal(t, codec.Data, f.Type)
	}
	assert.GreaterOrEqual(t, time.Since(begun), (n-1-first)*time.Millisecond)
	assert.Positive(t, served, "messages of the last one after the first was told")
	for _, cl := range all {
		require.NoError(t, cl.Close())
	}
	require.NoError(t, within(t, drained, "the end of Drain"))
}

func TestDrainOfThoseWhoStay(t *testing.T) { busy.Try(t, testDrainOfThoseWhoStay) }

func testDrainOfThoseWhoStay(t *busy.T) {
	t.Parallel()
	h := newRecorder()
	srv := start(t, h, calm())
	var clients sync.WaitGroup
	var rude []*client
	for i := range 8 {
		cl := dial(t, srv)
		if i < 3 {
			rude = append(rude, cl)
		} else {
			clients.Go(func() { _, _ = cl.beat() })
		}
		h.nextOpen(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err := srv.Drain(ctx)
	assert.GreaterOrEqual(t, time.Since(begun), 200*time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t.IfQuiet(20*time.Millisecond), err, " 3 ")
	clients.Wait()
	for _, cl := range rude {
		code, _ := cl.goodbye(t)
		assert.Equal(t, server.ServerShutdown, code)
		cl.wasReset(t, nil)
	}
	resets := 0
	assert.Len(t, h.closes, 8)
	for range 8 {
		e := h.nextClose(t)
		assert.Equal(t, server.ServerShutdown, e.end.Reason)
		if e.end.Record.Reset {
			resets++
		}
	}
	assert.Equal(t.IfQuiet(20*time.Millisecond), 3, resets)
}

func TestCloseCutsDrainShort(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	srv, cl, _ := open(t, h, calm())
	drained := make(chan error, 1)
	go func() { drained <- srv.Drain(context.Background()) }()
	cl.goodbye(t) // and stays
	select {
	case err := <-drained:
		assert.Fail(t, "Drain does not wait", "%v", err)
	case <-time.After(30 * time.Millisecond):
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, srv.Drain(ctx), context.DeadlineExceeded, "a second Drain has its own patience")
	require.NoError(t, srv.Close())
	err := within(t, drained, "the end of Drain")
	require.ErrorIs(t, err, server.ErrServerClosed)
	assert.ErrorContains(t, err, " 1 ")
	cl.wasReset(t, nil)
	assert.Equal(t, server.ServerShutdown, h.nextClose(t).end.Reason)
}

// Close may be called from a handler, on a goroutine.
func TestCloseFromAHandler(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	closed := make(chan error, 1)
	var srv *server.Server
	ready := make(chan struct{})
	h.onMessage = func(*server.Session, []byte) error {
		<-ready
		go func() { closed <- srv.Close() }()
		return nil
	}
	srv, cl, _ := open(t, h, calm())
	close(ready)
	cl.send(t, codec.Data, nil)
	assert.NoError(t, within(t, closed, "the end of Close"))
	code, _ := cl.goodbye(t)
	assert.Equal(t, server.ServerShutdown, code)
	cl.wasReset(t, nil)
}

// A loop that is held up, with somebody on the way to it, does not keep those on other loops from being told.
func TestDrainBesideABlockedLoop(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Loops = 2
	h := newRecorder()
	srv := start(t, h, cfg)
	var cl [3]*client
	var s [3]*server.Session
	for i := range cl { // on loops 0, 1, 0
		cl[i] = dial(t, srv)
		s[i] = h.nextOpen(t)
	}
	release := hold(t, s[1])
	late := dial(t, srv) // on 1, which has the fewest
	eventually(t, 5*time.Second, func() bool { return srv.Stats().Accepted == 4 }, "it has been accepted")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- srv.Drain(ctx) }()
	for _, i := range []int{0, 2} {
		cl[i].retryAfter(t)
		cl[i].Close()
	}
	assert.EqualValues(t, 3, srv.Stats().Opened, "the loop is still held")
	release()
	for _, c := range []*client{cl[1], late} {
		c.retryAfter(t)
		c.Close()
	}
	require.NoError(t, <-drained)
	assert.EqualValues(t, 4, srv.Stats().Closed)
}

// A Handler that never returns does not keep a Drain beyond its deadline. The sessions of other loops have ended by then.
func TestDrainOfABlockedLoop(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Loops = 2
	h := newRecorder()
	srv := start(t, h, cfg)
	dial(t, srv)
	s := h.nextOpen(t)
	other := dial(t, srv)
	h.nextOpen(t)
	release := hold(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := srv.Drain(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Contains(t, err.Error(), "1 loops are held up by the Handler; their 1 connections ")
	other.retryAfter(t)
	assert.Equal(t, server.ServerShutdown, h.nextClose(t).end.Reason)
	assert.Empty(t, h.closes)
	release()
	e := h.nextClose(t)
	assert.Same(t, s, e.s)
	assert.Equal(t, server.ServerShutdown, e.end.Reason)
	require.NoError(t, srv.Close())
}
