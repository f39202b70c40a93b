package busy

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A load is what the system has said at a time, or of a span of time. What it does not say is 0.
type load struct {
	at     time.Time
	span   time.Duration
	waited time.Duration // for how long some had to wait for a processor: see Documentation/accounting/psi.rst of Linux
	all    time.Duration // of the processors, that all had: proc_stat(5)
	own    time.Duration // and that this process had, and its children that have ended: proc_pid_stat(5)
}

func loadNow() load {
	return load{at: time.Now(), waited: pressure(), all: machineCPU(), own: processCPU("self")}
}

// less is what was said between before and l.
func (l load) less(before load) load {
	return load{l.at, l.at.Sub(before.at), l.waited - before.waited, l.all - before.all, l.own - before.own}
}

// others is the share of so many processors that others had than this process and its children, which have used so much.
func (l load) others(children time.Duration, cpus int) float64 {
	return float64(max(l.all-l.own-children, 0)) / float64(max(l.span, 1)) / float64(cpus)
}

// busy is what BusyBetween reports.
func (l load) busy(held time.Duration, others float64) bool {
	return held >= max(l.span/2, Doze) || l.waited >= l.span/3 && others >= 0.2
}

func pressure() time.Duration {
	b, _ := os.ReadFile("/proc/pressure/cpu")
	some, _, _ := strings.Cut(string(b), "\n")
	_, total, _ := strings.Cut(some, "total=")
	us, _ := strconv.ParseInt(strings.TrimSpace(total), 10, 64)
	return time.Duration(us) * time.Microsecond
}

// hz is what the kernel counts processor time in.
const hz = 10 * time.Millisecond

// machineCPU is what has been used of all processors together since the machine started, and what other machines took of them.
func machineCPU() (sum time.Duration) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) { // cpu user nice system idle iowait irq softirq steal ...
		if n, err := strconv.ParseInt(f, 10, 64); err == nil && i <= 8 && i != 4 && i != 5 {
			sum += time.Duration(n) * hz
		}
	}
	return sum
}

// processCPU is what a process has used since it started, and its children that have ended.
func processCPU(pid string) time.Duration {
	cpu, _ := processStat(pid)
	return cpu
}

// processStat is also the process's parent.
func processStat(pid string) (cpu time.Duration, parent int) {
	b, _ := os.ReadFile("/proc/" + pid + "/stat")
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	f := strings.Fields(rest) // from the third on: state ppid ... utime stime cutime cstime
	if len(f) < 15 {
		return 0, 0
	}
	for _, s := range f[11:15] {
		n, _ := strconv.ParseInt(s, 10, 64)
		cpu += time.Duration(n) * hz
	}
	parent, _ = strconv.Atoi(f[1])
	return cpu, parent
}

// childrenCPU is what all that this process has started, and that has not ended, has used since it started.
func childrenCPU() (sum time.Duration) {
	cpu, parents := map[int]time.Duration{}, map[int]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			cpu[pid], parents[pid] = processStat(fmt.Sprint(pid))
		}
	}
	self := os.Getpid()
	for pid := range parents {
		for p := parents[pid]; p != 0; p = parents[p] {
			if p == self {
				sum += cpu[pid]
				break
			}
		}
	}
	return sum
}
