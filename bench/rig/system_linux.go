package rig

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPUs returns the CPUs that this process may run on.
func CPUs() []int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil
	}
	var all []int
	for i := 0; len(all) < set.Count(); i++ {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	return all
}

// startOn starts a process bound to CPUs: a child inherits them from the thread that starts it.
func startOn(cmd *exec.Cmd, cpus []int) error {
	if len(cpus) == 0 {
		return cmd.Start()
	}
	runtime.LockOSThread()
	var before, set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("it cannot be bound to CPUs %v: %w", cpus, err)
	}
	err := cmd.Start()
	if unix.SchedSetaffinity(0, &before) == nil {
		runtime.UnlockOSThread() // otherwise this thread is of no more use to others
	}
	return err
}

// usage reads the process's CPU clock, which counts nanoseconds, and its threads' context switches.
func usage(pid int) (Usage, error) {
	const sched = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h: user and system, of all threads
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return Usage{}, fmt.Errorf("rig: the CPU clock of process %d: %w", pid, err)
	}
	u := Usage{CPU: time.Duration(ts.Nano())}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return Usage{}, err
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		u.Voluntary += field(b, "voluntary_ctxt_switches:")
		u.Involuntary += field(b, "nonvoluntary_ctxt_switches:")
	}
	return u, nil
}

// field is the number in a line of a file of /proc, zero if it is not there.
func field(file []byte, name string) int {
	for line := range bytes.Lines(file) {
		if rest, ok := strings.CutPrefix(string(line), name); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	return 0
}

// rss is the resident memory of a process, in bytes.
func rss(pid int) (int, error) {
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)); err == nil {
		if kib := field(b, "Rss:"); kib > 0 {
			return kib << 10, nil
		}
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("rig: %w", err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, fmt.Errorf("rig: /proc/%d/statm: %w", pid, err)
	}
	return resident * os.Getpagesize(), nil
}
