//go:build unix

package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// Ten thousand idle sessions cost no goroutine, and ten thousand that the server ends politely, and
// a thousand that say Goodbye themselves, leave no TIME_WAIT on the server's port.
func TestTenThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("10,000 connections; not with -short")
	}
	// The count must be able to fail: where the server closes first, TIME_WAIT is the server's.
	eventually(t, 5*time.Second, func() bool { return timeWaits(t, closesFirst(t, 20)) == 20 }, "the control group")

	h := newRecorder()
	srv := startOn(t, h, server.Config{Loops: 2}, "127.0.77.1:0")
	dial(t, srv).Close() // so that everything that starts once has started
	h.nextClose(t)
	before := len(ourGoroutines())

	n := affordable(t, 10000)
	f := startHerd(t, srv.Addr(), n)
	eventually(t, 20*time.Second, func() bool { return srv.Stats().Live == n }, "%d live sessions", n)
	all := runtime.NumGoroutine()
	added := len(ourGoroutines()) - before
	t.Logf("%d idle sessions: %d goroutines added (%d more are idle workers of gnet's pool, which last 10 s)", n, added, all-before-added-1)
	assert.Zero(t, added)

	f.act("wait")
	begun := time.Now()
	for s := range srv.Sessions() {
		require.NoError(t, s.Close(server.ServerClosed, "that was all"))
	}
	eventually(t, 30*time.Second, func() bool { return srv.Stats().Conns == 0 }, "all closed")
	t.Logf("%d sessions ended politely in %v", n, time.Since(begun).Round(time.Millisecond))
	assert.Equal(t, n, f.goodbyes(t), "every client was told")
	assert.Equal(t, uint64(n), srv.Stats().Reasons[server.ServerClosed])
	assert.Zero(t, timeWaits(t, srv.Addr()), "TIME_WAIT on the server's port")

	f = startHerd(t, srv.Addr(), 1000)
	eventually(t, 20*time.Second, func() bool { return srv.Stats().Live == 1000 }, "1000 live sessions")
	f.act("goodbye")
	eventually(t, 20*time.Second, func() bool { return srv.Stats().Conns == 0 }, "all closed")
	f.goodbyes(t)
	assert.Equal(t, uint64(1000), srv.Stats().Reasons[server.PeerGoodbye], "%v", srv.Stats())
	n = timeWaits(t, srv.Addr())
	t.Logf("TIME_WAIT on the server's port, after 10,000 polite ends and 1,000 Goodbyes of clients: %d", n)
	assert.Zero(t, n, "TIME_WAIT on the server's port")
}

// closesFirst is a server that does it wrong: it closes n connections before its clients do. It
// returns its address.
func closesFirst(t *testing.T, n int) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.77.2:0")
	require.NoError(t, err)
	defer ln.Close()
	for range n {
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		s, err := ln.Accept()
		require.NoError(t, err)
		s.Close()
		_, _ = c.Read(make([]byte, 1))
		c.Close()
	}
	return ln.Addr()
}

// One of two loops is blocked by its handler: the other goes on, and the front door stays open.
func TestBlockedLoop(t *testing.T) { busy.Try(t, testBlockedLoop) }

func testBlockedLoop(t *busy.T) {
	const block = 3 * time.Second
	h := newRecorder()
	srv := start(t, h, server.Config{Loops: 2})
	victim := dial(t, srv)
	s := h.nextOpen(t)
	blocked := make(chan struct{})
	require.NoError(t, s.Post(func() { close(blocked); time.Sleep(block) }))
	<-blocked
	begun := time.Now()
	var served, late int
	var worst time.Duration
	var waiting []*client
	for time.Since(begun) < block-500*time.Millisecond {
		c := dial(t, srv)
		at := time.Now()
		require.NoError(t, c.SetReadDeadline(at.Add(200*time.Millisecond)))
		_, err := c.Write(frame(1, []byte("hello")))
		require.NoError(t, err)
		if _, err := c.read(); err != nil {
			late++
			waiting = append(waiting, c)
			continue
		}
		worst = max(worst, time.Since(at))
		served++
		c.Close()
	}
	t.Logf("while one loop of two was blocked for %v: %d connects served (slowest %v), %d waited for the blocked loop", block, served, worst, late)
	assert.Greater(t.IfQuiet(slack), served, 100)
	assert.LessOrEqual(t.IfQuiet(slack), late, 2, "only those that were placed there before it was known to be stuck")
	for _, c := range append(waiting, victim) {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		if c == victim {
			c.echoes(t)
			continue
		}
		_, err := c.read() // nothing is lost, only late
		require.NoError(t, err)
	}
	assert.Zero(t, srv.Stats().Reasons[server.PeerFrozen])
}

// A loop is woken only when something is due. What an idle server costs is printed.
func TestIdleServerSleeps(t *testing.T) { busy.Try(t, testIdleServerSleeps) }

func testIdleServerSleeps(t *busy.T) {
	if _, err := os.Stat("/proc/self/task"); err != nil {
		t.Skip("context switches are read from /proc/self/task, which this system does not have")
	}
	const sessions, period = 1000, 2500 * time.Millisecond
	for _, tick := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond} {
		for _, policy := range []heartbeat.Policy{
			{Interval: 5 * time.Second, Timeout: 15 * time.Second},
			{Interval: time.Hour, Timeout: 3 * time.Hour},
		} {
			h := newRecorder()
			cfg := server.Config{Policy: policy, Tick: tick, Loops: 2, HandshakeTimeout: time.Hour}
			srv := start(t, h, cfg)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("tick %v, timeout %v: %v", tick, policy.Timeout, srv.Stats())
				}
			})
			f := startHerd(t, srv.Addr(), sessions)
			eventually(t, 10*time.Second, func() bool { return srv.Stats().Live == sessions }, "live")
			settle := 200 * time.Millisecond
			if policy.Interval < time.Minute {
				settle = policy.Interval // until every session has been asked once, and beats at its own time
			}
			time.Sleep(settle)
			wakes, switches := srv.Stats().Wakes, contextSwitches(t)
			time.Sleep(period)
			wakes, switches = srv.Stats().Wakes-wakes, contextSwitches(t)-switches
			per := func(n uint64) float64 { return float64(n) / period.Seconds() }
			t.Logf("%d idle sessions, timeout %v, tick %v: %.0f context switches/s, %.1f wakes of loops/s (%.0f ticks/s)",
				sessions, policy.Timeout, tick, per(switches), per(wakes), float64(time.Second/tick))
			if policy.Interval > time.Minute {
				assert.Zero(t, wakes, "nothing was due")
			} else {
				assert.NotZero(t, wakes, "Pings were due")
			}
			// One for each loop and tick, and another for each half millisecond that its Pings take.
			assert.LessOrEqual(t.IfQuiet(slack), per(wakes), 3*2*float64(time.Second/tick), "wakes")
			require.NoError(t, srv.Close())
			f.act("wait")
			f.goodbyes(t)
		}
	}
}

// contextSwitches sums voluntary and involuntary switches of all threads of this process.
func contextSwitches(t testing.TB) uint64 {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	sum := uint64(0)
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			continue // the thread is gone
		}
		for line := range strings.Lines(string(b)) {
			var n uint64
			if strings.Contains(line, "ctxt_switches") {
				_, _ = fmt.Sscan(line[strings.Index(line, ":")+1:], &n)
				sum += n
			}
		}
	}
	return sum
}

// A Handler that is slow, with a whole read full of messages to be delivered to it, does not hold up the end: what has not
// been delivered by then is not.
func TestEndBesideASlowHandler(t *testing.T) {
	const messages, each = 10_000, 2 * time.Millisecond // 20 s
	for name, end := range map[string]func(srv *server.Server) error{
		"Close": (*server.Server).Close,
		"Drain": func(srv *server.Server) error {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			if err := srv.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("not a missed deadline: %w", err)
			}
			return nil
		},
	} {
		t.Run(name, busy.Test(func(t *busy.T) {
			t.Parallel()
			h := newRecorder()
			begun := make(chan struct{}, messages)
			h.onMessage = func(*server.Session, []byte) error {
				begun <- struct{}{}
				time.Sleep(each)
				return nil
			}
			srv, cl, _ := open(t, h, calm())
			_, err := cl.Write(bytes.Repeat(frame(codec.Data, []byte("x")), messages))
			require.NoError(t, err)
			<-begun
			at := time.Now()
			require.NoError(t, end(srv))
			t.NotLater(at, time.Now(), messages*each/2, "the end")
			e := h.nextClose(t)
			assert.Equal(t, server.ServerShutdown, e.end.Reason)
			assert.Less(t, len(begun), messages/2)
		}))
	}
}
