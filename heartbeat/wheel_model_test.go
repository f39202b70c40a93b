package heartbeat

import (
	"flag"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var wheelSeed = flag.Uint64("wheel.seed", 0, "run the wheel's model tests with this seed only; 0: with new ones")

// eachSeed runs a model test with a number of new seeds, or with the one that was asked for.
func eachSeed(t *testing.T, seeds int, model func(t *testing.T, rnd *rand.Rand)) {
	if testing.Short() {
		seeds = (seeds + 9) / 10
	}
	first := uint64(time.Now().UnixNano())
	if *wheelSeed != 0 {
		first, seeds = *wheelSeed, 1
	}
	seed := first
	defer func() { t.Logf("seeds %d to %d; to repeat the last: -wheel.seed=%[2]d", first, seed) }()
	for ; seed < first+uint64(seeds) && !t.Failed(); seed++ {
		model(t, rand.New(rand.NewPCG(seed, 0)))
	}
	seed-- // the last that was run
}

// A scan is the wheel's trivially correct twin: what each id wants, in ticks since the clock stood
// at 1, found by looking at all of them. Both are given the same, and must say the same.
type scan struct {
	t     *testing.T
	rnd   *rand.Rand
	w     *Wheel
	now   int64   // what Advance was last told
	want  []int64 // by id; 0: nothing
	last  []int64
	looks map[uint32]int64 // the value of now at each id's last look
	full  bool             // the sweep lagged so far behind that there was no room after its target
}

// startTick is where a model's clock starts: often it wraps soon.
func startTick(rnd *rand.Rand) int64 {
	if rnd.IntN(2) == 0 {
		return math.MaxUint32 - 1 - rnd.Int64N(20_000)
	}
	return 1 + rnd.Int64N(20_000)
}

// schedule does to the model what Schedule does to the wheel.
func (s *scan) schedule(id uint32, at int64) {
	room := int64(s.w.edge() - s.w.lag())
	if sum := clock(s.now) + Tick(room); sum != 0 && sum < clock(s.now) {
		room-- // across the wrap
	}
	s.full = s.full || room == 0
	if at = min(max(at, s.now+1), s.now+room); s.want[id] == 0 || at < s.want[id] {
		s.want[id] = at
	}
}

// act does something to a random id.
func (s *scan) act() {
	id := uint32(s.rnd.IntN(len(s.want)))
	op := s.rnd.IntN(6)
	if op <= 1 {
		s.w.Cancel(id)
		s.want[id] = 0
	}
	if op >= 1 && op <= 3 {
		at := s.ahead()
		s.w.Schedule(id, clock(at))
		s.schedule(id, at)
	}
	if op == 4 {
		s.w.Touch(id, clock(s.now))
		s.last[id] = s.now
	}
	s.agree(id)
}

// ahead is a random time: sometimes past, sometimes beyond the horizon.
func (s *scan) ahead() int64 { return s.now + int64(1)<<s.rnd.IntN(14) - 3 + s.rnd.Int64N(4) }

// agree compares what the wheel says of id with the model.
func (s *scan) agree(id uint32) {
	got, want := s.w.When(id), s.want[id]
	overdue := want != 0 && want <= s.now
	switch {
	case (got == 0) != (want == 0), want > s.now && got != clock(want), overdue && clock(s.now).Before(got):
		s.t.Fatalf("id %d: When is %d, want %d (tick %d), now %d", id, got, want, clock(want), clock(s.now))
	}
	if got := s.w.Last(id); s.last[id] != 0 && got != clock(s.last[id]) {
		s.t.Fatalf("id %d: Last is %d", id, got)
	}
}

func (s *scan) look(id uint32, last Tick) Tick {
	if s.want[id] == 0 || s.want[id] > s.now {
		s.t.Fatalf("id %d: early: wants %d, now %d", id, s.want[id], s.now)
	}
	if s.looks[id] == s.now && !s.full {
		s.t.Fatalf("id %d: looked at twice in a sweep", id)
	}
	s.looks[id], s.want[id] = s.now, 0
	require.Equal(s.t, s.w.Last(id), last)
	for range s.rnd.IntN(4) {
		s.act()
	}
	if s.rnd.IntN(4) == 0 {
		return 0
	}
	at := s.ahead()
	s.schedule(id, at)
	return clock(at)
}

// advance moves the clock and sweeps, or begins to.
func (s *scan) advance() {
	budget := noLimit
	switch s.rnd.IntN(40) {
	case 0:
		s.now += 1 << s.rnd.IntN(30) // a stall, often of many laps
	case 1, 2, 3, 4:
		s.now += s.rnd.Int64N(100)
	case 5, 6, 7:
	default:
		s.now++
	}
	if s.rnd.IntN(3) == 0 {
		budget = s.rnd.IntN(4)
	}
	looked, done := s.w.Advance(clock(s.now), budget, s.look)
	if looked > budget {
		s.t.Fatalf("looked at %d ids, budget %d", looked, budget)
	}
	if !done {
		require.Equal(s.t, s.w.Now(), s.w.Next())
		return
	}
	s.full = false
	require.Equal(s.t, clock(s.now), s.w.Now())
	next := s.w.Next()
	for id, want := range s.want {
		if want == 0 {
			continue
		}
		if want <= s.now {
			s.t.Fatalf("id %d: lost: wants %d, now %d", id, want, s.now)
		}
		if next == 0 || clock(want).Before(next) {
			s.t.Fatalf("id %d: wants tick %d, but Next is %d", id, clock(want), next)
		}
	}
}

func TestWheelIsAScan(t *testing.T) {
	eachSeed(t, 40, func(t *testing.T, rnd *rand.Rand) {
		s := &scan{t: t, rnd: rnd, now: startTick(rnd), looks: map[uint32]int64{}}
		n := 1 << rnd.IntN(9)
		s.want, s.last = make([]int64, n), make([]int64, n)
		s.w = NewWheel(clock(s.now))
		for step := range 5000 {
			for range rnd.IntN(5) {
				s.act()
			}
			s.advance()
			if step%100 == 0 {
				checkWheel(t, s.w)
			}
		}
		s.drain()
	})
}

// drain cancels everything and sees that nothing of it stays.
func (s *scan) drain() {
	for id := range s.want {
		s.w.Cancel(uint32(id))
	}
	for range 3 * slots {
		s.now++
		looked, _ := s.w.Advance(clock(s.now), noLimit, s.look)
		require.Zero(s.t, looked)
	}
	require.Zero(s.t, s.w.Pending())
	checkWheel(s.t, s.w)
}

// A session ends if nothing is heard of it for idle ticks. Its number is given out again, so the
// owner has a generation for each.
type session struct {
	gen   int // 0: the number is free
	heard int64
	idle  int64
	asked int64 // when its look was last scheduled
}

// An owner uses the wheel as a server does, and knows the whole truth besides.
type owner struct {
	t        *testing.T
	rnd      *rand.Rand
	w        *Wheel
	now      int64
	byID     []session
	opened   int
	closed   map[int]bool // by generation
	expired  map[int]bool
	finished bool // nothing happens any more, but looks
}

func (o *owner) schedule(id uint32) {
	s := &o.byID[id]
	s.asked = o.now
	o.w.Schedule(id, clock(s.heard+s.idle))
}

func (o *owner) act() {
	id := uint32(o.rnd.IntN(len(o.byID)))
	s := &o.byID[id]
	if s.gen == 0 {
		o.opened++
		*s = session{gen: o.opened, heard: o.now, idle: 1 + o.rnd.Int64N(int64(1)<<o.rnd.IntN(14))}
		o.w.Touch(id, clock(o.now))
		o.schedule(id)
		return
	}
	switch o.rnd.IntN(5) {
	case 0, 1:
		s.heard = o.now
		o.w.Touch(id, clock(o.now))
	case 2: // its patience is shorter now, and may be at its end already
		s.idle = 1 + o.rnd.Int64N(s.idle)
		o.schedule(id)
	case 3:
		s.idle += o.rnd.Int64N(5000)
	case 4:
		o.w.Cancel(id)
		o.closed[s.gen] = true
		*s = session{}
	}
}

func (o *owner) look(id uint32, last Tick) Tick {
	s := &o.byID[id]
	if s.gen == 0 || last != clock(s.heard) {
		o.t.Fatalf("look at id %d, last heard of at %d: session is %+v", id, last, *s)
	}
	for range o.rnd.IntN(3) {
		if !o.finished {
			o.act()
		}
	}
	if s.gen == 0 || o.now < s.heard+s.idle {
		if s.gen == 0 {
			return 0 // closed itself
		}
		s.asked = o.now
		return clock(s.heard + s.idle)
	}
	if o.expired[s.gen] {
		o.t.Fatalf("id %d expires again", id)
	}
	o.expired[s.gen] = true
	*s = session{}
	o.w.Cancel(id) // it may have been scheduled just now
	return 0
}

// advance sweeps to the end, in turns of the given budget, and sees that nobody is late.
func (o *owner) advance(ticks int64, budget int) {
	o.now += ticks
	for done := false; !done; {
		_, done = o.w.Advance(clock(o.now), budget, o.look)
	}
	for id, s := range o.byID {
		if s.gen != 0 && s.heard+s.idle <= o.now && s.asked < o.now {
			o.t.Fatalf("id %d should have expired at %d, now is %d", id, s.heard+s.idle, o.now)
		}
	}
}

func TestSessionsExpireOnceAndInTime(t *testing.T) {
	eachSeed(t, 60, func(t *testing.T, rnd *rand.Rand) {
		o := &owner{t: t, rnd: rnd, now: startTick(rnd), closed: map[int]bool{}, expired: map[int]bool{}}
		o.byID = make([]session, 1<<rnd.IntN(9))
		o.w = NewWheel(clock(o.now))
		for range 5000 {
			for range rnd.IntN(5) {
				o.act()
			}
			switch rnd.IntN(40) {
			case 0:
				o.advance(1<<rnd.IntN(16), 1+rnd.IntN(5))
			case 1, 2, 3:
				o.advance(rnd.Int64N(20), 1+rnd.IntN(5))
			default:
				o.advance(1, noLimit)
			}
		}
		o.finished = true
		for o.w.Pending() > 0 {
			o.advance(1, noLimit)
		}
		assert.Len(t, o.expired, o.opened-len(o.closed), "every session has expired or was closed")
		for gen := range o.expired {
			assert.False(t, o.closed[gen], "closed, and expired too")
		}
	})
}

// Whatever an owner does with an id, the wheel has at most 12 entries of it.
func TestEntriesAreBounded(t *testing.T) {
	most := 0
	eachSeed(t, 60, func(t *testing.T, rnd *rand.Rand) {
		w, now := NewWheel(1), Tick(1)
		patience := uint32(1) << rnd.IntN(13)
		for range 3000 {
			for range rnd.IntN(6) {
				if rnd.IntN(2) == 0 {
					w.Cancel(5)
				}
				switch rnd.IntN(4) {
				case 0:
					for d := uint32(Horizon); d > 0; d >>= 1 {
						w.Schedule(5, now.Add(d))
					}
				case 1: // just before what is filed
					w.Touch(5, now)
					d := w.distance(w.record(5).plan.filed())
					w.Schedule(5, now.Add(max(d, 2)-1))
				default:
					w.Schedule(5, now.Add(1+rnd.Uint32N(patience)))
				}
				most = max(most, w.Pending())
				if w.Pending() > 12 {
					t.Fatalf("%d entries", w.Pending())
				}
			}
			now = now.Add(1 + rnd.Uint32N(3))
			w.Advance(now, noLimit, func(uint32, Tick) Tick { return now.Add(rnd.Uint32N(Horizon)) })
		}
		checkWheel(t, w)
	})
	assert.Equal(t, 12, most, "the bound is reached")
}

// Sessions that alternate between a long and a short deadline have few entries and little to sweep.
func TestTogglingIsCheap(t *testing.T) {
	const short, long, ticks = 100, 3000, 100_000
	for _, cancel := range []bool{false, true} {
		w := NewWheel(1)
		busy, looks, most := 0, 0, 0
		for now := Tick(1); now < ticks; {
			if now%(short/4) == 0 {
				if cancel {
					w.Cancel(0)
					w.Schedule(0, now+long)
					w.Cancel(0)
				}
				w.Schedule(0, now+short)
			}
			most = max(most, w.Pending())
			now++
			if w.Next() == now {
				busy++
			}
			n, _ := w.Advance(now, noLimit, func(uint32, Tick) Tick { return now + long })
			looks += n
		}
		t.Logf("cancel %t: at most %d entries, %d looks, something to do in %d of %d ticks", cancel, most, looks, busy, ticks)
		assert.LessOrEqual(t, most, 8)
		assert.LessOrEqual(t, busy, 4*ticks/short)
	}
}
