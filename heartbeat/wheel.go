package heartbeat

import (
	"math"
	"math/bits"
)

// A Tick counts ticks of a wheel's clock; how long one is, only the owner of the clock knows. 0 is
// "never": a running clock starts at 1 and skips 0 when it wraps. Two ticks can be compared if they
// are less than 2^31 ticks apart.
type Tick uint32

// Before tells whether t is earlier than u, also across the wrap.
func (t Tick) Before(u Tick) bool { return int32(t-u) < 0 }

// Add returns the tick that comes n ticks after t. It is never 0, unless t and n are.
func (t Tick) Add(n uint32) Tick {
	sum := t + Tick(n)
	if sum < t {
		sum++ // past the wrap, where 0 is left out
	}
	return sum
}

// Sub returns t-u in ticks, negative if t is earlier. Across the wrap it is one too far from 0,
// because it counts the 0 that the clock skips.
func (t Tick) Sub(u Tick) int32 { return int32(t - u) }

// Horizon is how many ticks ahead a wheel can see. What is scheduled beyond it is looked at there.
const Horizon = 4095

// There are twice as many slots as the horizon needs. The other half is for what is overdue: while a
// sweep lags behind the clock, the ids that it re-arms go to slots that it has not yet to sweep.
const (
	slotBits = 13
	slots    = 1 << slotBits
	slotMask = slots - 1
)

// plan says what is planned for an id: when its owner wants it looked at, where it is filed, and
// how many entries of it are forgotten.
//
// An id has one entry that counts, in a slot no later than the one wanted. Wanting something
// later moves nothing: the entry finds out when it comes due, and is filed again. Canceling
// moves nothing either: the entry stays, and serves whatever is scheduled next. Only wanting
// something earlier than the entry makes a second one, and the first is forgotten: it lies in its
// slot until that is swept, and is dropped then because the id is not filed there any more.
//
// Forgotten entries are counted, and an id with n of them is filed at most Horizon>>n ticks ahead.
// So the more often an id's look has been brought forward, the nearer is its entry, until nothing
// can come before it: an id has at most 12 entries, whatever its owner does, and those who
// alternate between a short and a long deadline settle where the entry is never later than the
// short one.
//
// Bits: 0-12 slot filed, 13-25 slot wanted, 26-29 forgotten entries, 30 filed, 31 wanted.
type plan uint32

const (
	wantShift   = slotBits
	forgotShift = 2 * slotBits
	forgotOne   = 1 << forgotShift
	forgotMask  = 15 << forgotShift
	isFiled     = 1 << 30
	isWanted    = 1 << 31
)

func (p plan) filed() uint32     { return uint32(p) & slotMask }
func (p plan) wanted() uint32    { return uint32(p) >> wantShift & slotMask }
func (p plan) forgotten() uint32 { return uint32(p) >> forgotShift & 15 }
func (p plan) want(slot uint32) plan {
	return p&^(slotMask<<wantShift) | plan(slot<<wantShift) | isWanted
}
func (p plan) file(slot uint32) plan   { return p&^slotMask | plan(slot) | isFiled }
func (p plan) isFiledAt(s uint32) bool { return p&(isFiled|slotMask) == isFiled|plan(s) }

// A Wheel is a timing wheel for ids: small numbers, given out from 0 up so that they are dense.
// After a burst it keeps its memory for the next one.
//
// A Wheel belongs to one goroutine: no method may be called while another runs, except from the
// look function that Advance calls, which may call every method but Advance.
type Wheel struct {
	pages [][]record // nil where no id was ever used
	dense uint32     // below it, none is
	ids   pool

	now     Tick  // swept so far; the slot of now is empty, or being swept
	target  Tick  // what Advance was last told; now is earlier if the sweep was cut short
	base    Tick  // the tick t has the slot t-base
	rest    chain // of the slot of now, if the sweep was cut short there
	pending int
	fetched plan

	summary [slots / 64 / 64]uint64 // a bit for each word of nonEmpty that is not 0
	isSet   [slots / 64]uint64      // a bit for each slot that is not empty
	heads   [slots]chain
}

// NewWheel returns an empty wheel whose clock stands at now. If now is 0, it is 1.
func NewWheel(now Tick) *Wheel {
	now = max(now, 1)
	return &Wheel{now: now, target: now}
}

// Schedule asks that id is looked at at tick at: not earlier, and as soon as the wheel is advanced
// to it or beyond. If something earlier is already pending, that stays and at is dropped: the owner
// finds out at the earlier look what remains. If something later is pending, at replaces it. If at is
// not after the tick that Advance was last told, it is the tick after that. If at is past the
// Horizon, id is looked at at the Horizon, and its owner may then say again how much remains. If at
// is 0, Schedule does nothing.
func (w *Wheel) Schedule(id uint32, at Tick) {
	// For most ids nothing is planned, the sweep is not behind, and the slot has a chunk with room. Then
	// this is all there is to do.
	if r := w.record(id); r != nil && r.plan == 0 && at != 0 && w.now == w.target && uint32(at-w.now)-1 < Horizon {
		s := uint32(at-w.base) & slotMask // slot(ahead(at))
		if c := w.heads[s] + 1; c.len() > 1 {
			*w.ids.at(c) = id
			w.heads[s] = c
			w.pending++
			r.plan = plan(s<<wantShift|s) | isWanted | isFiled
			return
		}
	}
	w.schedule(id, at)
}

// schedule is Schedule for all cases.
func (w *Wheel) schedule(id uint32, at Tick) {
	if at == 0 {
		return
	}
	r := w.record(id)
	if r == nil {
		r = w.grown(id)
	}
	d := w.ahead(at)
	p := r.plan
	if p&isWanted != 0 && w.distance(p.wanted()) <= d {
		return
	}
	p = p.want(w.slot(d))
	if p&isFiled != 0 {
		if w.distance(p.filed()) <= d {
			r.plan = p
			return
		}
		p += forgotOne
	}
	r.plan = w.file(id, p, d)
}

// Cancel forgets what is pending for id. It costs one store, and what id occupies in the wheel is
// used again if id is.
func (w *Wheel) Cancel(id uint32) {
	if r := w.record(id); r != nil {
		r.plan &^= isWanted
	}
}

// Touch notes that id was heard of at tick now. That is all it does: a look that is pending
// stays where it is, and is given this tick.
func (w *Wheel) Touch(id uint32, now Tick) {
	if id < w.dense {
		w.pages[id>>pageBits][id%pageLen].last = now
	} else {
		w.touchNew(id, now)
	}
}

// touchNew is Touch for ids past those that are dense. With it Touch is just cheap enough to be inlined.
//
//go:noinline
func (w *Wheel) touchNew(id uint32, now Tick) { w.grown(id).last = now }

// Last returns the tick of the last Touch, 0 if id was never touched. Canceling and looking do not
// change it: who gives an id out again touches it first.
func (w *Wheel) Last(id uint32) Tick {
	if r := w.record(id); r != nil {
		return r.last
	}
	return 0
}

// When returns the tick at which id is to be looked at, 0 if nothing is pending. After a stall of
// more than Horizon ticks, what is overdue reads as if it were less so.
func (w *Wheel) When(id uint32) Tick {
	if r := w.record(id); r != nil && r.plan&isWanted != 0 {
		return tickAt(w.now + Tick(w.distance(r.plan.wanted())))
	}
	return 0
}

// Next returns the earliest tick at which Advance may have something to do, 0 if the wheel is empty.
// It may turn out to be nothing but leftovers of looks that were canceled or brought forward. If
// the sweep was cut short by its budget, it is Now.
func (w *Wheel) Next() Tick {
	if w.rest != 0 {
		return tickAt(w.now)
	}
	if d := w.following(); d != 0 {
		return tickAt(w.now + Tick(d))
	}
	return 0
}

// Now returns the tick up to which the wheel has been swept; that tick is included, unless the sweep
// is still at it.
func (w *Wheel) Now() Tick { return tickAt(w.now) }

// Pending returns how many entries the wheel has, leftovers included: at most 12 for each id, and
// one for most.
func (w *Wheel) Pending() int { return w.pending }

// lookCost is what a look takes from the budget, in leftovers dropped.
const lookCost = 8

// Advance sweeps the wheel to now. For every id that is due it calls look with the tick of the last
// Touch, and re-arms the id at the tick that look returns, or not if that is 0; if look itself
// called Schedule for that id, the earlier of the two counts. Ids come roughly in the order in which
// they are due. However long the wheel was not advanced, an id is looked at once: what is re-armed is
// not due before the tick after now.
//
// Advance looks at no more than budget ids, and at fewer if there are many leftovers to drop, 8 of
// which count as a look. It reports how many ids it looked at and whether it is done. If it is not,
// the next Advance resumes where this one stopped; it may be told a later tick. A now that is
// earlier than one already told is taken for that one. If look panics, its id is not re-armed, and
// the wheel is as good as before.
func (w *Wheel) Advance(now Tick, budget int, look func(id uint32, last Tick) Tick) (looked int, done bool) {
	w.aim(now)
	credit := int64(min(budget, math.MaxInt32)) * lookCost
	for w.rest != 0 || w.detach() {
		if w.rest.len() == 0 {
			w.begin(w.ids.release(w.rest))
			continue
		}
		if credit <= 0 {
			return looked, false
		}
		id := *w.ids.at(w.rest)
		w.rest--
		w.pending--
		last, due := w.take(id)
		if !due {
			credit--
			continue
		}
		credit -= lookCost
		looked++
		if at := look(id, last); at != 0 {
			w.Schedule(id, at)
		}
	}
	return looked, true
}

// aim sets the target. If everything in the wheel is overdue, so that the stall was longer than the
// wheel, only the part of it that the wheel can hold counts: the slots keep what they have, and
// stand for later ticks.
func (w *Wheel) aim(now Tick) {
	if !w.target.Before(now) {
		return
	}
	edge := Tick(w.edge())
	w.target = now
	if beyond := now - w.now; beyond > edge {
		w.now += beyond - edge
		w.base += beyond - edge
	}
}

// detach takes the next slot that is due off the wheel, for Advance to sweep. So look may schedule
// what it likes: nothing is added to what is being swept.
func (w *Wheel) detach() bool {
	d := w.following()
	if d == 0 || d > w.lag() {
		w.now = w.target
		return false
	}
	w.now += Tick(d)
	s := w.slot(0)
	w.begin(w.heads[s])
	w.heads[s] = 0
	if w.isSet[s/64] &^= 1 << (s % 64); w.isSet[s/64] == 0 {
		w.summary[s/64/64] &^= 1 << (s / 64 % 64)
	}
	return true
}

// begin makes c what is swept next, and reads the records of its first chunk. What it reads is of no
// use, but then they are in the cache: read one look after the other, they were misses in a row, and a
// sweep over a million sessions took more than twice as long.
func (w *Wheel) begin(c chain) {
	w.rest = c
	var p plan
	for _, id := range w.ids.first(c) {
		p ^= w.record(id).plan
	}
	w.fetched = p
}

// take takes an entry of id from the slot of now, and tells whether id is to be looked at.
func (w *Wheel) take(id uint32) (last Tick, due bool) {
	r := w.record(id)
	p := r.plan
	if !p.isFiledAt(w.slot(0)) {
		r.plan -= forgotOne
		return 0, false
	}
	r.plan = p & forgotMask
	if p&isWanted == 0 {
		return 0, false
	}
	if d := w.distance(p.wanted()); d > w.lag() {
		r.plan = w.file(id, p, d)
		return 0, false
	}
	return r.last, true
}

// file adds an entry for id, which wants to be looked at d ticks after now, and returns p with it.
func (w *Wheel) file(id uint32, p plan, d uint32) plan {
	s := w.slot(min(d, w.lag()+max(uint32(Horizon)>>p.forgotten(), 1)))
	c := w.heads[s]
	if c == 0 || c.len() == chunkLen {
		w.isSet[s/64] |= 1 << (s % 64)
		w.summary[s/64/64] |= 1 << (s / 64 % 64)
		c = w.ids.extend(c)
	}
	c++
	*w.ids.at(c) = id
	w.heads[s] = c
	w.pending++
	return p.file(s)
}

// lag returns how many ticks remain to be swept.
func (w *Wheel) lag() uint32 { return uint32(w.target - w.now) }

// edge returns how far after now an entry may lie: the Horizon, seen from the target.
func (w *Wheel) edge() uint32 { return min(w.lag()+Horizon, slots-1) }

// ahead returns how many ticks after now the tick at is to be looked at. A sweep that lags by the
// whole wheel has no room after its target; then that is the tick of the target.
func (w *Wheel) ahead(at Tick) uint32 {
	return min(uint32(max(at.Sub(w.now), int32(w.lag())+1)), w.edge())
}

// slot returns the slot d ticks after now.
func (w *Wheel) slot(d uint32) uint32 { return (uint32(w.now-w.base) + d) & slotMask }

// distance returns how many ticks after now a slot is, 0 if it is that of now.
func (w *Wheel) distance(slot uint32) uint32 { return (slot - uint32(w.now-w.base)) & slotMask }

// following returns how many ticks after now the next slot that is not empty is, 0 if all are empty.
func (w *Wheel) following() uint32 {
	first := w.slot(1)
	if word := w.isSet[first/64] >> (first % 64); word != 0 {
		return 1 + uint32(bits.TrailingZeros64(word))
	}
	i := (first/64 + 1) % uint32(len(w.isSet))
	for range len(w.summary) + 1 { // the last of them is the first again, from its beginning
		if sum := w.summary[i/64] >> (i % 64); sum != 0 {
			i += uint32(bits.TrailingZeros64(sum))
			return w.distance(i*64 + uint32(bits.TrailingZeros64(w.isSet[i])))
		}
		i = (i/64 + 1) % uint32(len(w.summary)) * 64
	}
	return 0
}

// tickAt leaves 0 out: its slot is one like any other, and is swept with that of 1.
func tickAt(t Tick) Tick { return max(t, 1) }
