//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/server"
)

// A deadlineKind is how late one kind of deadline was told.
type deadlineKind struct {
	kind     string
	promised time.Duration
	late     []time.Duration // since the server had heard of it
	byClient []time.Duration // since the client's act
	never    int
	wrong    map[string]int // told otherwise
}

// lateAt is a quantile of those told; the 99th percentile of fewer than 100 is the worst.
func lateAt(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[max(int(math.Ceil(q*float64(len(s))))-1, 0)]
}

// limit is how late the 99th percentile may be.
func (f *deadlinesFound) limit(l *deadlineKind) time.Duration {
	limit := 2*f.Tick + l.promised/20
	if f.flood > 0 {
		limit += f.told.Loop.LagWorst
	}
	return limit
}

// kinds returns what was found, by kind.
func (f *deadlinesFound) kinds() []*deadlineKind {
	var all []*deadlineKind
	for _, d := range f.timers() {
		l := &deadlineKind{kind: fmt.Sprintf("After(%v)", d), promised: d, late: f.told.Timers[d]}
		for _, late := range f.told.Pending[d] {
			l.late = append(l.late, late)
			if late > *deadlinesWait {
				l.never++
			}
		}
		all = append(all, l)
	}
	for _, k := range []struct {
		kind string
		want []server.Reason
		from func(observed) int64
		d    time.Duration
	}{
		{probeMute, []server.Reason{server.PeerUnready}, func(g observed) int64 { return g.Opened }, f.Handshake},
		{probeHalf, []server.Reason{server.PeerStalledFrame}, func(g observed) int64 { return g.Heard }, f.Frame},
		{probeSlow, slowReasons(f.promises), func(g observed) int64 { return g.Heard }, f.Write},
		{probeFrozen, []server.Reason{server.PeerFrozen}, func(g observed) int64 { return g.Heard }, f.Timeout},
	} {
		l := &deadlineKind{kind: k.kind, promised: k.d, wrong: map[string]int{}}
		for _, p := range f.probes {
			if p.Kind != k.kind {
				continue
			}
			g := f.told.Probes[p.Port]
			if g.Closed == 0 {
				l.never++
				continue
			}
			l.late = append(l.late, time.Duration(g.Closed-k.from(g))-k.d)
			l.byClient = append(l.byClient, time.Duration(g.Closed-p.Acted)-k.d)
			if !slices.Contains(k.want, server.Reason(g.Reason)) {
				l.wrong[g.Detail]++
			}
		}
		all = append(all, l)
	}
	return all
}

// slowReasons are what a peer that neither reads nor answers may be told: the silence is due at the
// same time if WriteTimeout is Policy.Timeout.
func slowReasons(p promises) []server.Reason {
	if p.Write < p.Timeout {
		return []server.Reason{server.PeerSlow}
	}
	return []server.Reason{server.PeerSlow, server.PeerFrozen}
}

// busyShare is how much of the time a thread of the server may wait for a CPU on a machine that can
// tell how late a server is.
const busyShare = 0.25

// judge returns what is wrong. If it may be the machine's, it is an excuse instead.
func (f *deadlinesFound) judge() (failures []string, excuse string) {
	for _, l := range f.kinds() {
		p99, limit := lateAt(l.late, 0.99), f.limit(l)
		if l.never > 0 {
			failures = append(failures, fmt.Sprintf("%s, %s: %d were not told within %v of when they were due", f.name, l.kind, l.never, *deadlinesWait))
		}
		for told, n := range l.wrong {
			failures = append(failures, fmt.Sprintf("%s, %s: %d were told %s", f.name, l.kind, n, told))
		}
		if p99 <= limit {
			continue
		}
		what := fmt.Sprintf("%s, %s, promised %v: p99 %v late, more than %v", f.name, l.kind, l.promised, rig.Short(p99), rig.Short(limit))
		if f.waited.Seconds() > busyShare*f.since.Seconds() && p99 <= limit+f.waited {
			excuse = fmt.Sprintf("this machine is too busy to tell: the server waited for a CPU for %v of %v; %s",
				rig.Short(f.waited), rig.Short(f.since), what)
		} else {
			failures = append(failures, what)
		}
	}
	for _, lost := range f.lost {
		failures = append(failures, fmt.Sprintf("%s: a client that was live was ended: %s", f.name, lost))
	}
	if len(failures) > 0 {
		excuse = ""
	}
	return failures, excuse
}

// deadlineBook holds the tables.
type deadlineBook struct{ late, loops rig.Table }

func (b *deadlineBook) enter(f deadlinesFound) {
	b.late.Head = []string{"scene, deadline", "promised", "told", "late: p50", "p99", "max", "p99 may be", "by the client: p99", "never told", "told otherwise"}
	b.loops.Head = []string{"scene", "echoes/s", "p50", "p99", "longest round", "wheel's share", "longest sweep", fmt.Sprintf("after a stop of %v", *deadlinesStop), "waited for a CPU"}
	short := func(d []time.Duration, q float64) string {
		if len(d) == 0 {
			return "-"
		}
		return rig.Short(lateAt(d, q))
	}
	for _, l := range f.kinds() {
		wrong := 0
		for _, n := range l.wrong {
			wrong += n
		}
		b.late.Add(f.name+": "+l.kind, l.promised.String(), fmt.Sprint(len(l.late)), short(l.late, 0.5), short(l.late, 0.99), short(l.late, 1),
			rig.Short(f.limit(l)), short(l.byClient, 0.99), fmt.Sprint(l.never), fmt.Sprint(wrong))
	}
	row := []string{f.name, "-", "-", "-", "-", "-", "-", "-", fmt.Sprintf("%.0f %%", 100*f.waited.Seconds()/f.since.Seconds())}
	if f.load.Messages > 0 {
		row[1] = rig.Count(f.load.Rate())
		row[2], row[3] = rig.Short(f.load.Latency.Quantile(0.5)), rig.Short(f.load.Latency.Quantile(0.99))
	}
	if l := f.told.Loop; l.Known {
		row[4], row[6], row[7] = rig.Short(l.LagWorst), rig.Short(l.SweepLongest), rig.Short(f.stopped.SweepLongest)
		row[5] = fmt.Sprintf("%.2f %%", 100*(l.Sweeping-f.before.Sweeping).Seconds()/f.since.Seconds())
	}
	b.loops.Add(row...)
}

func (b *deadlineBook) String() string {
	var out bytes.Buffer
	b.late.Print(&out)
	fmt.Fprintln(&out)
	b.loops.Print(&out)
	return out.String()
}

// waitedForCPU returns for how long each thread of a process has waited for a CPU so far, by the thread.
func waitedForCPU(t testing.TB, pid int) map[string]time.Duration {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	require.NoError(t, err)
	all := map[string]time.Duration{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		var ran, waited int64
		if _, err := fmt.Sscan(strings.TrimSpace(string(b)), &ran, &waited); err == nil {
			all[name] = time.Duration(waited)
		}
	}
	return all
}

// longestWait returns the longest that a thread has waited between two looks.
func longestWait(before, after map[string]time.Duration) (longest time.Duration) {
	for name, d := range after {
		longest = max(longest, d-before[name])
	}
	return longest
}
