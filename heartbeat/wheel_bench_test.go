package heartbeat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// Every benchmark here tells the time for one entry as ns/op, whatever b.N is: how often a round over
// all entries was made. What is needed to begin a round again is not counted.

var benchSizes = []struct {
	name string
	n    uint32
}{{"1k", 1000}, {"100k", 100_000}, {"1M", 1_000_000}, {"10M", 10_000_000}}

// afterFuncMax is how many timers time.AfterFunc is measured with: more take gigabytes.
const afterFuncMax = 1_000_000

// rounds runs b.N rounds for each size up to most and reports the time per entry of what round returns: the time
// it took, for how many entries.
func rounds(b *testing.B, most uint32, start func(n uint32) (round func() (time.Duration, int))) {
	for _, size := range benchSizes {
		if size.n > most {
			continue
		}
		b.Run(size.name, func(b *testing.B) {
			round := start(size.n)
			runtime.GC()
			b.ResetTimer()
			var took time.Duration
			entries := 0
			for range b.N {
				t, n := round()
				took += t
				entries += n
			}
			b.ReportMetric(float64(took)/float64(entries), "ns/op")
		})
	}
}

// shuffled returns the ids below n in random order.
func shuffled(n uint32) []uint32 {
	order := make([]uint32, n)
	for i := range order {
		order[i] = uint32(i)
	}
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

func full(n uint32) *Wheel {
	w := NewWheel(1)
	for i := range n {
		w.Touch(i, 1)
		w.Schedule(i, Tick(1).Add(1+rand.Uint32N(Horizon)))
	}
	return w
}

// renew lets all of w expire, and puts the ticks at which they are scheduled next into at.
func renew(w *Wheel, at []Tick) {
	now := w.Now().Add(2 * slots)
	w.Advance(now, noLimit, func(uint32, Tick) Tick { return 0 })
	for i := range at {
		at[i] = now.Add(1 + rand.Uint32N(Horizon))
	}
}

// Traffic on sessions in random order: cold if there are many.
func BenchmarkTouch(b *testing.B) {
	rounds(b, math.MaxUint32, func(n uint32) func() (time.Duration, int) {
		w, now := full(n), Tick(1)
		order := shuffled(n)
		return func() (time.Duration, int) {
			now++
			begin := time.Now()
			for _, id := range order {
				w.Touch(id, now)
			}
			return time.Since(begin), len(order)
		}
	})
}

// Traffic on one session.
func BenchmarkTouchHot(b *testing.B) {
	rounds(b, math.MaxUint32, func(n uint32) func() (time.Duration, int) {
		w, now := full(n), Tick(1)
		return func() (time.Duration, int) {
			now++
			begin := time.Now()
			for range 1000 {
				w.Touch(n/2, now)
			}
			return time.Since(begin), 1000
		}
	})
}

// New sessions, on a wheel that was as full before.
func BenchmarkSchedule(b *testing.B) {
	rounds(b, math.MaxUint32, func(n uint32) func() (time.Duration, int) {
		w, at := full(n), make([]Tick, n)
		return func() (time.Duration, int) {
			renew(w, at)
			begin := time.Now()
			for id, t := range at {
				w.Schedule(uint32(id), t)
			}
			return time.Since(begin), len(at)
		}
	})
}

func BenchmarkCancel(b *testing.B) {
	rounds(b, math.MaxUint32, func(n uint32) func() (time.Duration, int) {
		w, at := full(n), make([]Tick, n)
		return func() (time.Duration, int) {
			renew(w, at)
			for id, t := range at {
				w.Schedule(uint32(id), t)
			}
			begin := time.Now()
			for i := range n {
				w.Cancel(i)
			}
			return time.Since(begin), int(n)
		}
	})
}

// The end of every session's patience, a tick at a time: all have been heard of since, and are
// looked at again later.
func BenchmarkRearm(b *testing.B) {
	rounds(b, math.MaxUint32, func(n uint32) func() (time.Duration, int) {
		w := full(n)
		now := w.Now()
		return func() (time.Duration, int) {
			looks := 0
			begin := time.Now()
			for range Horizon {
				now = now.Add(1)
				looked, _ := w.Advance(now, noLimit, func(_ uint32, last Tick) Tick { return now.Add(Horizon) })
				looks += looked
			}
			return time.Since(begin), looks
		}
	})
}

// All sessions expire in one tick, 4096 in a turn of the event loop.
func BenchmarkExpire(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			w, now := NewWheel(1), Tick(1)
			var took, longest time.Duration
			for range b.N {
				for i := range size.n {
					w.Schedule(i, now.Add(100))
				}
				now = now.Add(100)
				for done := false; !done; {
					begin := time.Now()
					_, done = w.Advance(now, 4096, func(uint32, Tick) Tick { return 0 })
					turn := time.Since(begin)
					took += turn
					longest = max(longest, turn)
				}
			}
			b.ReportMetric(float64(took)/float64(b.N)/float64(size.n), "ns/op")
			b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/all")
			b.ReportMetric(float64(longest.Microseconds()), "µs/longest-turn")
		})
	}
}

// What a million sessions cost that send a heartbeat every 30 seconds, at 100 ms a tick and with a
// timeout of 90 seconds.
func BenchmarkHeartbeats(b *testing.B) {
	const n, period, timeout = 1_000_000, 300, 900
	w, now := NewWheel(1), Tick(1)
	order := rand.Perm(n)
	for id := range uint32(n) {
		w.Touch(id, now)
		w.Schedule(id, now.Add(1+rand.Uint32N(timeout)))
	}
	look := func(_ uint32, last Tick) Tick {
		if at := last.Add(timeout); now.Before(at) {
			return at
		}
		return now.Add(timeout)
	}
	ticks := 0
	b.ResetTimer()
	for range b.N {
		for part := range period { // a period, so that every session sends once
			for _, id := range order[part*n/period : (part+1)*n/period] {
				w.Touch(uint32(id), now)
			}
			now = now.Add(1)
			w.Advance(now, noLimit, look)
			ticks++
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/(float64(ticks)/10)*100, "%core")
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/n, "ns/op")
}

// afterFuncs are what the wheel is compared with: a time.Timer for each session.
func afterFuncs(n uint32) []*time.Timer {
	timers := make([]*time.Timer, n)
	for i := range timers {
		timers[i] = time.AfterFunc(time.Hour+time.Duration(rand.Int64N(int64(time.Minute))), func() {})
	}
	return timers
}

func BenchmarkAfterFunc(b *testing.B) {
	rounds(b, afterFuncMax, func(n uint32) func() (time.Duration, int) {
		return func() (time.Duration, int) {
			begin := time.Now()
			timers := afterFuncs(n)
			took := time.Since(begin)
			for _, t := range timers {
				t.Stop()
			}
			return took, len(timers)
		}
	})
}

func BenchmarkAfterFuncReset(b *testing.B) {
	rounds(b, afterFuncMax, func(n uint32) func() (time.Duration, int) {
		timers := afterFuncs(n)
		b.Cleanup(func() {
			for _, t := range timers {
				t.Stop()
			}
		})
		order := rand.Perm(int(n))
		patience := time.Hour
		return func() (time.Duration, int) {
			patience += time.Minute
			begin := time.Now()
			for _, i := range order {
				timers[i].Reset(patience)
			}
			return time.Since(begin), len(order)
		}
	})
}

func BenchmarkAfterFuncStop(b *testing.B) {
	rounds(b, afterFuncMax, func(n uint32) func() (time.Duration, int) {
		return func() (time.Duration, int) {
			timers := afterFuncs(n)
			begin := time.Now()
			for _, t := range timers {
				t.Stop()
			}
			return time.Since(begin), len(timers)
		}
	})
}

// What a million entries add to a garbage collection.
func BenchmarkCollect(b *testing.B) {
	for _, c := range []struct {
		name string
		make func() any
		free func(any)
	}{
		{"nothing", func() any { return nil }, func(any) {}},
		{"wheel", func() any { return full(1_000_000) }, func(any) {}},
		{"AfterFunc", func() any { return afterFuncs(1_000_000) }, func(x any) {
			for _, t := range x.([]*time.Timer) {
				t.Stop()
			}
		}},
	} {
		b.Run(fmt.Sprint("1M/", c.name), func(b *testing.B) {
			x := c.make()
			runtime.GC()
			for b.Loop() {
				runtime.GC()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/gc")
			c.free(x)
		})
	}
}
