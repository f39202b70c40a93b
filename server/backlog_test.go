package server_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// gauge is a recorder that is told of backlogs.
type gauge struct {
	*recorder
	onHigh, onLow func(s *server.Session)
	told          chan string // "high", "low", in order
}

func newGauge() *gauge { return &gauge{recorder: newRecorder(), told: make(chan string, 1<<16)} }

func (g *gauge) OnBacklogHigh(s *server.Session) {
	g.told <- "high"
	if g.onHigh != nil {
		g.onHigh(s)
	}
}

func (g *gauge) OnBacklogLow(s *server.Session) {
	g.told <- "low"
	if g.onLow != nil {
		g.onLow(s)
	}
}

func (g *gauge) next(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-g.told:
		require.Equal(t, want, got)
	case <-time.After(20 * time.Second):
		require.FailNow(t, "not told "+want)
	}
}

// backlogged is calm, with room for much.
func backlogged() server.Config {
	cfg := calm()
	cfg.BacklogMax = 64 << 20
	return cfg
}

// pile sends until so many bytes wait for a peer that does not read.
func pile(t *testing.T, s *server.Session, send func(p []byte) error, upTo int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); s.Backlog() <= upTo; {
		require.True(t, time.Now().Before(deadline), "only %d of %d bytes wait", s.Backlog(), upTo)
		require.NoError(t, send(make([]byte, 60<<10)))
		onLoop(t, s, func() {}) // it has been written
	}
}

// gaugeOf opens one session on a server that tells g.
func gaugeOf(t *testing.T, g *gauge, cfg server.Config) (*client, *server.Session) {
	t.Helper()
	srv := start(t, g, cfg)
	cl := dial(t, srv)
	require.NoError(t, cl.Conn.(*net.TCPConn).SetReadBuffer(64<<10))
	return cl, g.nextOpen(t)
}

// The marks are told whoever sends, in turn, once for each time that they are crossed.
func TestBacklogMarks(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]func(s *server.Session) func(p []byte) error{
		"Send from another goroutine": func(s *server.Session) func([]byte) error { return s.Send },
		"Send on the loop": func(s *server.Session) func([]byte) error {
			return func(p []byte) (err error) {
				done := make(chan struct{})
				if posted := s.Post(func() { err = s.Send(p); close(done) }); posted != nil {
					return posted
				}
				<-done
				return err
			}
		},
		"Broadcast": func(s *server.Session) func([]byte) error {
			g := &server.Group{}
			_ = g.Join(s)
			return g.Broadcast
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGauge()
			var at []int // Backlog when told; the loop's
			g.onHigh = func(s *server.Session) { at = append(at, s.Backlog()) }
			g.onLow = g.onHigh
			cl, s := gaugeOf(t, g, backlogged())
			send := by(s)
			assert.Zero(t, s.Backlog())
			var read chan struct{}
			for range 3 {
				pile(t, s, send, 64<<10)
				g.next(t, "high")
				pile(t, s, send, 1<<20)
				assert.Empty(t, g.told, "once")
				read = make(chan struct{})
				go func() { // all that comes until nothing does for a while
					defer close(read)
					for {
						_ = cl.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
						if _, err := io.CopyN(io.Discard, cl, 1); err != nil {
							return
						}
						_, _ = io.CopyN(io.Discard, cl, int64(cl.r.Buffered()))
						_, _ = io.CopyN(io.Discard, cl, 64<<10)
					}
				}()
				g.next(t, "low")
				<-read
			}
			eventually(t, 10*time.Second, func() bool { return s.Backlog() == 0 }, "drained")
			assert.Empty(t, g.told)
			onLoop(t, s, func() {
				for i, n := range at {
					if i%2 == 0 {
						assert.Greater(t, n, 64<<10)
					} else {
						assert.LessOrEqual(t, n, 32<<10)
					}
				}
			})
		})
	}
}

// An application that stops at the high mark and goes on at the low one streams any amount to a slow
// reader, with no more waiting than the marks say and what it sends at once.
func TestBacklogPump(t *testing.T) {
	t.Parallel()
	const total, chunk = 48 << 20, 16 << 10
	g := newGauge()
	sent, highest, paused := 0, 0, false // the loop's
	var pump func(s *server.Session)
	pump = func(s *server.Session) {
		if !paused && sent < total {
			assert.NoError(t, s.Send(make([]byte, chunk-codec.HeaderSize)))
			sent += chunk
			_ = s.Post(func() { pump(s) })
		}
	}
	g.onHigh = func(s *server.Session) { paused, highest = true, max(highest, s.Backlog()) }
	g.onLow = func(s *server.Session) { paused = false; pump(s) }
	cl, s := gaugeOf(t, g, calm()) // BacklogMax is 1 MiB
	require.NoError(t, s.Post(func() { pump(s) }))
	g.next(t, "high") // it is slow to begin with
	begun := time.Now()
	n, err := io.CopyN(io.Discard, cl.r, total)
	require.NoError(t, err, "%d bytes", n)
	took := time.Since(begun)
	onLoop(t, s, func() {
		t.Logf("%d MiB in %v, %d times paused, at most %d KiB waited", total>>20, took.Round(time.Millisecond), 1+len(g.told)/2, highest>>10)
		assert.LessOrEqual(t, highest, 64<<10+2*chunk)
	})
}

// The methods may close, and panic; after the end nothing more is told, and nothing waits.
func TestBacklogInside(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]struct {
		f    func(s *server.Session)
		want server.Reason
	}{
		"Close":   {func(s *server.Session) { _ = s.Close(server.AppReason, "too slow for us") }, server.AppReason},
		"reset":   {func(s *server.Session) { _ = s.Close(server.PeerSlow, "too slow for us") }, server.PeerSlow},
		"a panic": {func(*server.Session) { panic("no room") }, server.HandlerFailed},
	} {
		for _, mark := range []string{"high", "low"} {
			t.Run(name+" when it is "+mark, func(t *testing.T) {
				t.Parallel()
				g := newGauge()
				if mark == "high" {
					g.onHigh = act.f
				} else {
					g.onLow = act.f
				}
				cfg := backlogged()
				log := &lines{}
				cfg.Logger = log.logger()
				cl, s := gaugeOf(t, g, cfg)
				for s.Send(make([]byte, 60<<10)) == nil && len(g.told) == 0 {
					onLoopOrGone(s)
				}
				g.next(t, "high")
				go func() { _, _ = io.Copy(io.Discard, cl); cl.Close() }()
				if mark == "low" {
					g.next(t, "low")
				}
				if act.want >= server.ServerClosed { // it waits for the peer
					time.Sleep(20 * time.Millisecond)
					_ = cl.Conn.(*net.TCPConn).CloseWrite()
				}
				assert.Equal(t, act.want, g.nextClose(t).end.Reason)
				assert.Zero(t, s.Backlog())
				assert.Empty(t, g.told)
				if name == "a panic" {
					assert.Len(t, log.with("level=ERROR", "no room", "OnBacklog"), 1)
				}
			})
		}
	}
}

// Between the marks nothing is told; and one that has been closed is told nothing more, however much it was sent before.
func TestBacklogBetweenTheMarks(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	g := newGauge()
	cfg := backlogged()
	cfg.BacklogHigh, cfg.BacklogLow = 16*mib, 2*mib
	cl, s := gaugeOf(t, g, cfg)
	pile(t, s, s.Send, 20*mib)
	g.next(t, "high")
	for s.Backlog() > 12*mib {
		_, err := io.CopyN(io.Discard, cl, 64<<10)
		require.NoError(t, err)
		onLoop(t, s, func() {})
	}
	assert.Greater(t, s.Backlog(), 2*mib)
	time.Sleep(5 * cfg.Tick)
	assert.Empty(t, g.told)
	pile(t, s, s.Send, 18*mib)
	assert.Empty(t, g.told, "it was high all the time")
	go func(cl *client) { _, _ = io.Copy(io.Discard, cl) }(cl)
	g.next(t, "low")

	cl, s = gaugeOf(t, g, cfg)
	onLoop(t, s, func() {
		for range 500 {
			require.NoError(t, s.Send(make([]byte, 60<<10)))
		}
		require.NoError(t, s.Close(server.PeerSlow, ""))
	})
	assert.Positive(t, g.nextClose(t).end.Record.Unsent)
	assert.Empty(t, g.told)
	cl.Close()
}

// onLoopOrGone waits for the loop, if the session is there.
func onLoopOrGone(s *server.Session) {
	ran := make(chan struct{})
	if s.Post(func() { close(ran) }) == nil {
		<-ran
	}
}

// A server whose Handler does not ask is told nothing, and Backlog tells all the same; many sessions can be high at a time.
func TestBacklogOfMany(t *testing.T) {
	t.Parallel()
	const n = 50
	g := newGauge()
	high := atomic.NewInt64(0)
	g.onHigh = func(*server.Session) { high.Inc() }
	g.onLow = func(*server.Session) { high.Dec() }
	srv := start(t, g, backlogged())
	var clients []*client
	var sessions []*server.Session
	for range n {
		cl := dial(t, srv)
		require.NoError(t, cl.Conn.(*net.TCPConn).SetReadBuffer(64<<10))
		clients, sessions = append(clients, cl), append(sessions, g.nextOpen(t))
	}
	group := &server.Group{}
	for _, s := range sessions {
		require.NoError(t, group.Join(s))
	}
	eventually(t, 30*time.Second, func() bool {
		require.NoError(t, group.Broadcast(make([]byte, 60<<10)))
		onLoop(t, sessions[0], func() {})
		return high.Load() == n
	}, "all are high")
	var all sync.WaitGroup
	for i, cl := range clients {
		if i%2 == 0 {
			cl.Close() // these end high
			continue
		}
		all.Go(func() { _, _ = io.Copy(io.Discard, cl) })
	}
	eventually(t, 30*time.Second, func() bool { return high.Load() == n/2 }, "those that read are low")
	require.NoError(t, srv.Close())
	all.Wait()
	assert.EqualValues(t, n/2, high.Load())

	h := newRecorder()
	_, cl, s := open(t, h, backlogged())
	require.NoError(t, cl.Conn.(*net.TCPConn).SetReadBuffer(64<<10))
	pile(t, s, s.Send, 1<<20)
	go func() { _, _ = io.Copy(io.Discard, cl) }()
	eventually(t, 10*time.Second, func() bool { return s.Backlog() == 0 }, "drained")
}
