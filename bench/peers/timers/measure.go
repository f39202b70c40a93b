package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A finding is what was measured of one contender in one process. It travels as JSON.
type finding struct {
	// Of costs, with all timers pending:
	Touch, Schedule, Cancel float64 // nanoseconds for one
	Bytes, Objects          float64 // on the heap, for one
	Collect                 float64 // milliseconds of CPU more for each garbage collection

	// Of storm, all due at the same instant:
	First, Last float64 // milliseconds after it
	Peak        float64 // MB of memory that were resident at most; 0: not known on this system
	Missing     int     // timers that did not fire
}

// What can be measured, each in a process of its own.
var measures = map[string]func(c contender, n int) (finding, error){"costs": costs, "storm": storm}

// repeats is how often one process measures the same; the median counts.
const repeats = 5

func costs(c contender, n int) (finding, error) {
	k := c.make(n, 100*time.Millisecond)
	defer k.close()
	idle := collect()
	before := heap()
	k.schedule(bases[0])
	after := heap()
	f := finding{
		Bytes:   (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / float64(n),
		Objects: (float64(after.HeapObjects) - float64(before.HeapObjects)) / float64(n),
		Collect: (collect() - idle).Seconds() * 1000,
	}
	var touches, schedules, cancels []float64
	each := func(do func()) float64 {
		begin := time.Now()
		do()
		return float64(time.Since(begin)) / float64(n)
	}
	for i := range repeats {
		touches = append(touches, each(func() { k.touch(bases[(i+1)%2]) }))
	}
	for range repeats {
		cancels = append(cancels, each(k.cancel))
		k.settle()
		runtime.GC()
		schedules = append(schedules, each(func() { k.schedule(bases[0]) }))
	}
	k.cancel()
	if fired := k.fired().Count; fired > 0 {
		return f, fmt.Errorf("%d timers came due while they were measured: this machine is too slow for so many", fired)
	}
	f.Touch, f.Schedule, f.Cancel = median(touches), median(schedules), median(cancels)
	return f, nil
}

// storm lets all timers be due at once.
func storm(c contender, n int) (finding, error) {
	k := c.make(n, 10*time.Millisecond)
	defer k.close()
	// So long that all are pending before: some take nearly a microsecond each to be started.
	begun := time.Now()
	patience := time.Second + time.Duration(n)*2*time.Microsecond
	k.due(begun.Add(patience))
	fired := k.fired()
	return finding{
		First: fired.Earliest.Seconds() * 1000, Last: fired.Latest.Seconds() * 1000,
		Peak: peak(), Missing: n - fired.Count,
	}, nil
}

// heap returns what is live.
func heap() runtime.MemStats {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers and pools held
	runtime.ReadMemStats(&m)
	return m
}

// collect returns the CPU time of a garbage collection.
func collect() time.Duration {
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}}
	read := func() float64 {
		metrics.Read(s)
		return s[0].Value.Float64()
	}
	runtime.GC()
	var all []float64
	for range repeats {
		before := read()
		runtime.GC()
		all = append(all, read()-before)
	}
	return time.Duration(median(all) * float64(time.Second))
}

// peak returns how many MB of this process were resident at most, 0 where /proc does not tell.
func peak() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	kib, _ := strconv.ParseFloat(strings.TrimSpace(line), 64)
	return kib / 1024
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
