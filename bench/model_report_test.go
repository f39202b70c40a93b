//go:build linux

package bench

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pulsewheel/pulsewheel/server"
)

// tally is what the director counts.
type tally struct {
	seq          int // of appointments
	counts       map[*act]*count
	told         map[tellingKind]uint64
	reasons      map[server.Reason]uint64
	reasonOf     map[uint64]server.Reason // by session
	suspicions   map[string]int           // by why
	slowSuspects int                      // of those who are slow to answer
	redials      int                      // made again, over paths that had been broken
	heldSuspects int                      // of those whom the machine kept from answering
	skipped      int                      // deeds to which the machine did not get in time
	failures     int
	ending       bool
	heldBefore   time.Duration

	liveMin, liveSum, liveLooks int
}

// count is what came of one act.
type count struct {
	done, lived int
	told        map[server.Reason]int
	after       []time.Duration // from the act to OnClose; slow legs, lazy clients and blocked loops are left out
	suspect     []time.Duration // from the act to OnSuspect; likewise
	suspects    int             // of those that lived
}

func newTally() tally {
	t := tally{counts: map[*act]*count{}, told: map[tellingKind]uint64{}, reasons: map[server.Reason]uint64{}, reasonOf: map[uint64]server.Reason{},
		suspicions: map[string]int{}, liveMin: 1 << 30}
	for _, a := range acts {
		t.counts[a] = &count{told: map[server.Reason]int{}}
	}
	return t
}

// deedMost is how long it may take to do one deed.
const deedMost = time.Second

// failuresShown is how many failures are printed in full.
const failuresShown = 25

func (d *director) since(t time.Time) time.Duration { return t.Sub(d.begun).Round(time.Millisecond) }

// failf reports a failure, with what is needed to have it again.
//
// While ip(8) waits for others that change networks, the director neither learns what it has done nor
// what is told: then it judges nothing.
func (d *director) failf(format string, args ...any) {
	if d.longest > deedMost {
		if !d.t.Unsure() {
			d.t.CannotTell("one deed took %v, and until then nothing was learned of the others: "+format, append([]any{d.longest}, args...)...)
		}
		return
	}
	if d.failures++; d.failures <= failuresShown {
		assert.Fail(d.t, fmt.Sprintf(format, args...), "seed %d, %d sessions, %v, at %v", d.plan.seed, len(d.slots), d.plan.length, d.since(time.Now()))
	}
}

// fail reports a failure over one peer, with all that is known of it.
func (d *director) fail(p *peer, format string, args ...any) {
	evidence := "it is not told to have ended"
	if p.end != nil {
		evidence = fmt.Sprintf("told %d %v\nrecord %v\nkernel %+v, %v before", uint16(p.end.Reason), p.end, p.end.Record, p.end.Record.TCP, p.end.Record.TCPAge)
	}
	truth := "nothing was done to it"
	if p.act != nil {
		truth = fmt.Sprintf("%s at %v (ordered at %v): %s", p.act.name, d.since(p.actedAt), d.since(p.orderedAt), p.act.truth())
	}
	d.failf("%s\nclient %d, slot %d (%v), process %d, leg %d (%s), at %v\n%s\n%s\nhistory: %s", fmt.Sprintf(format, args...), p.number, p.slot,
		p.trait, p.proc.index, p.proc.leg, d.plan.legs[p.proc.leg].kind, p.addr, truth, evidence, strings.Join(p.history, "; "))
}

// introduce prints what will be done, and which truths are ambiguous.
func (p *plan) introduce() {
	deeds := map[*act]int{}
	for _, e := range p.deeds {
		deeds[e.act]++
	}
	fmt.Printf("model: seed %d, %d sessions, %v of acts; plan %016x: %d deeds, %d client processes\n", p.seed, len(p.traits),
		p.length, p.fingerprint(), len(p.deeds), len(p.procs))
	for i, l := range p.legs {
		slots, packs := 0, 0
		for _, k := range l.procs {
			slots += p.procs[k].slots
			if p.procs[k].pack {
				packs++
			}
		}
		fmt.Printf("  leg %d: %s; %d sessions in %d processes, %d of them packs\n", i, l.kind, slots, len(l.procs), packs)
	}
	fmt.Println("ambiguous truths:")
	for _, a := range acts {
		if a.why != "" {
			fmt.Printf("  %s: %s: %s\n", a.name, a.truth(), a.why)
		}
	}
}

// report prints what came of it.
func (d *director) report(took, busy time.Duration) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "act\tdone\ttruth\ttold\tafter p50\tp99\tmax\tlimit\tsuspect p50\tp99\tmax")
	for _, a := range acts {
		c := d.counts[a]
		if c.done == 0 {
			continue
		}
		if a.lives() {
			fmt.Fprintf(w, "%s\t%d\tlives\t%d lived, %d suspicions\t-\t-\t-\t-\t-\t-\t-\n", a.name, c.done, c.lived, c.suspects)
			continue
		}
		var told []string
		for _, r := range slices.Sorted(maps.Keys(c.told)) {
			told = append(told, fmt.Sprintf("%d x%d", uint16(r), c.told[r]))
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%v\t%s\n", a.name, c.done, a.truth(), strings.Join(told, ", "), quantiles(c.after), a.limit, quantiles(c.suspect))
	}
	_ = w.Flush()
	st := d.srv.Stats()
	fmt.Printf("sessions up: %d on average, %d at least; opened %d, closed %d:", d.liveSum/max(d.liveLooks, 1), d.liveMin, st.Opened, st.Closed)
	for _, r := range slices.Sorted(maps.Keys(st.Reasons)) {
		fmt.Printf(" %d x%d", uint16(r), st.Reasons[r])
	}
	fmt.Println()
	fmt.Printf("suspicions: %v; of slow or lazy clients to whom nothing was done %d, of clients held up by the machine %d; grace rounds: %d; dials made again after a broken path: %d\n",
		d.suspicions, d.slowSuspects, d.heldSuspects, st.GraceRounds, d.redials)
	fmt.Printf("machine: %.2f of %d cores busy; this process was held up %v in %v; deeds left out because the machine was late: %d of %d; failures: %d\n",
		busy.Seconds()/took.Seconds(), runtime.NumCPU(), d.held.total().Round(time.Millisecond), took.Round(time.Second), d.skipped, len(d.plan.deeds), d.failures)
}

// quantiles is p50, p99 and the longest, in three columns.
func quantiles(all []time.Duration) string {
	if len(all) == 0 {
		return "-\t-\t-"
	}
	slices.Sort(all)
	round := func(d time.Duration) time.Duration { // to three digits
		unit := time.Nanosecond
		for d/unit >= 1000 {
			unit *= 10
		}
		return d.Round(unit)
	}
	return fmt.Sprintf("%v\t%v\t%v", round(all[len(all)/2]), round(all[len(all)*99/100]), round(all[len(all)-1]))
}

// busyCores is how long the machine's processors have been at work, all together (proc(5): /proc/stat, in
// hundredths of a second).
func busyCores() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	sum := 0
	for i, f := range strings.Fields(string(b))[1:9] {
		if n, err := strconv.Atoi(f); err == nil && i != 3 && i != 4 { // idle, iowait
			sum += n
		}
	}
	return time.Duration(sum) * 10 * time.Millisecond
}
