//go:build linux

package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The same seed gives the same plan, another one another; a short plan has every act in it, and no client
// has two things done to it at a time.
func TestModelPlan(t *testing.T) {
	p := newPlan(1, 300, 8*time.Second, true)
	assert.Equal(t, p.fingerprint(), newPlan(1, 300, 8*time.Second, true).fingerprint())
	assert.NotEqual(t, p.fingerprint(), newPlan(2, 300, 8*time.Second, true).fingerprint())
	assert.NotEqual(t, p.fingerprint(), newPlan(1, 300, 8*time.Second, false).fingerprint())
	planned := map[*act]bool{}
	for _, e := range p.deeds {
		planned[e.act] = true
	}
	for _, a := range acts {
		if a.kind != derived {
			assert.True(t, planned[a], "%s is not in a short plan", a.name)
		}
	}
	for seed := range uint64(20) {
		for _, cables := range []bool{true, false} {
			p := newPlan(seed, 1000, 30*time.Second, cables)
			oneAtATime(t, p)
		}
	}
}

// oneAtATime checks a plan slot by slot, in another way than it was made.
func oneAtATime(t *testing.T, p *plan) {
	const apart = time.Second
	free := make([]time.Duration, len(p.traits)) // from when each is
	for _, e := range p.deeds {
		if e.act.extra || e.act.kind == toLoop || e.act.name == "stalled briefly" {
			continue
		}
		w := span{e.at, e.at + e.act.limit}
		var slots [][2]int
		switch e.act.kind {
		case toLeg:
			w.to = e.at + e.lasts
			for _, i := range p.legs[e.target].procs {
				slots = append(slots, [2]int{p.procs[i].first, p.procs[i].slots})
			}
		case toPack:
			w.to = e.at + e.lasts
			slots = append(slots, [2]int{p.procs[e.target].first, p.procs[e.target].slots})
		default:
			slots = append(slots, [2]int{e.target, 1})
		}
		for _, s := range slots {
			for slot := s[0]; slot < s[0]+s[1]; slot++ {
				require.LessOrEqual(t, free[slot], w.from, "seed %d: %v: slot %d is still taken", p.seed, e, slot)
				free[slot] = w.to + apart
			}
		}
	}
}
