//go:build linux

package bench

import (
	"flag"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	aliveInterval  = flag.Duration("alive.interval", 250*time.Millisecond, "Policy.Interval in TestReceiveOnly")
	aliveIntervals = flag.Int("alive.intervals", 100, "how many intervals TestReceiveOnly lasts")
)

// inLeg gathers n sheep in the client's namespace of leg, in this process, until the test ends. Each says
// name first, if that is not empty.
func inLeg(t testing.TB, leg *netlab.Leg, port, n int, name string) *herd {
	t.Helper()
	h, err := gather(n, func() (net.Conn, error) { return leg.Dial(port) }, func(s *sheep) error {
		if name == "" {
			return nil
		}
		_, err := s.Write(frame(codec.Data, []byte(name)))
		return err
	}, nil)
	require.NoError(t, err)
	t.Cleanup(h.disperse)
	return h
}

// broadcast sends p to each session every so often, until the test ends. to may be nil: all.
func broadcast(t testing.TB, srv *server.Server, every time.Duration, p []byte, to func(*server.Session) bool) {
	quit := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		beat := time.NewTicker(every)
		defer beat.Stop()
		for {
			for s := range srv.Sessions() {
				if to == nil || to(s) {
					_ = s.Send(p)
				}
			}
			select {
			case <-beat.C:
			case <-quit:
				return
			}
		}
	})
	t.Cleanup(func() { close(quit); all.Wait() })
}

// A client that only receives, and answers Pings over a path whose round trip is just below a fifth of
// the interval, is not suspected in a hundred intervals: whether it is sent anything else or not.
func TestReceiveOnly(t *testing.T) { busy.Try(t, testReceiveOnly) }

func testReceiveOnly(t *busy.T) {
	t.Parallel()
	interval, intervals := *aliveInterval, *aliveIntervals
	for range t.Attempt() - 1 { // a busy machine takes a smaller part of a longer interval
		interval, intervals = 4*interval, intervals/4
	}
	const clients = 50
	lab := newLab(t, 1)
	oneWay := interval * 21 / 250
	require.NoError(t, lab.Leg(0).Relay(netlab.Shape{Delay: oneWay, Seed: 1}))
	h := newRegister()
	srv, port := serveIn(t, lab, h, server.Config{Policy: heartbeat.Policy{Interval: interval}, Loops: 2})
	sheep := inLeg(t, lab.Leg(0), port, clients, "")
	eventually(t, 10*time.Second, func() bool { return srv.Stats().Live == clients }, "all there")
	broadcast(t, srv, interval/5, make([]byte, 100), func(s *server.Session) bool { return s.ID()%2 == 0 })
	begun := time.Now()
	time.Sleep(time.Duration(intervals) * interval)

	var rtts []time.Duration
	for s := range srv.Sessions() {
		rtts = append(rtts, s.RTT())
	}
	excused, suspicions := 0, h.suspectsOf("")
	margin := interval/4 - 2*oneWay // by so much an answer may be late
	for _, s := range suspicions {
		if heldFor := t.Held(s.at.Add(-interval), s.at); heldFor > margin/2 {
			excused++
		} else {
			assert.Fail(t.IfQuiet(margin), "suspected", "%v, %v after the beginning; held up for %v in that interval", s.why, s.at.Sub(begun), heldFor)
		}
	}
	t.Logf("%d clients that only receive, half of them streamed to, for %d intervals of %v; round trip of Pings %s; %d suspected, %d of that because this process was held up (for %v in all)",
		clients, intervals, interval, spread(rtts), len(suspicions), excused, t.Held(begun, time.Now()).Round(time.Millisecond))
	if most := clients * intervals / 100; excused > most {
		t.CannotTell("%d suspicions, more than %d, that this process may have been too late for itself", excused, most)
	}
	require.Len(t.IfQuiet(margin), rtts, clients) // a client that this process does not let answer is ended
	assert.GreaterOrEqual(t, slices.Min(rtts), 2*oneWay, "the path does not delay")
	if slow := rtts[len(rtts)/2]; slow > interval/5 {
		t.CannotTell("half of the round trips took %v and more: the path, or this machine, delays too much for the claim", slow)
	}
	assert.Empty(t, sheep.gone())
	assert.Zero(t, srv.Stats().Closed)
}

// What a server sends to a dead peer does not keep it alive, be it little or much.
func TestBroadcastDoesNotKeepAlive(t *testing.T) { busy.Try(t, testBroadcastDoesNotKeepAlive) }

func testBroadcastDoesNotKeepAlive(t *busy.T) {
	t.Parallel()
	policy := heartbeat.Policy{Interval: 500 * time.Millisecond, Timeout: 1500 * time.Millisecond}
	const each, every, tick = 10, 50 * time.Millisecond, 50 * time.Millisecond
	lab := newLab(t, 3)
	type group struct {
		size   int
		h      *register
		srv    *server.Server
		frozen *child
		live   *herd
		at     time.Time // when frozen was
	}
	groups := []*group{{size: 64}, {size: 32 << 10}}
	for _, g := range groups {
		g.h = newRegister()
		var port int
		g.srv, port = serveIn(t, lab, g.h, server.Config{Policy: policy, Tick: tick, Loops: 2})
		g.frozen = startHerd(t, lab.Leg(0), port, each, "frozen")
		inLeg(t, lab.Leg(1), port, each, "cut")
		g.live = inLeg(t, lab.Leg(2), port, each, "live")
		for _, name := range []string{"frozen", "cut", "live"} {
			g.h.present(t, name, each)
		}
		broadcast(t, g.srv, every, make([]byte, g.size), nil)
	}
	time.Sleep(2 * policy.Interval)
	held := watchHeldUp()
	defer held.stop()
	cutAt, err := lab.Leg(1).Cut()
	require.NoError(t, err)
	for _, g := range groups {
		g.at = g.frozen.freeze(t)
	}
	for _, g := range groups {
		eventually(t, 4*policy.Timeout, func() bool { return len(g.h.endsOf("frozen")) == each && len(g.h.endsOf("cut")) == each },
			"the dead are told, %d B every %v", g.size, every)
	}
	heldFor := held.total()
	time.Sleep(policy.Timeout)
	limit := 2*tick + sockstat.Jiffy() + heldFor
	for _, g := range groups {
		t.Logf("%d B to each every %v, timeout %v, interval %v, tick %v (this process was held up for %v)",
			g.size, every, policy.Timeout, policy.Interval, tick, heldFor.Round(time.Millisecond))
		told(t, "cut", g.h.endsOf("cut"), server.PathDead, cutAt, policy.Timeout, limit)
		frozen := g.h.endsOf("frozen")
		if g.size > 1000 { // its window may have closed meanwhile, and that is as true
			frozen = slices.DeleteFunc(frozen, func(e ended) bool { return e.end.Reason == server.PeerSlow })
			for _, e := range g.h.endsOf("frozen") {
				t.NotLater(g.at, e.at, policy.Timeout+limit, "%v", e.end)
			}
		}
		told(t, "frozen", frozen, server.PeerFrozen, g.at, policy.Timeout, limit)
		for _, name := range []string{"cut", "frozen"} {
			var after []time.Duration
			act := map[string]time.Time{"cut": cutAt, "frozen": g.at}[name]
			for _, s := range g.h.suspectsOf(name) {
				after = append(after, s.at.Sub(act))
			}
			t.Logf("  %-6s %4d suspected, after the act: %s", name, len(after), spread(after))
		}
		assert.Empty(t, g.h.endsOf("live"))
		assert.Empty(t, g.live.gone())
		if heldFor < policy.Interval/4 {
			assert.Empty(t.IfQuiet(policy.Interval/4), g.h.suspectsOf("live"))
		}
	}
}

// Sessions that were all heard from in the same moment, which is harder than being accepted in the same
// second, are not all asked in the same tick again: their Pings are spread over a quarter of the
// interval. A server whose judge leaves the jitter out is asked to fail.
func TestPingsSpread(t *testing.T) {
	const tick = 50 * time.Millisecond
	policy := heartbeat.Policy{}.OrDefault()
	ticks := int(policy.Interval / 4 / tick) // over which they should be spread
	type crowd struct {
		name       string
		n          int
		steady     bool
		srv, sheep *child
		accepted   time.Duration
		said       time.Duration
		bins       []int
	}
	crowds := []*crowd{{name: "as always", n: affordable(t, 15000)}, {name: "without jitter", n: 3000, steady: true}}
	for _, c := range crowds {
		var addr string
		c.srv, addr = startServer(t, serverSpec{Policy: policy, Tick: tick, Loops: 2, Steady: c.steady})
		begun := time.Now()
		c.sheep = spawn(t, role(t, "herd", addr, strconv.Itoa(c.n), "one of many"), nil)
		c.accepted = time.Since(begun)
	}
	held := watchHeldUp()
	defer held.stop()
	var all sync.WaitGroup
	const bin = tick / 10
	for _, c := range crowds {
		c.sheep.ask(t, "say", &c.said)
		all.Go(func() { c.sheep.ask(t, fmt.Sprintf("pings %v %v", policy.Interval, bin), &c.bins) })
	}
	all.Wait()
	for _, c := range crowds {
		sum, peak := 0, 0
		perTick := make([]int, len(c.bins)/10)
		for i, n := range c.bins {
			sum += n
			perTick[i/10] += n
			// The server's ticks may begin anywhere between the client's.
			window := 0
			for _, m := range c.bins[max(0, i-9) : i+1] {
				window += m
			}
			peak = max(peak, window)
		}
		first := slices.IndexFunc(perTick, func(n int) bool { return n > 0 })
		require.GreaterOrEqual(t, first, 0, "no Pings")
		last := len(perTick)
		for perTick[last-1] == 0 {
			last--
		}
		even := float64(c.n) / float64(ticks)
		t.Logf("%d sessions, %s, accepted within %v, spoke within %v: %d Pings in one interval of %v; the fullest %v has %d: %.1f times the mean of the interval, %.1f times an even spread over a quarter of it (held up for %v)",
			c.n, c.name, c.accepted.Round(time.Millisecond), c.said.Round(time.Millisecond), sum, policy.Interval, tick, peak,
			float64(peak)*float64(len(perTick))/float64(sum), float64(peak)/even, held.total().Round(time.Millisecond))
		t.Logf("  Pings in each tick from %v on: %v", time.Duration(first)*tick, perTick[first:last])
		assert.GreaterOrEqual(t, sum, c.n, "everybody is asked")
		if c.steady {
			assert.Greater(t, float64(peak), 3*even, "without jitter they would be as even: this test cannot fail")
		} else {
			assert.LessOrEqual(t, float64(peak), 3*even)
		}
		var gone []string
		c.sheep.ask(t, "gone", &gone)
		assert.Empty(t, gone)
		c.sheep.leave(t)
		c.srv.leave(t)
	}
}

// affordable is n, or fewer (and said so) where a process may not have that many descriptors.
func affordable(t testing.TB, n int) int {
	var lim syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim))
	if most := int(lim.Max) - 1000; n > most {
		t.Logf("only %d of %d: a process may have %d descriptors", most, n, lim.Max)
		return most
	}
	return n
}
