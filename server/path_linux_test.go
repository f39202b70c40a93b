package server_test

import (
	"bufio"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

// far serves h to clients that are a leg away.
func far(t testing.TB, h *recorder, cfg server.Config) (*server.Server, *netlab.Leg) {
	t.Helper()
	lab, err := netlab.New(1)
	if err != nil {
		t.Skipf("no network to break: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, lab.Close()) })
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	return serveOn(t, h, cfg, ln), lab.Leg(0)
}

// dialFar is dial, from the leg's far end.
func dialFar(t testing.TB, srv *server.Server, leg *netlab.Leg) *client {
	t.Helper()
	nc, err := leg.Dial(srv.Addr().(*net.TCPAddr).Port)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	return &client{nc, bufio.NewReader(nc)}
}

// streamTo sends to s once in every period until the test or the session ends.
func streamTo(t testing.TB, s *server.Session, every time.Duration) {
	var done sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); done.Wait() })
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(every):
				if s.Send(make([]byte, 100)) != nil {
					return
				}
			}
		}
	})
}

// A peer that is sent to is suspect within a second of the cut, however long its interval is, one that is not
// is not; when the cable is plugged in again it recovers.
func TestCableWarning(t *testing.T) { busy.Try(t, testCableWarning) }

func testCableWarning(t *busy.T) {
	t.Parallel()
	cfg := calm()
	cfg.Policy = heartbeat.Policy{Interval: time.Minute}
	cfg.Tick = 100 * time.Millisecond
	h := newRecorder()
	why := make(chan server.Suspicion, 1)
	h.onSuspect = func(s *server.Session) { why <- s.Suspicion() }
	srv, leg := far(t, h, cfg)
	join := func() *server.Session {
		c := dialFar(t, srv, leg)
		go func() { _, _ = c.beat() }()
		return h.nextOpen(t)
	}
	streamed, idle, unwarned := join(), join(), join()
	require.NoError(t, unwarned.SetPolicy(heartbeat.Policy{Interval: time.Minute, Warning: -1}))
	for _, s := range []*server.Session{streamed, unwarned} {
		streamTo(t, s, 50*time.Millisecond)
	}
	for round := range 2 {
		time.Sleep(1500 * time.Millisecond) // until the kernel's round trip has come down again
		cut, err := leg.Cut()
		require.NoError(t, err)
		assert.Equal(t, server.SuspectPath, <-why)
		took := time.Since(cut)
		t.Logf("suspect %v after the cut", took.Round(time.Millisecond))
		t.NotLater(cut, cut.Add(took), time.Second+slack, "the warning")
		time.Sleep(500 * time.Millisecond)
		assert.Equal(t, 1, srv.Stats().Suspect)
		assert.Zero(t, idle.Suspicion())
		assert.Zero(t, unwarned.Suspicion())
		require.NoError(t, leg.Mend())
		eventually(t, 20*time.Second, func() bool { return streamed.Suspicion() == 0 }, "recovered")
		st := srv.Stats()
		assert.EqualValues(t, round+1, st.Warned)
		assert.EqualValues(t, round+1, st.Suspected)
		assert.EqualValues(t, round+1, st.Recovered)
		assert.Zero(t, st.Suspect)
	}
}

// What counts is for how long the oldest byte has been on its way, not when the watch began or when
// anything came last: on a healthy path nobody is suspect, however seldom or irregularly it is sent to, and also not
// when the loop has been away.
func TestHealthyPathIsNotSuspect(t *testing.T) { busy.Try(t, testHealthyPathIsNotSuspect) }

func testHealthyPathIsNotSuspect(t *busy.T) {
	t.Parallel()
	cfg := calm()
	cfg.Tick = 100 * time.Millisecond
	h := newRecorder()
	srv, leg := far(t, h, cfg)
	require.NoError(t, leg.Relay(netlab.Shape{Delay: 45 * time.Millisecond, Jitter: 10 * time.Millisecond, Seed: 3}))
	for period := 20 * time.Millisecond; period < 1500*time.Millisecond; period += 20 * time.Millisecond {
		c := dialFar(t, srv, leg)
		go func() { _, _ = c.beat() }()
		streamTo(t, h.nextOpen(t), period)
	}
	time.Sleep(3 * time.Second)
	for s := range srv.Sessions() {
		stall(t, s, 1500*time.Millisecond)
		break
	}
	time.Sleep(5 * time.Second)
	assert.Zero(t.IfQuiet(100*time.Millisecond), srv.Stats().Suspected)
}

// A Ping that is lost is no warning: an idle client becomes suspect at Interval, not before.
func TestCableIdle(t *testing.T) { busy.Try(t, testCableIdle) }

func testCableIdle(t *busy.T) {
	t.Parallel()
	cfg := calm()
	cfg.Policy = heartbeat.Policy{Interval: 3 * time.Second, Timeout: 6 * time.Second}
	h := newRecorder()
	why := make(chan server.Suspicion, 1)
	h.onSuspect = func(s *server.Session) { why <- s.Suspicion() }
	h.onMessage = func(*server.Session, []byte) error { return nil }
	srv, leg := far(t, h, cfg)
	c := dialFar(t, srv, leg)
	go func() { _, _ = c.beat() }()
	s := h.nextOpen(t)
	said := time.Now()
	c.send(t, 1, []byte("hello"))
	cut, err := leg.Cut()
	require.NoError(t, err)
	assert.Equal(t, server.SuspectSilence, <-why)
	took := time.Since(said)
	assert.GreaterOrEqual(t, took, cfg.Policy.Interval-jiffy)
	t.NotLater(said, said.Add(took), cfg.Policy.Interval+2*cfg.Tick+slack, "the suspicion")
	e := h.nextClose(t)
	assert.Equal(t, server.PathDead, e.end.Reason, "%v", e.end.Record.TCP)
	t.NotLater(cut, e.at, cfg.Policy.Timeout+2*cfg.Tick+slack, "the verdict")
	assert.Equal(t, server.SuspectSilence, s.Suspicion())
	assert.Positive(t, e.end.Record.TCP.Retransmits)
}

// On a path that loses every fifth packet, a process that is frozen is still told from a path that is
// dead: its kernel answers, if not always at once. Where nothing at all has come back for long (every
// packet of that one was lost), nobody could tell.
func TestFrozenOnALossyPath(t *testing.T) { busy.Try(t, testFrozenOnALossyPath) }

func testFrozenOnALossyPath(t *busy.T) {
	t.Parallel()
	const clients = 60
	cfg := calm()
	cfg.Policy = heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second}
	cfg.WriteTimeout = 20 * time.Second
	h := newRecorder()
	srv, leg := far(t, h, cfg)
	told := atomic.NewInt64(0)
	h.onClose = func(_ *server.Session, end *server.CloseError) {
		if end.Record.TCP.Retransmits > 0 {
			told.Inc()
		}
	}
	for i := range clients {
		dialFar(t, srv, leg) // it says nothing and answers nothing; its kernel does
		s := h.nextOpen(t)
		if i%2 == 0 {
			streamTo(t, s, 50*time.Millisecond)
		}
	}
	require.NoError(t, leg.Relay(netlab.Shape{Delay: 10 * time.Millisecond, Loss: 0.2, Seed: 7}))
	blind := 0
	for range clients {
		e := h.nextClose(t)
		r := e.end.Record
		if e.end.Reason != server.PeerFrozen && r.TCP.LastAckRecv > time.Second {
			blind++
			continue
		}
		if e.end.Reason == server.HeartbeatLost { // the relay, too, may lose some for want of time
			assert.Fail(t.IfQuiet(slack), "unknown", "%v; %+v", e.end, r.TCP)
			continue
		}
		assert.Equal(t, server.PeerFrozen, e.end.Reason, "%v; %+v", e.end, r.TCP)
	}
	t.Logf("%d of %d were told while the kernel sent something again; of %d nothing had come back", told.Load(), clients, blind)
	assert.Less(t.IfQuiet(slack), blind, clients/4)
}

// While the server goes on sending, the kernel puts retransmissions off for as long as its window is
// open, which is long after a burst. A cut is told as what it is all the same, and not as a slow peer.
func TestCableUnderAStreamAfterABurst(t *testing.T) { busy.Try(t, testCableUnderAStreamAfterABurst) }

func testCableUnderAStreamAfterABurst(t *busy.T) {
	t.Parallel()
	const n = 8
	cfg := calm()
	cfg.Policy = heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second}
	cfg.WriteTimeout = 3 * time.Second
	h := newRecorder()
	srv, leg := far(t, h, cfg)
	require.NoError(t, leg.Relay(netlab.Shape{Delay: 20 * time.Millisecond}))
	for range n {
		c := dialFar(t, srv, leg)
		go func() { _, _ = c.beat() }()
		s := h.nextOpen(t)
		for range 10 {
			require.NoError(t, s.Send(make([]byte, 50000)))
		}
		streamTo(t, s, 33*time.Millisecond)
	}
	time.Sleep(3 * time.Second)
	cut, err := leg.Cut()
	require.NoError(t, err)
	putOff := 0
	for range n {
		e := h.nextClose(t)
		assert.Equal(t, server.PathDead, e.end.Reason, "%v; %+v", e.end, e.end.Record.TCP)
		assert.NotZero(t, e.s.Suspicion())
		t.NotLater(cut, e.at, cfg.Policy.Timeout+2*cfg.Tick+slack, "the verdict")
		if e.end.Record.TCP.Retransmits == 0 {
			putOff++
		}
	}
	t.Logf("of %d, %d had nothing sent again when they were told", n, putOff)
}

// A game that answers in its next frame has acknowledged the Ping before; the cable is cut in between.
// That is a dead path and no frozen process.
func TestCableBetweenAckAndPong(t *testing.T) { busy.Try(t, testCableBetweenAckAndPong) }

func testCableBetweenAckAndPong(t *busy.T) {
	t.Parallel()
	cfg := calm()
	cfg.Policy = heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second}
	h := newRecorder()
	srv, leg := far(t, h, cfg)
	c := dialFar(t, srv, leg)
	h.nextOpen(t)
	c.readUntil(t, codec.Ping)
	asked := time.Now()
	time.Sleep(100 * time.Millisecond) // more than the longest that Linux delays an acknowledgement for on a live connection, 40 ms
	_, err := leg.Cut()
	require.NoError(t, err)
	t.NotLater(asked, time.Now(), cfg.Policy.Interval/5, "the cut") // the next Ping must not arrive
	e := h.nextClose(t)
	if !t.Unsure() {
		assert.Equal(t, server.PathDead, e.end.Reason, "%v; %+v", e.end, e.end.Record.TCP)
	}
}

// The round trip is the path's: a loop that came to read the Pong late does not make it longer.
func TestRTTWithoutTheLoopsDelay(t *testing.T) { busy.Try(t, testRTTWithoutTheLoopsDelay) }

func testRTTWithoutTheLoopsDelay(t *busy.T) {
	t.Parallel()
	cfg := calm()
	cfg.Policy = heartbeat.Policy{Interval: time.Second, Timeout: 30 * time.Second}
	_, c, s := open(t, newRecorder(), cfg)
	ping := c.readUntil(t, codec.Ping)
	stall(t, s, 800*time.Millisecond)
	c.send(t, codec.Pong, ping.Payload)
	eventually(t, 5*time.Second, func() bool { return s.RTT() > 0 }, "a round trip")
	assert.Less(t.IfQuiet(slack), s.RTT(), 300*time.Millisecond)
}

// TestCableUnderAHeldUpPing: where the stream is so heavy that the Ping is held up behind it, what holds it up
// is the question, and the path is dead, not the peer frozen.
func TestCableUnderAHeldUpPing(t *testing.T) {
	const n = 8
	cfg := calm()
	cfg.Policy = heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second}
	cfg.WriteTimeout = 10 * time.Second
	h := newRecorder()
	srv, leg := far(t, h, cfg)
	stop := make(chan struct{})
	var done sync.WaitGroup
	defer func() { close(stop); done.Wait() }()
	for range n {
		c := dialFar(t, srv, leg)
		go func() { _, _ = c.beat() }()
		s := h.nextOpen(t)
		done.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					if s.Send(make([]byte, 2000)) != nil {
						return
					}
				}
			}
		})
	}
	time.Sleep(6 * time.Second) // longer than what is twice as long as any Ping is held up for
	_, err := leg.Cut()
	require.NoError(t, err)
	for range n {
		e := h.nextClose(t)
		assert.Equal(t, server.PathDead, e.end.Reason, "%v; %v", e.end, e.end.Record)
	}
}
