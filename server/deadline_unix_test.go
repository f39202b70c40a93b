//go:build unix

package server_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

func init() {
	roles["echoers"] = func(args []string) { manyClients(args, echoer) }
	roles["flooders"] = func(args []string) { manyClients(args, flooder) }
}

// manyClients is so many clients in a process of their own, until they have all gone.
func manyClients(args []string, act func(*client)) {
	n, _ := strconv.Atoi(args[1])
	var connected, over sync.WaitGroup
	for range n {
		connected.Add(1)
		over.Go(func() {
			nc, err := net.Dial("tcp", args[0])
			connected.Done()
			if err != nil {
				fmt.Fprintln(os.Stderr, "clients:", err)
				return
			}
			defer nc.Close()
			act(&client{nc, bufio.NewReader(nc)})
		})
	}
	connected.Wait()
	fmt.Println("ready")
	over.Wait()
}

// flooder sends empty messages as fast as it can.
func flooder(c *client) {
	go func() { _, _ = io.Copy(io.Discard, c.r) }()
	for many := bytes.Repeat(frame(codec.Data, nil), 16<<10); ; {
		if _, err := c.Write(many); err != nil {
			return
		}
	}
}

// burns is a Handler that takes a processor for d with each message, and echoes what is not empty.
func burns(d time.Duration) *recorder {
	h := newRecorder()
	h.onMessage = func(s *server.Session, p []byte) error {
		for begun := time.Now(); time.Since(begun) < d; {
		}
		if len(p) == 0 {
			return nil
		}
		return s.Send(p)
	}
	return h
}

// startCrowd starts a process with n clients in that role, and waits until they are sessions.
func startCrowd(t *testing.T, srv *server.Server, in string, n int) {
	t.Helper()
	cmd := role(t, in, srv.Addr().String(), strconv.Itoa(n))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var ready string
	_, err = fmt.Fscan(out, &ready)
	require.NoError(t, err)
	spends(t, 20*time.Second, func() bool { return srv.Stats().Live > n/2 }, "%d sessions", n/2)
}

// cpu is how much of the processors this process has had.
func cpu(t *testing.T) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// spends waits for ok, and fails if it is not so when this process has used so much of the
// processors since: on a machine that gives it little, that takes longer. If the machine gives it
// next to nothing, the test is skipped.
func spends(t *testing.T, used time.Duration, ok func() bool, what string, args ...any) {
	t.Helper()
	began, at := cpu(t), time.Now()
	for !ok() {
		if d := cpu(t) - began; d > used {
			require.FailNow(t, "not "+fmt.Sprintf(what, args...), "after %v, of which the process was running for %v", time.Since(at), d)
		}
		if time.Since(at) > time.Minute {
			t.Skipf("this machine is too busy to tell: in a minute the process was running for %v", cpu(t)-began)
		}
		time.Sleep(time.Millisecond)
	}
}

// keepsDeadlines checks that timers and deadlines of sessions beside what keeps the loop busy are
// not put off without end. They have been put off by ten seconds and more, so two seconds of the
// processor's time are plenty.
func keepsDeadlines(t *testing.T, h *recorder, cfg server.Config, busy func(srv *server.Server)) {
	t.Helper()
	cfg.Loops, cfg.HandshakeTimeout = 1, 2*time.Second
	cfg.Policy.Interval, cfg.Policy.Timeout = time.Second, 3*time.Second
	srv := start(t, h, cfg)
	mute := dial(t, srv)
	muteSession := h.nextOpen(t)
	frozen := dial(t, srv)
	frozen.send(t, codec.Data, []byte("x"))
	frozenSession := h.nextOpen(t)
	began := time.Now()
	busy(srv)
	fired, armed := make(chan struct{}), time.Now()
	frozenSession.After(200*time.Millisecond, func() { close(fired) })
	for _, d := range []struct {
		what string
		done <-chan struct{}
		due  time.Time
	}{
		{"a timer", fired, armed.Add(200 * time.Millisecond)},
		{"a client that says nothing", muteSession.Done(), began.Add(cfg.HandshakeTimeout)},
		{"a frozen client", frozenSession.Done(), began.Add(cfg.Policy.Timeout)},
	} {
		spends(t, max(time.Until(d.due), 0)+2*time.Second, func() bool {
			select {
			case <-d.done:
				return true
			default:
				return false
			}
		}, "told: %s", d.what)
		t.Logf("%s: told %v late", d.what, time.Since(d.due).Round(time.Millisecond))
	}
	mute.Close()
	frozen.Close()
	for len(h.closes) > 0 {
		switch e := <-h.closes; e.s {
		case muteSession:
			assert.Equal(t, server.PeerUnready, e.end.Reason)
		case frozenSession:
			assert.Equal(t, server.PeerFrozen, e.end.Reason)
		}
	}
}

// Timers and deadlines are kept beside clients that never leave the loop without work.
func TestDeadlineBesideBusyClients(t *testing.T) {
	cfg := quick()
	cfg.Policy.Warning = 20 * time.Millisecond // a session that is busy is looked at for the path as often
	keepsDeadlines(t, burns(100*time.Microsecond), cfg, func(srv *server.Server) { startCrowd(t, srv, "echoers", 800) })
}

// So they are beside few that send as much as they can: a read of theirs alone takes a third of a
// second.
func TestDeadlineBesideAFlood(t *testing.T) {
	keepsDeadlines(t, burns(20*time.Microsecond), quick(), func(srv *server.Server) { startCrowd(t, srv, "flooders", 40) })
}

// So are many that are due at once: they have a share of the time, and not of each round of epoll,
// of which this took 600.
func TestDeadlineOfManyTimers(t *testing.T) {
	const timers, each = 3000, 20 * time.Microsecond
	h, cfg := burns(100*time.Microsecond), patient()
	cfg.Loops = 1
	srv, _, s := open(t, h, cfg)
	startCrowd(t, srv, "echoers", 300)
	var fired atomic.Int64
	for range timers {
		s.After(200*time.Millisecond, func() {
			for begun := time.Now(); time.Since(begun) < each; {
			}
			fired.Add(1)
		})
	}
	began := time.Now()
	spends(t, 3*time.Second, func() bool { return fired.Load() == timers }, "fired: %d timers that take %v each", timers, each)
	t.Logf("%d timers have fired within %v", timers, time.Since(began).Round(time.Millisecond))
}

// Who comes in, beside clients that never leave the loop without work, has a share of it too: 8 in
// each round of epoll took seven seconds.
func TestDeadlineOfTheFrontDoor(t *testing.T) {
	const busy, more = 300, 600
	h, cfg := burns(300*time.Microsecond), patient()
	cfg.Loops = 1
	srv := start(t, h, cfg)
	startCrowd(t, srv, "echoers", busy)
	startHerd(t, srv.Addr(), more)
	began := time.Now()
	spends(t, 4*time.Second, func() bool { return srv.Stats().Live >= busy+more }, "%d more sessions", more)
	t.Logf("%d sessions have come in within %v", more, time.Since(began).Round(time.Millisecond))
}

// A Drain tells its sessions in the first quarter of its time also beside clients that never leave
// the loop without work.
func TestDeadlineOfADrain(t *testing.T) {
	const busy, more, deadline = 300, 600, 6 * time.Second
	h, cfg := burns(300*time.Microsecond), patient()
	cfg.Loops, cfg.CloseTimeout = 1, time.Minute
	srv := start(t, h, cfg)
	f := startHerd(t, srv.Addr(), more)
	spends(t, 4*time.Second, func() bool { return srv.Stats().Live >= more }, "the idle sessions")
	startCrowd(t, srv, "echoers", busy)
	f.act("wait")
	began, used := time.Now(), cpu(t)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	err := srv.Drain(ctx)
	t.Logf("Drain returned after %v: %v", time.Since(began).Round(time.Millisecond), err)
	if used = cpu(t) - used; err != nil && used < deadline/2 {
		t.Skipf("this machine is too busy to tell: in %v the process was running for %v", deadline, used)
	}
	require.NoError(t, err)
}
