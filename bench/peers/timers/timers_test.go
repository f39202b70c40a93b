package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asCommand makes this test binary the command, which starts itself to measure.
const asCommand = "PULSEWHEEL_TIMERS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Whatever a keeper does, each timer fires once, and none that was canceled does.
func TestKeepers(t *testing.T) {
	const n = 500
	for _, c := range contenders {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := c.make(n, 10*time.Millisecond)
			defer k.close()
			k.schedule(bases[0])
			k.touch(bases[1])
			k.touch(bases[0])
			k.cancel()
			k.settle()
			require.Zero(t, k.fired().Count, "canceled")

			k.due(time.Now().Add(300 * time.Millisecond))
			fired := k.fired()
			require.Equal(t, n, fired.Count)
			hits := hitsOf(k)
			for i, h := range hits {
				require.EqualValues(t, 1, h, "timer %d", i)
			}
			require.LessOrEqual(t, fired.Earliest, fired.Latest)
			if c.name == contenders[0].name || c.name == "time.AfterFunc" {
				require.GreaterOrEqual(t, fired.Earliest, time.Duration(0), "early")
			}
		})
	}
}

func hitsOf(k keeper) []uint8 {
	switch k := k.(type) {
	case *wheel:
		return k.hits
	case interface{ counted() []uint8 }:
		return k.counted()
	}
	panic(fmt.Sprintf("%T", k))
}

func (f *funcs[T]) counted() []uint8 { return f.hits }

// A wheel that is touched looks again as late as one that was scheduled anew.
func TestTouchChanges(t *testing.T) {
	k := newWheel(3, 100*time.Millisecond).(*wheel)
	k.schedule(bases[0])
	before := k.w.Last(1)
	k.touch(0)
	first := k.w.Last(1)
	k.touch(0)
	require.NotEqual(t, before, first)
	require.NotEqual(t, first, k.w.Last(1), "each touch must store something, or it costs nothing")
}

func TestMeasures(t *testing.T) {
	for _, c := range contenders {
		f, err := costs(c, 20_000)
		require.NoError(t, err, c.name)
		require.Positive(t, f.Touch, c.name)
		require.Positive(t, f.Schedule, c.name)
		require.Positive(t, f.Cancel, c.name)
		if c.name != contenders[0].name {
			require.GreaterOrEqual(t, f.Objects, 1.5, c.name)
			require.Greater(t, f.Bytes, 50.0, c.name)
		} else {
			require.Less(t, f.Objects, 0.1)
			require.Less(t, f.Bytes, 50.0)
		}
	}
}

// The command prints a row for everything, and a target that is missed.
func TestCommand(t *testing.T) {
	t.Setenv(asCommand, "1")
	var out strings.Builder
	require.NoError(t, run(&out, []string{"-n", "2000", "-rounds", "1"}))
	for _, r := range rows {
		require.Contains(t, out.String(), "| "+r.name+" | ")
	}
	require.NotContains(t, out.String(), "had not fired")
	require.Error(t, run(&out, []string{"-measure", "costs", "-of", "nobody"}))
}

func TestMissedTargets(t *testing.T) {
	one := func(touch float64) []finding { return []finding{{Touch: touch}} }
	var out strings.Builder
	printTable(&out, [][]finding{one(5), one(500), one(1500), one(50)})
	require.Contains(t, out.String(), "target missed: touch: ours is 5.0 ns, more than 4.0 ns.")
	require.Contains(t, out.String(), "target missed: touch: time.AfterFunc is 100x ours, not 140x.")
	require.NotContains(t, out.String(), "touch: RussellLuo")
	require.Contains(t, out.String(), "| touch | 5.0 ns | 500.0 ns, 100x (100-100) |")
}

func TestFindingTravels(t *testing.T) {
	want := finding{Touch: 1, First: -2.5, Missing: 3}
	b, err := json.Marshal(want)
	require.NoError(t, err)
	var got finding
	require.NoError(t, json.Unmarshal(b, &got))
	require.Equal(t, want, got)
}

// The benchmarks have a million timers pending. ns/op is for one timer.
const benchTimers = 1_000_000

func each(b *testing.B, run func(b *testing.B, k keeper)) {
	for _, c := range contenders {
		b.Run(c.name, func(b *testing.B) {
			k := c.make(benchTimers, 100*time.Millisecond)
			defer k.close()
			run(b, k)
			k.cancel()
			if n := k.fired().Count; n > 0 {
				b.Fatalf("%d timers came due while they were measured", n)
			}
		})
	}
}

func perTimer(b *testing.B, took time.Duration) {
	b.ReportMetric(float64(took)/float64(b.N)/benchTimers, "ns/op")
}

func BenchmarkTouch(b *testing.B) {
	each(b, func(b *testing.B, k keeper) {
		k.schedule(bases[0])
		b.ResetTimer()
		for i := range b.N {
			k.touch(bases[(i+1)%2])
		}
		perTimer(b, b.Elapsed())
	})
}

func BenchmarkSchedule(b *testing.B) {
	each(b, func(b *testing.B, k keeper) {
		k.schedule(bases[0]) // what a wheel has room for stays
		var took time.Duration
		for range b.N {
			k.cancel()
			k.settle()
			begin := time.Now()
			k.schedule(bases[0])
			took += time.Since(begin)
		}
		perTimer(b, took)
	})
}

func BenchmarkCancel(b *testing.B) {
	each(b, func(b *testing.B, k keeper) {
		var took time.Duration
		for range b.N {
			k.settle()
			k.schedule(bases[0])
			begin := time.Now()
			k.cancel()
			took += time.Since(begin)
		}
		perTimer(b, took)
	})
}

// BenchmarkCollect is a garbage collection while all are pending: its CPU time, and what it is of a process
// without them.
func BenchmarkCollect(b *testing.B) {
	each(b, func(b *testing.B, k keeper) {
		idle := collect()
		before := heap()
		k.schedule(bases[0])
		after := heap()
		var busy time.Duration
		b.ResetTimer()
		for range b.N {
			busy += collect()
		}
		b.ReportMetric(float64((busy/time.Duration(b.N)-idle).Microseconds())/1000, "cpu-ms-more/gc")
		b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/benchTimers, "B/timer")
		b.ReportMetric(float64(int64(after.HeapObjects)-int64(before.HeapObjects))/benchTimers, "objects/timer")
	})
}

// BenchmarkDue lets all be due at once.
func BenchmarkDue(b *testing.B) {
	for _, c := range contenders {
		b.Run(c.name, func(b *testing.B) {
			var first, last time.Duration
			for range b.N {
				k := c.make(benchTimers, 10*time.Millisecond)
				k.due(time.Now().Add(3 * time.Second))
				fired := k.fired()
				k.close()
				if fired.Count != benchTimers {
					b.Fatalf("%d of %d timers have fired", fired.Count, benchTimers)
				}
				first, last = min(first, fired.Earliest), max(last, fired.Latest)
				runtime.GC()
			}
			b.ReportMetric(float64(-first.Microseconds())/1000, "ms-early")
			b.ReportMetric(float64(last.Microseconds())/1000, "ms-last")
			b.ReportMetric(0, "ns/op")
		})
	}
}
