//go:build unix

package heartbeat

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
)

var table = flag.Bool("table", false, "measure the wheel next to time.AfterFunc and print the table, in about a minute")

const (
	tableN      = 1_000_000
	tableRounds = 5 // of each, the wheel's and the timers' in turn; the median is told
)

// TestTable prints what the wheel costs with a million entries, next to time.AfterFunc in the same run,
// and what was asked of it. It fails if something is looked at early or not at all; what is too slow
// it only tells, for that may be the machine's fault.
func TestTable(t *testing.T) {
	if !*table {
		t.Skip("measures for about a minute; to print the table: go test ./heartbeat -run TestTable -v -table")
	}
	fmt.Printf("%s, %s/%s, GOMAXPROCS %d, %d entries\n"+
		"operations: medians of %d; storms of timers: of 3; what takes its time: one run\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.GOMAXPROCS(0), tableN, tableRounds)
	fmt.Println("| | wheel | time.AfterFunc | ratio | target | ratio's target | met |")
	fmt.Println("|---|---|---|---|---|---|---|")
	idle, used := wheelBeats(t) // first, because the runtime has work for a while with timers that were stopped
	tableMemory()
	row("CPU of the next three rows without sessions, tick 100ms", " % of a core", idle, 0, 0, 0)
	tableBeats(used, timerBeats(t))
	tableOps()
	tableStorm(t)
	tableLateness(t)
}

// row prints a row: what was measured, of time.AfterFunc too unless that is 0, and what was asked, 0 for
// nothing. The unit has its blank before it.
func row(what, unit string, wheel, timers, most, least float64) {
	cells, met := [4]string{"-", "-", "-", "-"}, "yes"
	if timers > 0 {
		cells[0] = fmt.Sprintf("%.4g%s", timers, unit)
		cells[1] = "> 1000x"
		if ratio := timers / wheel; wheel > 0 && ratio <= 1000 {
			cells[1] = fmt.Sprintf("%.3gx", ratio)
		}
	}
	if most > 0 {
		cells[2] = fmt.Sprintf("<= %g%s", most, unit)
	}
	if least > 0 {
		cells[3] = fmt.Sprintf(">= %gx", least)
	}
	if most > 0 && wheel > most || least > 0 && timers < least*wheel {
		met = "NO"
	}
	if most == 0 && least == 0 {
		met = "-"
	}
	fmt.Printf("| %s | %.4g%s | %s | %s | %s | %s | %s |\n", what, wheel, unit, cells[0], cells[1], cells[2], cells[3], met)
}

func median[T cmp.Ordered](of []T) T {
	slices.Sort(of)
	return of[len(of)/2]
}

// inTurn runs each of measure several times, one after the other, and returns their medians.
func inTurn(measure ...func() float64) []float64 {
	all := make([][]float64, len(measure))
	for range tableRounds {
		for i, m := range measure {
			all[i] = append(all[i], m())
		}
	}
	medians := make([]float64, len(measure))
	for i := range all {
		medians[i] = median(all[i])
	}
	return medians
}

// nanoseconds returns how long each of n takes f.
func nanoseconds(n int, f func()) float64 {
	begin := time.Now()
	f()
	return float64(time.Since(begin)) / float64(n)
}

// cpu returns the processor time that the process has used.
func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// start starts a timer for each session, as a server would: its function knows the session.
func start(timers []*time.Timer, in func(id int) time.Duration, fire func(id int)) {
	for id := range timers {
		timers[id] = time.AfterFunc(in(id), func() { fire(id) })
	}
}

func stop(timers []*time.Timer) {
	for _, t := range timers {
		t.Stop()
	}
}

// hours are deadlines that do not come.
func hours(int) time.Duration { return time.Hour + rand.N(time.Minute) }

func tableMemory() {
	heap := func() (m runtime.MemStats) {
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m
	}
	collection := func() float64 {
		begin := cpu()
		for range 4 {
			runtime.GC()
		}
		return float64(cpu()-begin) / 4 / 1e6
	}
	timers := make([]*time.Timer, tableN)
	runtime.GC()
	nothing := inTurn(collection)[0]

	w := full(tableN)
	withWheel := heap()
	wheelGC := inTurn(collection)[0] - nothing
	runtime.KeepAlive(w)

	w = nil
	before := heap()
	start(timers, hours, func(int) {})
	withTimers := heap()
	timersGC := inTurn(collection)[0] - nothing
	stop(timers)

	row("memory per entry", " B", float64(withWheel.HeapAlloc-before.HeapAlloc)/tableN,
		float64(withTimers.HeapAlloc-before.HeapAlloc)/tableN, 14, 11)
	row("heap objects per entry", "", float64(withWheel.HeapObjects-before.HeapObjects)/tableN,
		float64(withTimers.HeapObjects-before.HeapObjects)/tableN, 0.001, 0)
	row("extra CPU of a garbage collection", " ms", wheelGC, timersGC, 3, 34)
}

func tableOps() {
	const passes = 3 // over all entries, so that they are not all out of the cache because of the other's turn
	w, order := full(tableN), shuffled(tableN)
	timers := make([]*time.Timer, tableN)
	start(timers, hours, func(int) {})
	now, later := Tick(1), time.Hour

	m := inTurn(func() float64 {
		return nanoseconds(passes*tableN, func() {
			for range passes {
				now = now.Add(1)
				for _, id := range order {
					w.Touch(id, now)
				}
			}
		})
	}, func() float64 {
		return nanoseconds(passes*tableN, func() {
			for range passes {
				later += time.Minute
				for _, id := range order {
					timers[id].Reset(later)
				}
			}
		})
	})
	row("touch, cold: in random order", " ns", m[0], m[1], 4, 140)

	const hot = 100_000
	m = inTurn(func() float64 {
		return nanoseconds(hot, func() {
			for i := range hot {
				w.Touch(tableN/2, Tick(i))
			}
		})
	}, func() float64 {
		return nanoseconds(hot, func() {
			for i := range hot {
				timers[tableN/2].Reset(later + time.Duration(i))
			}
		})
	})
	row("touch, hot: always the same", " ns", m[0], m[1], 2, 0)

	// A quarter of a million more, while a million are pending.
	at, more := make([]Tick, tableN*5/4), make([]*time.Timer, tableN/4)
	m = inTurn(func() float64 {
		renew(w, at)
		for id, t := range at[:tableN] {
			w.Schedule(uint32(id), t)
		}
		return nanoseconds(len(more), func() {
			for i, t := range at[tableN:] {
				w.Schedule(tableN+uint32(i), t)
			}
		})
	}, func() float64 {
		return nanoseconds(len(more), func() {
			for i := range uint32(len(more)) {
				w.Cancel(tableN + i)
			}
		})
	}, func() float64 {
		return nanoseconds(len(more), func() { start(more, hours, func(int) {}) })
	}, func() float64 {
		return nanoseconds(len(more), func() { stop(more) })
	})
	stop(timers)
	row("schedule", " ns", m[0], m[2], 8, 40)
	row("cancel", " ns", m[1], m[3], 1.5, 13)
}
