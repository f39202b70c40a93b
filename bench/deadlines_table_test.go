//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/server"
)

// A deadlineKind is how late one kind of deadline was told.
type deadlineKind struct {
	kind     string
	promised time.Duration
	late     []time.Duration // since the server had heard of it; of a timer that is overdue, so far
	byClient []time.Duration // since the client's act
	told     int
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
		l := &deadlineKind{kind: fmt.Sprintf("After(%v)", d), promised: d}
		l.late, l.told = f.told.Timers[d], len(f.told.Timers[d])
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
			g := f.told.Probes[p.Addr]
			if g.Closed == 0 {
				l.never++
				continue
			}
			l.told++
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

// opening returns how long it took from a probe's connect to its OnOpen: no deadline is for that.
func (f *deadlinesFound) opening() (all []time.Duration) {
	for _, p := range f.probes {
		if g := f.told.Probes[p.Addr]; p.Kind == probeMute && g.Opened != 0 {
			all = append(all, time.Duration(g.Opened-p.Acted))
		}
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

// judge returns what is wrong, and what is told too late. The latter may be the machine's doing: excuse
// says so if a thread of the server waited for a CPU for as long as all that is late by.
func (f *deadlinesFound) judge() (wrong, late []string, excuse string) {
	machine := true
	for _, l := range f.kinds() {
		for told, n := range l.wrong {
			wrong = append(wrong, fmt.Sprintf("%s, %s: %d were told %s", f.name, l.kind, n, told))
		}
		by, what := lateAt(l.late, 0.99), "p99"
		if l.never > 0 {
			by, what = *deadlinesWait, fmt.Sprintf("%d not told when", l.never)
		}
		limit, waited := f.limit(l), f.cpu.worst(by)
		if by <= limit {
			continue
		}
		text := fmt.Sprintf(
			"%s, %s, promised %v: %s %v late, more than %v; in such a time a thread waited for a CPU for %v at most",
			f.name, l.kind, l.promised, what, rig.Short(by), rig.Short(limit), rig.Short(waited))
		if l.never > 0 && by-waited > limit {
			wrong = append(wrong, text)
		} else {
			late = append(late, text)
			machine = machine && by-waited <= limit
		}
	}
	for _, lost := range f.lost {
		wrong = append(wrong, fmt.Sprintf("%s: a client that was live was ended: %s", f.name, lost))
	}
	if machine && len(late) > 0 {
		excuse = "this machine is too busy to tell: " + strings.Join(late, "; ")
	}
	return wrong, late, excuse
}

// deadlineBook holds the tables.
type deadlineBook struct{ late, loops rig.Table }

func (b *deadlineBook) enter(f deadlinesFound) {
	b.late.Head = []string{"scene, deadline", "promised", "told", "late: p50", "p99", "max", "p99 may be",
		"by the client: p99", "never told", "told otherwise"}
	b.loops.Head = []string{"scene", "echoes/s", "p50", "p99", "connect to OnOpen: p50", "p99", "longest round",
		"wheel's share", "longest sweep", fmt.Sprintf("after a stop of %v", *deadlinesStop), "waited for a CPU"}
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
		b.late.Add(f.name+": "+l.kind, l.promised.String(), fmt.Sprint(l.told),
			short(l.late, 0.5), short(l.late, 0.99), short(l.late, 1), rig.Short(f.limit(l)),
			short(l.byClient, 0.99), fmt.Sprint(l.never), fmt.Sprint(wrong))
	}
	opening := f.opening()
	row := []string{f.name, "-", "-", "-", short(opening, 0.5), short(opening, 0.99)}
	if f.load.Messages > 0 {
		row[1] = rig.Count(f.load.Rate())
		row[2], row[3] = rig.Short(f.load.Latency.Quantile(0.5)), rig.Short(f.load.Latency.Quantile(0.99))
	}
	l, share := f.told.Loop, func(d time.Duration) string {
		return fmt.Sprintf("%.1f %%", 100*d.Seconds()/f.since.Seconds())
	}
	row = append(row, rig.Short(l.LagWorst), share(l.Sweeping-f.before.Sweeping),
		rig.Short(l.SweepLongest), rig.Short(f.stopped.SweepLongest), share(f.cpu.worst(f.since)))
	b.loops.Add(row...)
}

func (b *deadlineBook) String() string {
	var out bytes.Buffer
	b.late.Print(&out)
	fmt.Fprintln(&out)
	b.loops.Print(&out)
	return out.String()
}
