//go:build unix

package bench

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

var stopFor = flag.Duration("stalled.stop", 15*time.Second, "how long TestServerStopped stops the server")

// hasty is a policy whose every deadline passes several times over while the server is away.
var hasty = heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second}

func init() { roles["server"] = serverRole }

// serverSpec is what a process that is a server is told.
type serverSpec struct {
	Policy heartbeat.Policy
	Tick   time.Duration
	Loops  int
	Echo   bool // else it says nothing
	Steady bool // its sessions are judged without jitter
}

// serverStats are the figures that such a process tells.
type serverStats struct {
	Opened, Closed, Suspected, Recovered uint64
	Reasons                              string
}

// echoer sends messages back.
type echoer struct{ server.Base }

func (echoer) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

// steady judges as the policy would if all sessions were the same one.
type steady struct{}

func (steady) Judge(e heartbeat.Evidence) (heartbeat.Verdict, time.Duration) {
	e.Seed = 0
	return e.Policy.Judge(e)
}

// serverRole is a process that is a server. It says its address, and then answers: "stats" with its
// figures; "world" and a number with how long it has stopped the world of its goroutines, by having
// so many of them.
func serverRole(args []string) {
	var spec serverSpec
	fatal(json.Unmarshal([]byte(args[0]), &spec))
	cfg := server.Config{Policy: spec.Policy, Tick: spec.Tick, Loops: spec.Loops, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if spec.Steady {
		cfg.Judge = steady{}
	}
	var h server.Handler = server.Base{}
	if spec.Echo {
		h = echoer{}
	}
	srv, err := server.New(h, cfg)
	fatal(err)
	ln, err := server.Listen("127.0.0.1:0")
	fatal(err)
	go func() { fatal(srv.Serve(ln)) }()
	out := json.NewEncoder(os.Stdout)
	fatal(out.Encode(ln.Addr().String()))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var n int
		if in.Text() == "stats" {
			st := srv.Stats()
			fatal(out.Encode(serverStats{st.Opened, st.Closed, st.Suspected, st.Recovered, fmt.Sprint(st.Reasons)}))
		} else if _, err := fmt.Sscanf(in.Text(), "world %d", &n); err == nil {
			fatal(out.Encode(stopTheWorld(n)))
		} else {
			fatal(fmt.Errorf("what is %q?", in.Text()))
		}
	}
	os.Exit(0) // its sessions need no good order
}

// stopTheWorld has the runtime stop every goroutine while it writes the stacks of n that are deep, and
// returns how long that was.
func stopTheWorld(n int) time.Duration {
	hold := make(chan struct{})
	var all, deep sync.WaitGroup
	for range n {
		deep.Add(1)
		all.Go(func() { descend(100, &deep, hold) })
	}
	deep.Wait()
	begun := time.Now()
	runtime.Stack(make([]byte, 1), true)
	took := time.Since(begun)
	close(hold)
	all.Wait()
	return took
}

//go:noinline
func descend(depth int, deep *sync.WaitGroup, hold chan struct{}) {
	if depth == 0 {
		deep.Done()
		<-hold
		return
	}
	descend(depth-1, deep, hold)
}

// startServer starts a server process and returns its address.
func startServer(t testing.TB, spec serverSpec, env ...string) (srv *child, addr string) {
	t.Helper()
	b, err := json.Marshal(spec)
	require.NoError(t, err)
	cmd := role(t, "server", string(b))
	cmd.Env = append(cmd.Env, env...)
	srv = spawn(t, cmd, &addr)
	return srv, addr
}

func (c *child) stats(t testing.TB) (st serverStats) {
	t.Helper()
	c.ask(t, "stats", &st)
	return st
}

// A flock is what a server that goes away must not lose: sheep that talk, and sheep that only answer
// Pings.
type flock struct {
	talking, listening *herd
	held               *heldUp
}

func newFlock(t testing.TB, addr string, talking, listening int, every time.Duration) *flock {
	t.Helper()
	f := &flock{inThisProcess(t, talking, addr), inThisProcess(t, listening, addr), watchHeldUp()}
	t.Cleanup(f.held.stop)
	f.talking.talk(every)
	return f
}

// untouched checks that no connection has ended.
func (f *flock) untouched(t testing.TB, when string) {
	t.Helper()
	assert.Empty(t, f.talking.gone(), "those that talk, %s", when)
	assert.Empty(t, f.listening.gone(), "those that only answer Pings, %s", when)
}

// waiting counts the messages that have been sent and have not come back.
func (f *flock) waiting() int {
	sent, echoed := f.talking.echoes()
	return int(sent - echoed)
}

// caughtUp waits until every message that has been sent by now has come back, and returns how long that
// took.
func (f *flock) caughtUp(t testing.TB) time.Duration {
	t.Helper()
	begun := time.Now()
	sent := make([]uint64, len(f.talking.sheep))
	for i, s := range f.talking.sheep {
		sent[i] = s.sent.Load()
	}
	eventually(t, 30*time.Second, func() bool {
		for i, s := range f.talking.sheep {
			if s.echoed.Load() < sent[i] {
				return false
			}
		}
		return true
	}, "the backlog answered: %v", f.talking.gone())
	return time.Since(begun)
}

// complete has the talking end, checks that every message came back, and says so.
func (f *flock) complete(t testing.TB) string {
	t.Helper()
	f.talking.hush()
	f.caughtUp(t)
	sent, echoed := f.talking.echoes()
	assert.Equal(t, sent, echoed, "messages lost")
	return fmt.Sprintf("%d messages, %d lost", sent, sent-echoed)
}

// notSuspect checks that nobody was suspected, unless this machine let this process wait for so
// long that a client could not answer in the quarter of an interval that it is given.
func (f *flock) notSuspect(t testing.TB, st serverStats, p heartbeat.Policy, held time.Duration) {
	t.Helper()
	if p = p.OrDefault(); held < p.Interval/4 {
		assert.Zero(t, st.Suspected, "suspicions")
	}
}

// A server that is stopped for several timeouts convicts nobody for it: not those whose messages
// wait in its kernel, and not those who would have answered if they had been asked. Nor is a message
// lost, and nobody is even suspected.
func TestServerStopped(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]heartbeat.Policy{"hasty": hasty, "default": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			serverStopped(t, policy)
		})
	}
}

func serverStopped(t testing.TB, policy heartbeat.Policy) {
	const talking, listening, every = 1000, 200, 500 * time.Millisecond
	p := policy.OrDefault()
	srv, addr := startServer(t, serverSpec{Policy: policy, Loops: 2, Echo: true})
	f := newFlock(t, addr, talking, listening, every)
	time.Sleep(p.Interval) // everybody has been asked
	f.untouched(t, "before")

	require.NoError(t, srv.cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(*stopFor)
	f.untouched(t, "while the server was stopped")
	held, waiting := f.held.total(), f.waiting()
	require.NoError(t, srv.cmd.Process.Signal(syscall.SIGCONT))
	took := f.caughtUp(t)
	assert.Greater(t, waiting, talking*int(*stopFor/every)*3/4, "the server was not stopped")
	// Whoever was asked wrongly, or was not heard, would be convicted Timeout - Interval after the first
	// Ping that followed.
	time.Sleep(p.Timeout - p.Interval + 2*time.Second)
	f.untouched(t, "after")
	held = f.held.total() - held
	messages := f.complete(t)
	st := srv.stats(t)
	t.Logf("interval %v, timeout %v, stopped for %v: %d sessions, %d ended, %d suspected; %s; the %d that waited were answered %v after SIGCONT (this process was held up for %v)",
		p.Interval, p.Timeout, *stopFor, st.Opened, st.Closed, st.Suspected, messages, waiting, took.Round(time.Millisecond), held.Round(time.Millisecond))
	assert.Equal(t, uint64(talking+listening), st.Opened)
	assert.Zero(t, st.Closed, st.Reasons)
	f.notSuspect(t, st, policy, held)
}

// blocker echoes, and blocks its loop when it is told to.
type blocker struct {
	server.Base
	block time.Duration
	begun chan struct{}
}

func (h blocker) OnMessage(s *server.Session, p []byte) error {
	if string(p) == "block" {
		h.begun <- struct{}{}
		time.Sleep(h.block)
		return nil
	}
	return s.Send(p)
}

// A handler that blocks its loop for longer than the timeout costs its sessions time, and nothing
// else; those of another loop not even that.
func TestHandlerBlocks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		loops, blocked int
	}{{"one loop", 1, 1}, {"one of two loops", 2, 1}, {"both loops", 2, 2}} {
		t.Run(c.name, busy.Test(func(t *busy.T) {
			t.Parallel()
			handlerBlocks(t, c.loops, c.blocked)
		}))
	}
}

func handlerBlocks(t *busy.T, loops, blocked int) {
	const talking, listening, every, block = 1000, 200, time.Second, 5 * time.Second
	h := blocker{block: block, begun: make(chan struct{}, loops)}
	srv, addr := serve(t, h, server.Config{Policy: hasty, Loops: loops})
	f := newFlock(t, addr, talking, listening, every)
	time.Sleep(hasty.Interval)
	f.untouched(t, "before")
	for n := range blocked {
		s := f.talking.sheep[0]
		if n > 0 { // somebody who is still served
			s = f.served(t)
		}
		_, err := s.Write(frame(codec.Data, []byte("block")))
		require.NoError(t, err)
		<-h.begun
	}
	held := f.held.total()
	time.Sleep(block - every/2)
	f.untouched(t, "while the handler blocked")
	time.Sleep(every / 2)
	took := f.caughtUp(t)
	time.Sleep(hasty.Timeout - hasty.Interval + 2*time.Second)
	f.untouched(t, "after")
	held = f.held.total() - held
	messages := f.complete(t)
	var waited int
	var slowest time.Duration // of those that were not held up
	for _, s := range f.talking.sheep {
		if slow := time.Duration(s.slow.Load()); slow > block-every-every/2 {
			waited++
		} else {
			slowest = max(slowest, slow)
		}
	}
	st := srv.Stats()
	t.Logf("%d of %d loops blocked for %v, timeout %v: %d sessions, %d ended, %d suspected; %s; %d sessions waited for it, the others for %v at most; all were answered %v after it at the latest (this process was held up for %v)",
		blocked, loops, block, hasty.Timeout, st.Opened, st.Closed, st.Suspected, messages, waited,
		slowest.Round(time.Millisecond), took.Round(time.Millisecond), held.Round(time.Millisecond))
	assert.Equal(t, uint64(talking+listening), st.Opened)
	assert.Zero(t, st.Closed, "%v", st.Reasons)
	assert.InDelta(t.IfQuiet(20*time.Millisecond), talking*blocked/loops, waited, talking/20, "sessions that waited")
	if blocked < loops {
		assert.Less(t.IfQuiet(20*time.Millisecond), slowest, time.Second+held, "the other loop")
	}
	f.notSuspect(t, serverStats{Suspected: st.Suspected}, hasty, held)
}

// served returns a sheep whose messages come back.
func (f *flock) served(t testing.TB) (served *sheep) {
	t.Helper()
	before := make([]uint64, len(f.talking.sheep))
	for i, s := range f.talking.sheep {
		before[i] = s.echoed.Load()
	}
	eventually(t, 10*time.Second, func() bool {
		for i, s := range f.talking.sheep {
			if s.echoed.Load() > before[i]+1 { // one may have been on its way
				served = s
				return true
			}
		}
		return false
	}, "somebody is served")
	return served
}

// serve serves h on a loopback port until the test ends.
func serve(t testing.TB, h server.Handler, cfg server.Config) (*server.Server, string) {
	t.Helper()
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	return serveOn(t, h, cfg, ln), ln.Addr().String()
}

// The garbage collector, a debugger, or a dump of all stacks may stop all goroutines of a process
// for long: timers too, unlike when a loop alone is stuck. With one processor there is nothing else
// to run them.
func TestWorldStopped(t *testing.T) {
	t.Parallel()
	policy := heartbeat.Policy{Interval: 250 * time.Millisecond, Timeout: 750 * time.Millisecond}
	const talking, listening, every = 200, 100, 100 * time.Millisecond
	srv, addr := startServer(t, serverSpec{Policy: policy, Loops: 2, Echo: true}, "GOMAXPROCS=1")
	f := newFlock(t, addr, talking, listening, every)
	time.Sleep(policy.Timeout)
	f.untouched(t, "before")
	held := f.held.total()
	var stops []string
	for n := 1000; ; n *= 2 {
		var stop time.Duration
		srv.ask(t, fmt.Sprint("world ", n), &stop)
		stops = append(stops, stop.Round(time.Millisecond).String())
		f.untouched(t, "after a stop of "+stop.String())
		if stop > 2*policy.Timeout {
			break
		}
	}
	f.caughtUp(t)
	time.Sleep(2 * policy.Timeout)
	f.untouched(t, "after")
	held = f.held.total() - held
	messages := f.complete(t)
	var slowest time.Duration
	for _, s := range f.talking.sheep {
		slowest = max(slowest, time.Duration(s.slow.Load()))
	}
	st := srv.stats(t)
	t.Logf("timeout %v, the world stopped for %s: %d sessions, %d ended, %d suspected; %s, the slowest took %v (this process was held up for %v)",
		policy.Timeout, strings.Join(stops, ", "), st.Opened, st.Closed, st.Suspected, messages, slowest.Round(time.Millisecond), held.Round(time.Millisecond))
	assert.Greater(t, slowest, policy.Timeout, "the server was not stopped")
	assert.Equal(t, uint64(talking+listening), st.Opened)
	assert.Zero(t, st.Closed, st.Reasons)
	f.notSuspect(t, st, policy, held)
}
