package heartbeat

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPolicyDefaults(t *testing.T) {
	const warning = 600 * time.Millisecond
	for _, c := range []struct{ given, want Policy }{
		{Policy{}, Policy{5 * time.Second, 15 * time.Second, warning}},
		{Policy{Interval: time.Second}, Policy{time.Second, 3 * time.Second, warning}},
		{Policy{Timeout: 3 * time.Second}, Policy{time.Second, 3 * time.Second, warning}},
		{Policy{Timeout: time.Minute}, Policy{5 * time.Second, time.Minute, warning}},
		{Policy{Warning: time.Second}, Policy{5 * time.Second, 15 * time.Second, time.Second}},
		{Policy{Warning: -1}, Policy{5 * time.Second, 15 * time.Second, -1}},
	} {
		assert.Equal(t, c.want, c.given.OrDefault())
	}
}

func TestPolicyValidate(t *testing.T) {
	for _, c := range []struct {
		p    Policy
		want string
	}{
		{Policy{}, ""},
		{Policy{Interval: time.Second}, ""},
		{Policy{Interval: time.Second, Timeout: 1001 * time.Millisecond, Warning: -1}, ""},
		{Policy{Interval: -1}, "heartbeat: Policy.Interval: -1ns is negative"},
		{Policy{Timeout: -time.Second}, "heartbeat: Policy.Timeout: -1s is negative"},
		{Policy{Interval: time.Second, Timeout: time.Second}, "heartbeat: Policy.Timeout: 1s is not longer than Interval, 1s"},
	} {
		err := c.p.Validate()
		if c.want == "" {
			assert.NoError(t, err)
		} else {
			assert.EqualError(t, err, c.want)
		}
	}
}

// peer simulates one session under a Policy: the clock jumps to when the Judge wants to look (or
// further, when the server is away), and every Ping is answered after rtt, or never.
type peer struct {
	p         Policy
	seed      uint32
	rtt       time.Duration // < 0: never answers
	now       time.Duration
	heard     time.Duration
	firstPing time.Duration
	lastPing  time.Duration
	pings     int
	sent      int
	suspected bool
	suspects  []time.Duration // silence at each
	measured  time.Duration
	path      Path
}

// look lets the Judge look once and reports the verdict and the next look.
func (s *peer) look() (Verdict, time.Duration) {
	if s.rtt >= 0 && s.pings > 0 && s.now >= s.firstPing+s.rtt {
		s.heard, s.pings, s.suspected = s.firstPing+s.rtt, 0, false
	}
	v, next := s.p.Judge(Evidence{Policy: s.p, Silence: s.now - s.heard, Pings: s.pings, PingAge: s.now - s.firstPing,
		LastPing: s.now - s.lastPing, Suspected: s.suspected, Seed: s.seed, RTT: s.measured, Path: s.path})
	if v == Suspect {
		s.suspected = true
		s.suspects = append(s.suspects, s.now-s.heard)
	}
	if v == Ask || v == Suspect {
		if s.pings == 0 {
			s.firstPing = s.now
		}
		s.lastPing = s.now
		s.pings++
		s.sent++
	}
	return v, next
}

func TestPolicySilentPeer(t *testing.T) {
	for seed := range uint32(200) {
		s := &peer{p: Policy{}.OrDefault(), seed: seed, rtt: -1}
		var firstAsk time.Duration
		for {
			v, next := s.look()
			if v == Ask && firstAsk == 0 {
				firstAsk = s.now
			}
			if v == Dead {
				break
			}
			require.Positive(t, next, "at %v: %v", s.now, v)
			s.now += next
		}
		assert.GreaterOrEqual(t, firstAsk, s.p.Interval/2)
		assert.LessOrEqual(t, firstAsk, s.p.Interval*3/4)
		assert.Equal(t, []time.Duration{s.p.Interval}, s.suspects)
		assert.Equal(t, s.p.Timeout, s.now, "dead at the timeout")
		assert.GreaterOrEqual(t, s.sent, 2)
	}
}

func TestPolicyHealthyIdlePeerIsNeverSuspected(t *testing.T) {
	for seed := range uint32(100) {
		s := &peer{p: Policy{}.OrDefault(), seed: seed}
		s.rtt = s.p.Interval/5 - time.Millisecond
		for s.now < 100*s.p.Interval {
			_, next := s.look()
			s.now += next
		}
		assert.Empty(t, s.suspects)
		assert.Greater(t, s.sent, 90)
	}
}

// Nor is one that is further away than Interval allows for, once that is known.
func TestPolicyFarPeer(t *testing.T) {
	for seed := range uint32(100) {
		s := &peer{p: Policy{}.OrDefault(), seed: seed, rtt: 2 * time.Second, measured: 2 * time.Second}
		for s.now < 100*s.p.Interval {
			_, next := s.look()
			s.now += next
		}
		assert.Empty(t, s.suspects)
	}
	// But knowing it puts off no conviction.
	s := &peer{p: Policy{}.OrDefault(), seed: 1, rtt: -1, measured: time.Hour}
	for v, next := s.look(); v != Dead; v, next = s.look() {
		s.now += next
	}
	assert.Equal(t, s.p.Timeout, s.now)
	assert.Len(t, s.suspects, 1)
	assert.GreaterOrEqual(t, s.sent, 2)
}

var stuck = Path{Known: true, Unacked: 1, Window: 1 << 16, Quiet: 600 * time.Millisecond, RTT: 50 * time.Millisecond, RTO: 250 * time.Millisecond}

func TestPathStuck(t *testing.T) {
	assert.True(t, stuck.Stuck(600*time.Millisecond))
	for name, change := range map[string]func(p *Path){
		"not known":          func(p *Path) { p.Known = false },
		"all acknowledged":   func(p *Path) { p.Unacked = 0 },
		"the peer's window":  func(p *Path) { p.Window = 0 },
		"not quiet enough":   func(p *Path) { p.Quiet-- },
		"a long way to here": func(p *Path) { p.RTT = 151 * time.Millisecond },
		"a changing path":    func(p *Path) { p.RTO = 301 * time.Millisecond },
	} {
		p := stuck
		change(&p)
		assert.False(t, p.Stuck(600*time.Millisecond), name)
	}
	outage := stuck
	outage.RTT, outage.RTO, outage.Quiet = 10*time.Second, 30*time.Second, 2*time.Second
	assert.True(t, outage.Stuck(600*time.Millisecond))
	assert.False(t, outage.Stuck(2001*time.Millisecond))
}

// The kernel's warning brings the suspicion forward by seconds, and changes nothing about the end: two
// Pings, and the timeout counted from the last word.
func TestPolicyWarned(t *testing.T) {
	for _, silence := range []time.Duration{600 * time.Millisecond, 3 * time.Second} {
		for seed := range uint32(50) {
			s := &peer{p: Policy{}.OrDefault(), seed: seed, rtt: -1, path: stuck}
			if silence > time.Second { // it is asked before the path is stuck
				s.path = Path{}
				_, next := s.look()
				s.now += next
				s.look()
				s.path = stuck
			}
			s.now = max(s.now, silence)
			v, next := s.look()
			require.Equal(t, Suspect, v)
			last := s.now
			for s.now += next; ; s.now += next {
				if v, next = s.look(); v == Dead {
					break
				}
				require.Positive(t, next)
				if v == Ask {
					assert.GreaterOrEqual(t, s.now-last, s.p.Interval/4, "Pings keep their distance")
					last = s.now
				}
			}
			assert.Equal(t, s.p.Timeout, s.now)
			assert.GreaterOrEqual(t, s.sent, 2)
			assert.LessOrEqual(t, s.sent, 6)
			assert.Len(t, s.suspects, 1)
		}
	}
	off := &peer{p: Policy{Warning: -1}.OrDefault(), rtt: -1, path: stuck, now: time.Second}
	v, _ := off.look()
	assert.Equal(t, Alive, v)
}

// A server that was away for longer than the timeout asks before it judges, and convicts no peer
// that answers then.
func TestPolicyServerAway(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		s := &peer{p: Policy{}.OrDefault(), seed: rnd.Uint32(), rtt: s20(rnd)}
		for range 50 {
			v, next := s.look()
			require.NotEqual(t, Dead, v, "silence %v", s.now-s.heard)
			require.Positive(t, next)
			s.now += next
			if rnd.IntN(5) == 0 {
				s.now += time.Duration(rnd.Int64N(int64(time.Minute)))
			}
		}
	}
}

func s20(rnd *rand.Rand) time.Duration { return time.Duration(rnd.IntN(1000)) * time.Millisecond }

// The same, for a peer that is really dead: being away only postpones the end, by at most
// Timeout-Interval after the first Ping.
func TestPolicyServerAwayStillConvicts(t *testing.T) {
	s := &peer{p: Policy{}.OrDefault(), seed: 7, rtt: -1, now: time.Hour}
	v, next := s.look()
	require.Equal(t, Ask, v, "nobody has asked yet")
	asked := s.now
	for v != Dead {
		s.now += next
		v, next = s.look()
	}
	assert.Equal(t, s.p.Timeout-s.p.Interval, s.now-asked)
	assert.GreaterOrEqual(t, s.sent, 2)
}

func TestJitterSpreads(t *testing.T) {
	p := Policy{}.OrDefault()
	const sessions, buckets = 15000, 12
	var count [buckets]int
	for seed := range uint32(sessions) {
		count[int((p.askAfter(seed)-p.Interval/2)*buckets/(p.Interval/4))]++
	}
	for _, n := range count {
		assert.InDelta(t, sessions/buckets, n, sessions/buckets/10)
	}
}

func ExamplePolicy() {
	p := Policy{Interval: 5 * time.Second, Timeout: 15 * time.Second}
	v, next := p.Judge(Evidence{Silence: 4 * time.Second})
	fmt.Println(v, next)
	v, _ = p.Judge(Evidence{Silence: 5 * time.Second, Pings: 1, PingAge: 2 * time.Second})
	fmt.Println(v)
	v, _ = p.Judge(Evidence{Silence: 15 * time.Second, Pings: 2, PingAge: 12 * time.Second, Suspected: true})
	fmt.Println(v)
	// Output:
	// ask 1.25s
	// suspect
	// dead
}
