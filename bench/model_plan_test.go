//go:build linux

package bench

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"
)

// A plan is everything that will be done, and when, drawn from a seed before anything is done: the same
// seed, length and number of sessions give the same plan.
type plan struct {
	seed   uint64
	length time.Duration
	legs   []legPlan
	procs  []procPlan
	traits []trait // by slot: a place in the crowd, which one client after the other takes
	deeds  []deed  // by time
}

type legPlan struct {
	kind  legKind
	procs []int
}

type legKind string

const (
	steadyLeg legKind = "steady"
	cableLeg  legKind = "cut now and then"
	brokenLeg legKind = "broken in other ways"
	slowLeg   legKind = "slow (60 to 80 ms each way, 0.1 % lost, stalls)"
)

// procPlan is a client process: a pack is small, and is killed and stopped as one.
type procPlan struct {
	leg, first, slots int
	pack              bool
}

// A deed is one act: at a time from the beginning, on a slot, process or leg. What is done to a group
// lasts.
type deed struct {
	at     time.Duration
	lasts  time.Duration
	act    *act
	target int
	arg    uint64
}

func (d deed) String() string {
	return fmt.Sprintf("%v %s %d for %v %x", d.at, d.act.name, d.target, d.lasts, d.arg)
}

// span is a time for which something is taken.
type span struct{ from, to time.Duration }

func (s span) meets(spans []span) bool {
	return slices.ContainsFunc(spans, func(o span) bool { return s.from < o.to && o.from < s.to })
}

// draft is a plan in the making.
type draft struct {
	*plan
	rng            *rand.Rand
	slot, proc     [][]span // when each is taken
	leg            [][]span
	slotProc       []int
	sessions, pack int
}

// newPlan draws a plan. Without cables the legs are only names: nothing is cut, and none is slow.
func newPlan(seed uint64, sessions int, length time.Duration, cables bool) *plan {
	d := &draft{plan: &plan{seed: seed, length: length}, rng: rand.New(rand.NewPCG(seed, 0x70756c7365)),
		sessions: sessions, pack: max(10, sessions/100)}
	d.layOut(cables)
	for i, l := range d.legs {
		switch l.kind {
		case cableLeg:
			d.cuts(i)
		case brokenLeg:
			d.breaks(i)
		case slowLeg:
			d.stalls(i)
		}
	}
	for i, p := range d.procs {
		if p.pack {
			d.blows(i)
		}
	}
	d.blocks()
	d.single()
	slices.SortStableFunc(d.deeds, func(a, b deed) int { return int(a.at - b.at) })
	return d.plan
}

const modelLegs = 10

// layOut divides the slots among legs and processes: on each leg one big process, which nothing
// happens to as such, and packs; none of these on a slow leg.
func (d *draft) layOut(cables bool) {
	kinds := [modelLegs]legKind{steadyLeg, steadyLeg, steadyLeg, cableLeg, cableLeg, slowLeg, brokenLeg, brokenLeg, brokenLeg, brokenLeg}
	shares := [modelLegs]int{20, 20, 20, 10, 10, 8, 3, 3, 3, 3}
	next := 0
	for i, kind := range kinds {
		n := d.sessions * shares[i] / 100
		if i == len(kinds)-1 {
			n = d.sessions - next
		}
		if !cables {
			kind = steadyLeg
		}
		leg := legPlan{kind: kind}
		packs := n * 45 / 100 / d.pack
		if kind == slowLeg {
			packs = 0
		}
		for k := range packs + 1 {
			size := d.pack
			if k == packs {
				size = n - packs*d.pack
			}
			leg.procs = append(leg.procs, len(d.procs))
			for range size {
				d.slotProc = append(d.slotProc, len(d.procs))
				d.traits = append(d.traits, d.drawTrait(kind))
			}
			d.procs = append(d.procs, procPlan{leg: i, first: next, slots: size, pack: k < packs})
			next += size
		}
		d.legs = append(d.legs, leg)
	}
	d.slot, d.proc, d.leg = make([][]span, next), make([][]span, len(d.procs)), make([][]span, len(d.legs))
}

func (d *draft) drawTrait(kind legKind) trait {
	shares := [traits]int{quiet: 40, chatty: 25, streamed: 18, pinger: 8, lazy: 4, patient: 5}
	if kind == cableLeg || kind == brokenLeg { // a short cut and a slow reader might add up to the timeout
		shares[lazy], shares[patient] = 0, 0
	}
	return trait(d.pick(shares[:]))
}

// pick draws an index with the given weights.
func (d *draft) pick(weights []int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := d.rng.IntN(sum)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	panic("unreachable")
}

func (d *draft) between(a, b time.Duration) time.Duration {
	return a + time.Duration(d.rng.Int64N(int64(b-a)))
}

// Between what is done to a group and anything else that is done to its members there is room for those to
// be replaced.
const (
	ahead   = time.Second
	restore = 1500 * time.Millisecond
)

// cuts plans when a leg's cableLeg is pulled: past the timeout and the grace that many at once may be given,
// or so briefly that TCP's third attempt is through well before the timeout.
func (d *draft) cuts(leg int) {
	long := leg%2 == 1
	for t := d.between(ahead, 2*time.Second); t < d.length; {
		e := deed{at: t, act: actNamed("cut briefly"), lasts: d.between(500*time.Millisecond, 1100*time.Millisecond), target: leg, arg: d.rng.Uint64()}
		after := 2500 * time.Millisecond // to recover
		if long {
			e.act, e.lasts = actNamed("cut"), pastGrace+d.between(250*time.Millisecond, time.Second)
			after = restore
		}
		d.deeds = append(d.deeds, e)
		w := span{e.at - ahead, e.at + e.lasts + after}
		d.leg[leg] = append(d.leg[leg], w)
		long = !long
		t = w.to + ahead + d.between(0, min(d.length/5, 20*time.Second)+time.Second)
	}
}

// breaks plans when a leg is broken in one of the other ways, until all have been told, or so briefly that some live.
func (d *draft) breaks(leg int) {
	ways := []string{cutAlmost, oneWay, ownLinkDown, ownRouteGone}
	t := d.between(ahead, 2*time.Second)
	for i := leg; t < d.length; i++ {
		e := deed{at: t, act: actNamed(ways[i%len(ways)]), target: leg, arg: d.rng.Uint64()}
		if e.act.mayLive {
			e.lasts = d.between(modelConfig.Policy.Timeout*3/4, modelConfig.Policy.Timeout*9/10)
		} else {
			e.lasts = e.act.limit + d.between(250*time.Millisecond, time.Second)
		}
		d.deeds = append(d.deeds, e)
		w := span{e.at - ahead, e.at + max(e.lasts, e.act.limit) + e.act.settles() + restore}
		d.leg[leg] = append(d.leg[leg], w)
		t = w.to + ahead + d.between(0, min(d.length/5, 20*time.Second)+time.Second)
	}
}

// stalls plans when a slow leg stands still for a moment. Other acts go on meanwhile.
func (d *draft) stalls(leg int) {
	for t := time.Second; t < d.length; t += d.between(3*time.Second, 8*time.Second) {
		d.deeds = append(d.deeds, deed{at: t, act: actNamed("stalled briefly"), target: leg,
			lasts: d.between(300*time.Millisecond, 800*time.Millisecond)})
	}
}

// blocks plans when a handler blocks the server's loop that has a certain client.
func (d *draft) blocks() {
	for t := d.between(ahead, min(5*time.Second, d.length)); t < d.length; t += d.between(5*time.Second, 20*time.Second) {
		d.deeds = append(d.deeds, deed{at: t, act: actNamed("server: a loop blocked"), target: d.rng.IntN(d.sessions),
			lasts: d.between(200*time.Millisecond, 900*time.Millisecond)})
	}
}

// blows plans what is done to a pack.
func (d *draft) blows(proc int) {
	var kinds []*act
	var weights []int
	for _, a := range acts {
		if a.kind == toPack {
			kinds, weights = append(kinds, a), append(weights, a.weight)
		}
	}
	pause := min(max(d.length/3, 3*time.Second), 60*time.Second)
	first := proc // the first of each pack: one after the other, so that a short plan has them all
	for t := d.between(ahead, ahead+pause); t < d.length; {
		a := kinds[first%len(kinds)]
		first = d.pick(weights)
		e := deed{at: t, act: a, target: proc, arg: d.rng.Uint64(), lasts: 500 * time.Millisecond}
		switch a.name {
		case "frozen", "frozen, some flooded":
			e.lasts = pastGrace + d.between(250*time.Millisecond, time.Second)
		case "frozen briefly":
			e.lasts = d.between(500*time.Millisecond, 1200*time.Millisecond)
		}
		w := span{e.at - ahead, e.at + e.lasts + restore}
		if w.meets(d.leg[d.procs[proc].leg]) {
			t += 500 * time.Millisecond
			continue
		}
		d.deeds = append(d.deeds, e)
		d.proc[proc] = append(d.proc[proc], w)
		t = w.to + ahead + d.between(0, 2*pause)
	}
}

// single plans what is done to clients one by one: each act once, then as they are drawn.
func (d *draft) single() {
	var kinds []*act
	var weights []int
	for _, a := range acts {
		if a.kind == byClient || a.kind == byServer {
			kinds, weights = append(kinds, a), append(weights, a.weight)
		}
	}
	once := d.rng.Perm(len(kinds))
	rate := max(float64(d.sessions)/150, 6) // a second
	for t := 300 * time.Millisecond; t < d.length; t += time.Duration(d.rng.ExpFloat64() / rate * float64(time.Second)) {
		var a *act
		if len(once) > 0 {
			a, once = kinds[once[0]], once[1:]
		} else {
			a = kinds[d.pick(weights)]
		}
		for range 50 { // until a slot is found that is free
			slot := d.rng.IntN(d.sessions)
			p := d.slotProc[slot]
			leg := d.procs[p].leg
			w := span{t - 500*time.Millisecond, t + a.holds()}
			if a.nimble && d.legs[leg].kind == slowLeg || w.meets(d.slot[slot]) || w.meets(d.proc[p]) || w.meets(d.leg[leg]) {
				continue
			}
			if !a.extra {
				d.slot[slot] = append(d.slot[slot], w)
			}
			d.deeds = append(d.deeds, deed{at: t, act: a, target: slot, arg: d.rng.Uint64()})
			break
		}
	}
}

// fingerprint is the same for the same plan.
func (p *plan) fingerprint() uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, p.legs, p.procs, p.traits)
	for _, d := range p.deeds {
		fmt.Fprintln(h, d)
	}
	return h.Sum64()
}
