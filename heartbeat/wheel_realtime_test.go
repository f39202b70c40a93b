//go:build unix

package heartbeat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The rows of TestTable's table in which time itself passes.

// storm has all timers fire at once. It returns the CPU that each took, in ns, and when the last one
// fired, in ms.
func storm(timers []*time.Timer, fire func(id int)) (each, last float64) {
	var fired atomic.Int64
	done := make(chan struct{})
	at := time.Now().Add(2 * time.Second) // to start them all takes less
	start(timers, func(int) time.Duration { return time.Until(at) }, func(id int) {
		fire(id)
		if fired.Add(1) == tableN {
			close(done)
		}
	})
	if time.Until(at) <= 0 {
		panic("the machine is too slow to start the timers in time")
	}
	time.Sleep(time.Until(at) - time.Millisecond)
	begin := cpu()
	<-done
	late := time.Since(at)
	return float64(cpu()-begin) / tableN, float64(late) / 1e6
}

// turns sweeps w as an event loop does: within a budget for each of its turns. It returns how long the
// longest took.
func turns(w *Wheel, now Tick, look func(id uint32, last Tick) Tick) (longest time.Duration) {
	const batch, budget = 16, time.Millisecond / 2
	for done := false; !done; {
		begin := time.Now()
		for took := time.Duration(0); !done && took <= budget; took = time.Since(begin) {
			_, done = w.Advance(now, batch, look)
		}
		longest = max(longest, time.Since(begin))
	}
	return longest
}

func tableStorm(t *testing.T) {
	timers := make([]*time.Timer, tableN)
	var rearm, expire, last []float64
	for range 3 {
		each, _ := storm(timers, func(id int) { timers[id].Reset(time.Hour) })
		rearm = append(rearm, each)
		stop(timers)
		each, late := storm(timers, func(int) {})
		expire, last = append(expire, each), append(last, late)
	}
	clear(timers)
	runtime.GC()

	w := full(tableN)
	now, longest := w.Now(), []float64(nil)
	m := inTurn(func() float64 {
		looks := 0
		begin := time.Now()
		for range Horizon {
			now = now.Add(1)
			looked, _ := w.Advance(now, noLimit, func(uint32, Tick) Tick { return now.Add(Horizon) })
			looks += looked
		}
		took := float64(time.Since(begin)) / float64(looks)
		require.Equal(t, tableN, looks)
		return took
	}, func() float64 {
		for id := range uint32(tableN) {
			w.Cancel(id)
		}
		now = now.Add(2 * slots)
		w.Advance(now, noLimit, nil)
		for id := range uint32(tableN) {
			w.Schedule(id, now.Add(100))
		}
		now = now.Add(100)
		looks, begin := 0, time.Now()
		turn := turns(w, now, func(uint32, Tick) Tick { looks++; return 0 })
		took := float64(time.Since(begin)) / 1e6
		longest = append(longest, float64(turn)/1e6)
		require.Equal(t, tableN, looks)
		for id := range uint32(tableN) { // for the next round
			w.Schedule(id, now.Add(1+rand.Uint32N(Horizon)))
		}
		return took
	})
	row("re-arm when due", " ns", m[0], median(rearm), 60, 0)
	row("expire, all in one tick", " ns", m[1], median(expire), 50, 0)
	row("1M due at once: the last is looked at after", " ms", m[1], median(last), 80, 16)
	row("1M due at once: the longest loop turn", " ms", median(longest), 0, 1, 0)
}

// beats has a million sessions send a heartbeat every 30 seconds, for 3 seconds in real time, and returns
// how much of a core the process takes. turn is called on each tick, which is n ticks after the first.
func beats(tick time.Duration, order []uint32, touch func(id uint32), turn func(n int)) float64 {
	const run = 3 * time.Second
	sent, begin, used := 0, time.Now(), cpu()
	for n := 1; time.Duration(n)*tick <= run; n++ {
		time.Sleep(time.Until(begin.Add(time.Duration(n) * tick)))
		for until := int(tableN * time.Since(begin) / beatPeriod); sent < until; sent++ {
			touch(order[sent])
		}
		turn(n)
	}
	return 100 * float64(cpu()-used) / float64(time.Since(begin))
}

const beatTimeout, beatPeriod = 90 * time.Second, 30 * time.Second

var beatTicks = []struct {
	tick        time.Duration
	most, least float64
}{{10 * time.Millisecond, 0, 0}, {50 * time.Millisecond, 0, 0}, {100 * time.Millisecond, 0.8, 19}}

func tableBeats(wheel []float64, timers float64) {
	for i, c := range beatTicks {
		row(fmt.Sprintf("CPU, 1M x 30 s all heartbeating, tick %v", c.tick), " % of a core", wheel[i], timers, c.most, c.least)
	}
}

// age is how long ago it was heard who is heard as the kth from now on.
func age(k int) time.Duration { return beatPeriod * time.Duration(tableN-k) / tableN }

func wheelBeats(t *testing.T) (idle float64, used []float64) {
	order := shuffled(tableN)
	idle = beats(100*time.Millisecond, order, func(uint32) {}, func(int) {})
	for _, c := range beatTicks {
		now := Tick(beatPeriod/c.tick) + 1
		w, patience := NewWheel(now), uint32(beatTimeout/c.tick)
		for k, id := range order {
			w.Touch(id, now-Tick(age(k)/c.tick))
			w.Schedule(id, now.Add(1+rand.Uint32N(min(patience, Horizon))))
		}
		runtime.GC()
		first, dead := now, 0
		look := func(_ uint32, last Tick) Tick {
			at := last.Add(patience)
			if !now.Before(at) {
				dead++
			}
			return at
		}
		used = append(used, beats(c.tick, order, func(id uint32) { w.Touch(id, now) }, func(n int) {
			now = first.Add(uint32(n))
			turns(w, now, look)
		}))
		assert.Zero(t, dead, "sessions that were heard of and are taken for dead")
	}
	return idle, used
}

func timerBeats(t *testing.T) float64 {
	order := shuffled(tableN)
	// Timers that were all moved since they were started, as in any period but the first: their old
	// places come up all the time.
	timers := make([]*time.Timer, tableN)
	early := atomic.Int64{}
	begin := time.Now().Add(2 * time.Second)
	start(timers, func(int) time.Duration { return time.Until(begin) + rand.N(beatTimeout) }, func(int) { early.Add(1) })
	for k, id := range order {
		timers[id].Reset(beatTimeout - age(k))
	}
	runtime.GC()
	time.Sleep(time.Until(begin))
	used := beats(100*time.Millisecond, order, func(id uint32) { timers[id].Reset(beatTimeout) }, func(int) {})
	stop(timers)
	clear(timers)
	assert.Zero(t, early.Load(), "timers that fired although they were moved")
	return used
}

func tableLateness(t *testing.T) {
	const tick, within = 10 * time.Millisecond, 3 * time.Second
	deadlines, late, ofTimers := make([]time.Duration, tableN), make([]float64, tableN), make([]float64, tableN)
	for id := range deadlines {
		deadlines[id] = tick + rand.N(within)
		late[id] = math.NaN()
	}
	tickAt := func(d time.Duration) Tick { return Tick(d/tick) + 1 }

	w := NewWheel(1)
	for id, d := range deadlines {
		w.Schedule(uint32(id), tickAt(d+tick-1))
	}
	timers := make([]*time.Timer, tableN)
	runtime.GC()
	begin := time.Now()
	for n := time.Duration(1); w.Pending() > 0; n++ {
		time.Sleep(time.Until(begin.Add(n * tick)))
		turns(w, tickAt(time.Since(begin)), func(id uint32, _ Tick) Tick {
			late[id] = float64(time.Since(begin)-deadlines[id]) / 1e6
			return 0
		})
	}

	var fired atomic.Int64
	done := make(chan struct{})
	begin = time.Now().Add(2 * time.Second)
	start(timers, func(id int) time.Duration { return time.Until(begin) + deadlines[id] }, func(id int) {
		ofTimers[id] = float64(time.Since(begin)-deadlines[id]) / 1e6
		if fired.Add(1) == tableN {
			close(done)
		}
	})
	<-done

	slices.Sort(late) // NaN, of who was not looked at, comes first
	slices.Sort(ofTimers)
	require.GreaterOrEqual(t, late[0], 0.0, "early, or never")
	const what = "lateness, 1M deadlines in 3 s, tick 10 ms: "
	fmt.Printf("| %searliest | %.4g ms | %.4g ms | - | >= 0 ms | - | yes |\n", what, late[0], ofTimers[0])
	row(what+"p99", " ms", late[tableN/100*99], ofTimers[tableN/100*99], 12, 0)
	row(what+"last", " ms", late[tableN-1], ofTimers[tableN-1], 20, 0)
}
