package heartbeat

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const noLimit = math.MaxInt

// clock returns the tick of a clock that has ticked n times since it stood at 1.
func clock(n int64) Tick { return Tick(n%math.MaxUint32) + 1 }

// sweep advances w to now and returns the ids it looked at; none is armed again.
func sweep(t *testing.T, w *Wheel, now Tick) []uint32 {
	t.Helper()
	var ids []uint32
	looked, done := w.Advance(now, noLimit, func(id uint32, _ Tick) Tick {
		ids = append(ids, id)
		return 0
	})
	require.True(t, done)
	require.Len(t, ids, looked)
	require.Equal(t, now, w.Now())
	return ids
}

func TestTick(t *testing.T) {
	assert.True(t, Tick(1).Before(2))
	assert.False(t, Tick(2).Before(2))
	assert.False(t, Tick(3).Before(2))
	assert.True(t, Tick(math.MaxUint32).Before(1))
	assert.False(t, Tick(1).Before(math.MaxUint32))
	assert.Equal(t, Tick(1), Tick(math.MaxUint32).Add(1))
	assert.Equal(t, int32(-3), Tick(2).Sub(5))
	assert.Equal(t, int32(2), Tick(1).Sub(math.MaxUint32), "the 0 counts")
	for n := int64(math.MaxUint32) - 5; n < math.MaxUint32+5; n++ {
		for k := range uint32(10) {
			assert.Equal(t, clock(n+int64(k)), clock(n).Add(k))
		}
	}
}

func TestUnknownIDs(t *testing.T) {
	w := NewWheel(0)
	assert.Equal(t, Tick(1), w.Now())
	for _, id := range []uint32{0, 1, 4095, 4096, 1 << 20, math.MaxUint32} {
		w.Cancel(id)
		assert.Zero(t, w.Last(id))
		assert.Zero(t, w.When(id))
	}
	assert.Empty(t, w.pages, "asking takes no memory")
	assert.Zero(t, w.Next())
	assert.Zero(t, w.Pending())

	w.Touch(3*4096, 7)
	assert.Equal(t, Tick(7), w.Last(3*4096))
	w.Schedule(5, 0) // never
	assert.Zero(t, w.Pending())
	w.Cancel(5) // on a page below, which was never used
	assert.Zero(t, w.When(5))
	w.Schedule(5, 10)
	assert.Equal(t, Tick(10), w.When(5))
}

func TestScheduleIsLookedAtThen(t *testing.T) {
	for _, start := range []Tick{1, 5000, math.MaxUint32 - 70} {
		w := NewWheel(start)
		for i := range uint32(200) {
			w.Schedule(i, start.Add(i))
		}
		assert.Equal(t, start.Add(1), w.When(0), "not after now: the next tick")
		now := start.Add(1)
		assert.Equal(t, now, w.Next())
		assert.ElementsMatch(t, []uint32{0, 1}, sweep(t, w, now))
		for i := range uint32(198) {
			now = now.Add(1)
			require.Equal(t, now, w.When(i+2))
			require.Equal(t, now, w.Next())
			require.Equal(t, []uint32{i + 2}, sweep(t, w, now))
			require.Zero(t, w.When(i+2))
		}
		assert.Zero(t, w.Next())
		assert.Zero(t, w.Pending())
	}
}

// What Schedule does without calls is what it does with them, whatever the slots hold already.
func TestScheduleHasOneMeaning(t *testing.T) {
	for _, start := range []Tick{1, 5000, math.MaxUint32 - 4094, math.MaxUint32 - 70} {
		for _, lag := range []Tick{0, 1, 300} {
			quick, general := NewWheel(start), NewWheel(start)
			for _, w := range []*Wheel{quick, general} {
				for i := range uint32(Horizon + 10) { // every slot there is has room
					w.Schedule(i, start.Add(i))
				}
				w.Advance(tickAt(start+lag), 0, nil)
			}
			id := uint32(Horizon + 10)
			try := func(at Tick) {
				id++
				quick.Schedule(id, at)
				general.schedule(id, at)
				if quick.When(id) != general.When(id) {
					t.Fatalf("start %d, lag %d: When of %d is %d, want %d", start, lag, at, quick.When(id), general.When(id))
				}
			}
			try(0)
			for d := range Tick(3 * slots) {
				try(start + d)
				try(start - d)
			}
			checkWheel(t, quick)
		}
	}
}

func TestEarlierCountsLaterDoesNot(t *testing.T) {
	w := NewWheel(1)
	w.Schedule(7, 100)
	w.Schedule(7, 200)
	assert.Equal(t, Tick(100), w.When(7))
	w.Schedule(7, 50)
	assert.Equal(t, Tick(50), w.When(7))
	assert.Equal(t, 2, w.Pending())
	assert.Empty(t, sweep(t, w, 49))
	assert.Equal(t, []uint32{7}, sweep(t, w, 50))
	assert.Equal(t, Tick(100), w.Next(), "what is left over")
	assert.Empty(t, sweep(t, w, 300))
	assert.Zero(t, w.Pending())
}

func TestCancelIsReused(t *testing.T) {
	w := NewWheel(1)
	w.Schedule(7, 100)
	w.Cancel(7)
	assert.Zero(t, w.When(7))
	w.Schedule(7, 200)
	assert.Equal(t, Tick(200), w.When(7))
	assert.Equal(t, 1, w.Pending())
	assert.Empty(t, sweep(t, w, 199), "not at 100")
	assert.Equal(t, []uint32{7}, sweep(t, w, 200))
	w.Schedule(7, 300)
	w.Cancel(7)
	assert.Empty(t, sweep(t, w, 400))
	assert.Zero(t, w.Pending())
}

func TestHorizon(t *testing.T) {
	for _, start := range []Tick{1, math.MaxUint32 - 100} {
		w := NewWheel(start)
		at := start.Add(3*Horizon + 5)
		w.Schedule(1, at)
		looks, now := 0, start
		for w.Next() != 0 {
			now = now.Add(1)
			w.Advance(now, noLimit, func(uint32, Tick) Tick {
				looks++
				if now.Before(at) {
					return at
				}
				return 0
			})
		}
		assert.Equal(t, at, now)
		assert.Equal(t, 4, looks)
	}
}

// However long the stall, one sweep looks at each id once, the most overdue first.
func TestStall(t *testing.T) {
	for _, stall := range []uint32{5000, 2*slots - 1, 2 * slots, 1_000_000, math.MaxInt32 - 5000} {
		w := NewWheel(1)
		for i := range uint32(Horizon) {
			w.Schedule(i, Tick(i+2))
		}
		now := Tick(1).Add(stall)
		next := uint32(0)
		looked, done := w.Advance(now, noLimit, func(id uint32, _ Tick) Tick {
			require.Equal(t, next, id)
			next++
			return now.Add(id + 1)
		})
		require.True(t, done)
		require.Equal(t, Horizon, looked)
		checkWheel(t, w)
		for i := range uint32(Horizon) {
			require.Equal(t, now.Add(i+1), w.When(i))
		}
	}
}

// A sweep that was cut short finds what is overdue nearly all the way around the wheel.
func TestNearlyAllTheWayAround(t *testing.T) {
	for _, start := range []Tick{1, 64, 2600, slots - 1} {
		w := NewWheel(start)
		w.Schedule(1, start+1)
		_, done := w.Advance(start+4000, 0, nil)
		require.False(t, done)
		far := start + 4000 + Horizon
		w.Schedule(2, far)
		assert.Equal(t, far, w.When(2))
		assert.Equal(t, []uint32{1, 2}, sweep(t, w, far))
	}
}

func TestClockDoesNotGoBack(t *testing.T) {
	w := NewWheel(100)
	w.Schedule(1, 200)
	assert.Empty(t, sweep(t, w, 150))
	w.Advance(120, noLimit, nil)
	assert.Equal(t, Tick(150), w.Now())
	w.Schedule(2, 130)
	assert.Equal(t, Tick(151), w.When(2))
	assert.Equal(t, []uint32{2, 1}, sweep(t, w, 200))
}

// The slot of the tick that there is not, 0, is looked at with 1, and reads as 1.
func TestNoTickIsZero(t *testing.T) {
	w := NewWheel(math.MaxUint32)
	w.Schedule(1, math.MaxUint32)
	assert.Equal(t, Tick(1), w.When(1))
	assert.Equal(t, Tick(1), w.Next())
	assert.Equal(t, []uint32{1}, sweep(t, w, 1))
}

func TestBudgetResumes(t *testing.T) {
	w := NewWheel(1)
	for i := range uint32(1000) {
		w.Schedule(i, 10)
	}
	seen := map[uint32]int{}
	again := func(id uint32, _ Tick) Tick { seen[id]++; return 20 }
	looked, done := w.Advance(10, 0, again)
	assert.Zero(t, looked)
	assert.False(t, done)
	for range 99 {
		looked, done = w.Advance(10, 10, again)
		require.Equal(t, 10, looked)
		require.False(t, done)
		require.Equal(t, Tick(10), w.Next(), "the current one")
		checkWheel(t, w)
	}
	looked, done = w.Advance(10, 10, again)
	assert.Equal(t, 10, looked)
	assert.True(t, done, "nothing is left, and the budget is just used up")
	assert.Len(t, seen, 1000)
	for id, n := range seen {
		assert.Equal(t, 1, n, "id %d", id)
	}
	assert.Equal(t, Tick(20), w.Next())
}

// Leftovers have their share of the budget, so that a million of them are not one turn's work.
func TestBudgetCountsLeftovers(t *testing.T) {
	w := NewWheel(1)
	for i := range uint32(10_000) {
		w.Schedule(i, 10)
		w.Cancel(i)
	}
	before, turns := w.Pending(), 0
	for done := false; !done; turns++ {
		_, done = w.Advance(10, 100, func(uint32, Tick) Tick { t.Error("looked"); return 0 })
		require.LessOrEqual(t, before-w.Pending(), 100*lookCost)
		before = w.Pending()
	}
	assert.Equal(t, 13, turns)
}

func TestCallbacks(t *testing.T) {
	w := NewWheel(1)
	for i := range uint32(200) { // several chunks
		w.Schedule(i, 10)
	}
	looks := 0
	_, done := w.Advance(10, noLimit, func(id uint32, _ Tick) Tick {
		looks++
		require.Less(t, looks, 101)
		w.Schedule(id, 30)
		require.Equal(t, Tick(30), w.When(id))
		for i := range uint32(200) { // some of them are still in the slot being swept
			if i%2 != id%2 {
				w.Cancel(i)
				w.Touch(i, 10)
			}
		}
		w.Schedule(1000+id, 10) // now: the next tick
		return 20 + Tick(id%2)
	})
	assert.True(t, done)
	assert.Equal(t, 100, looks)
	checkWheel(t, w)
	assert.Len(t, sweep(t, w, 11), 100)
	assert.Len(t, sweep(t, w, 21), 100, "the earlier of Schedule and what look returned")
	assert.Empty(t, sweep(t, w, 30))
	assert.Zero(t, w.Pending())
}

// An id that is still to be looked at in this sweep can be moved away from it.
func TestMoveAwayWhileSwept(t *testing.T) {
	w := NewWheel(1)
	w.Schedule(1, 10)
	w.Schedule(2, 10)
	looks := 0
	w.Advance(10, noLimit, func(id uint32, _ Tick) Tick {
		looks++
		w.Cancel(3 - id)
		w.Schedule(3-id, 50)
		return 0
	})
	assert.Equal(t, 1, looks)
	assert.Empty(t, sweep(t, w, 49))
	assert.Len(t, sweep(t, w, 50), 1)
}

func TestLookPanics(t *testing.T) {
	w := NewWheel(1)
	for i := range uint32(3) {
		w.Schedule(i, 10)
	}
	assert.Panics(t, func() { w.Advance(10, noLimit, func(uint32, Tick) Tick { panic("owner") }) })
	checkWheel(t, w)
	assert.Len(t, sweep(t, w, 10), 2)
}
