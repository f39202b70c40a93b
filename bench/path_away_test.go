//go:build linux

package bench

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	awayClients = flag.Int("away.clients", 4, "TestLinksAway: clients of each kind for each length, at most 60")
	awayLong    = flag.Bool("away.long", false, "TestLinksAway: every length, and both policies")
	awayTimeout = flag.Duration("away.timeout", 0, "with -away.long: only the policy with this Timeout")
)

// An awayPlan is a policy and how long links are away under it.
type awayPlan struct {
	policy  heartbeat.Policy
	lengths []time.Duration
}

// awayPlans are all plans, or a small one.
func awayPlans() (plans []awayPlan) {
	seconds := func(all ...float64) (lengths []time.Duration) {
		for _, s := range all {
			lengths = append(lengths, time.Duration(s*float64(time.Second)))
		}
		return lengths
	}
	short := heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second}
	if !*awayLong {
		return []awayPlan{{short, seconds(0.5, 1.2, 2, 2.6)}}
	}
	plans = []awayPlan{
		{
			heartbeat.Policy{Interval: 5 * time.Second, Timeout: 15 * time.Second},
			seconds(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11.5, 12, 13, 14),
		},
		{short, seconds(0.5, 0.8, 1, 1.2, 1.5, 1.8, 2, 2.2, 2.4, 2.6, 2.8)},
	}
	if *awayTimeout == 0 {
		return plans
	}
	for _, p := range plans {
		if p.policy.Timeout == *awayTimeout {
			return []awayPlan{p}
		}
	}
	return nil
}

var awayKinds = []pathKind{
	{name: "talking", talks: true},
	{name: "streamed", stream: 64, every: 100 * time.Millisecond},
	{name: "both", talks: true, stream: 64, every: 100 * time.Millisecond},
	{name: "idle"},
}

// awayOptions are the values of TCP_RTO_MAX_MS. 0: the kernel's default, 2 minutes.
var awayOptions = []time.Duration{0, time.Second}

// awayGrain is how often the sockets are asked.
const awayGrain = 50 * time.Millisecond

// TestLinksAway takes links of healthy clients away for less than the policy's Timeout, and prints
// how many clients are there afterwards. Nobody may be blamed: it is the path that took nothing. A
// client must live if its kernel has acknowledged something before Timeout, or if it was heard
// again. No more can be promised. The server's kernel sends again 0.2, 0.6, 1.4, 3, 6.2, 12.6 s
// after the link went; if the link comes back between the last of those and Timeout, nothing tells,
// and path_dead is the truth.
//
// With the option TCP_RTO_MAX_MS the server's kernel sends again at least once a second. The
// client's kernel keeps its own pace.
func TestLinksAway(t *testing.T) {
	t.Parallel()
	plans := awayPlans()
	require.NotEmpty(t, plans, "-away.timeout")
	require.LessOrEqual(t, *awayClients, 60, "more on a loop would be given a grace round")
	for _, p := range plans {
		t.Run(fmt.Sprint("timeout ", p.policy.Timeout), p.run)
	}
}

// An awayCell is what is known about the clients of one kind behind one link.
type awayCell struct {
	live, acked int                   // acked: whose kernel acknowledged something before Timeout
	wronged     int                   // those of acked that were ended all the same
	ignored     int                   // those that were heard again, and ended
	reasons     map[server.Reason]int // of those that were ended
	idle        []time.Duration       // for how long they had been silent
	back        []time.Duration       // from the link's return until something was heard again
	example     *server.CloseError    // of one that was blamed or wronged
}

// awayKey is where a cell stands: the length's place, the kind's, and the option's.
type awayKey struct{ length, kind, option int }

func (p awayPlan) run(t *testing.T) {
	lab := newLab(t, len(p.lengths))
	worst := watchWorst(t)
	games := map[awayKey]*pathGame{} // by length and option
	options := awayOptions
	// Each length and option has a server of its own: hundreds of sessions that come due at once on
	// one loop would be given a grace round, because that is more likely to be the server's fault.
	for o, option := range options {
		for l := range p.lengths {
			g, err := newPathGame(t, lab, server.Config{Policy: p.policy, Loops: 1}, option)
			if option > 0 && errors.Is(err, unix.ENOPROTOOPT) {
				t.Log("this kernel has no TCP_RTO_MAX_MS: that half of the tables is missing")
				options = options[:o]
				break
			}
			require.NoError(t, err)
			games[awayKey{length: l, option: o}] = g
		}
	}
	var joined sync.WaitGroup
	for key, g := range games {
		joined.Go(func() { g.join(t, lab.Leg(key.length), awayKinds, *awayClients, p.policy.Interval) })
	}
	joined.Wait()
	require.False(t, t.Failed())
	time.Sleep(200 * time.Millisecond) // the last have sent something, too

	mended := p.takeAway(t, lab, games)
	cells := map[awayKey]*awayCell{}
	grace := uint64(0)
	for key, g := range games {
		grace += g.srv.Stats().GraceRounds
		for i, c := range g.clients {
			key.kind = i / *awayClients
			if cells[key] == nil {
				cells[key] = &awayCell{reasons: map[server.Reason]int{}}
			}
			cells[key].count(c, p.policy.Timeout, mended[key.length])
		}
	}
	var b strings.Builder
	p.print(&b, cells, len(options))
	for o, option := range options {
		accepted, inherited := 0, 0
		for key, g := range games {
			if key.option == o {
				accepted, inherited = accepted+g.door.accepted, inherited+g.door.inherited
			}
		}
		if option > 0 {
			fmt.Fprintf(&b, "TCP_RTO_MAX_MS was set on the listener: %d of %d connections inherited it\n",
				inherited, accepted)
		}
	}
	t.Logf("policy %v/%v, %d clients in a cell, %d grace rounds, held up by %v at a time\n%s",
		p.policy.Interval, p.policy.Timeout, *awayClients, grace, worst().Round(time.Millisecond), b.String())
	p.judge(t, cells)
}

// takeAway cuts all links at once and mends each after its time. It returns when everybody is back
// or must have been told, and says when each link was mended.
func (p awayPlan) takeAway(t *testing.T, lab *netlab.Lab, games map[awayKey]*pathGame) []time.Time {
	t.Helper()
	for l := range p.lengths {
		_, err := lab.Leg(l).Cut()
		require.NoError(t, err)
	}
	cut := time.Now()
	time.Sleep(100 * time.Millisecond) // what was under way has arrived
	for _, g := range games {
		for _, c := range g.clients {
			require.NoError(t, c.begin())
		}
	}
	mended := make([]time.Time, len(p.lengths))
	// A silence may be waited for until it is twice Timeout, less an Interval.
	wait := 2*p.policy.Timeout - p.policy.Interval/2
	for ; time.Since(cut) < wait; time.Sleep(awayGrain) {
		for l, length := range p.lengths {
			if mended[l].IsZero() && time.Since(cut) >= length {
				mended[l] = time.Now()
				require.NoError(t, lab.Leg(l).Mend())
			}
		}
		for _, g := range games {
			for _, c := range g.clients {
				c.mu.Lock()
				err := c.sample()
				c.mu.Unlock()
				require.NoError(t, err)
			}
		}
	}
	return mended
}

// awayMargin allows for the grain of the kernel's clock, and for what comes while a session is ended.
const awayMargin = 20 * time.Millisecond

func (cell *awayCell) count(c *pathClient, timeout time.Duration, mended time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	acked := !c.acked.IsZero() && c.acked.Before(c.silent.Add(timeout-awayMargin))
	if acked {
		cell.acked++
	}
	if c.end == nil {
		cell.live++
		if !c.heard.IsZero() {
			cell.back = append(cell.back, c.heard.Sub(mended))
		}
		return
	}
	cell.reasons[c.end.Reason]++
	cell.idle = append(cell.idle, c.end.Record.Idle)
	heard := !c.heard.IsZero() && c.heard.Before(c.endedAt.Add(-awayMargin))
	if acked {
		cell.wronged++
	}
	if heard {
		cell.ignored++
	}
	if cell.example == nil && (acked || heard || pathBlames(c.end.Reason)) {
		cell.example = c.end
	}
}

// print prints a table of each thing that is known, with a row for each length.
func (p awayPlan) print(b *strings.Builder, cells map[awayKey]*awayCell, options int) {
	each := func(title string, value func(*awayCell) string) {
		fmt.Fprintf(b, "%s\n%8s", title, "away")
		for _, k := range awayKinds {
			for o := range options {
				fmt.Fprintf(b, "%11s", k.name+strings.Repeat("+", o))
			}
		}
		fmt.Fprintln(b)
		for l, length := range p.lengths {
			fmt.Fprintf(b, "%8s", length)
			for k := range awayKinds {
				for o := range options {
					fmt.Fprintf(b, "%11s", value(cells[awayKey{l, k, o}]))
				}
			}
			fmt.Fprintln(b)
		}
	}
	number := func(n int) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprint(n)
	}
	if options > 1 {
		fmt.Fprintln(b, "+: with TCP_RTO_MAX_MS 1000 on the server's sockets")
	}
	each(fmt.Sprintf("live, of %d", *awayClients), func(c *awayCell) string { return number(c.live) })
	each("whose kernel acknowledged something before Timeout",
		func(c *awayCell) string { return number(c.acked) })
	each("those of them that were ended", func(c *awayCell) string { return number(c.wronged) })
	each("heard again, and ended", func(c *awayCell) string { return number(c.ignored) })
	each("told that it is the client's fault", func(c *awayCell) string { return number(c.blamed()) })
	each("median s from the link's return until the living were heard", func(c *awayCell) string {
		if len(c.back) == 0 {
			return "-"
		}
		slices.Sort(c.back)
		return fmt.Sprintf("%.2f", c.back[len(c.back)/2].Seconds())
	})
	fmt.Fprintln(b, "ended, and after how long a silence")
	for l, length := range p.lengths {
		for k, kind := range awayKinds {
			for o := range options {
				if c := cells[awayKey{l, k, o}]; len(c.idle) > 0 {
					fmt.Fprintf(b, "%8s %10s %s; %.1f to %.1f s\n",
						length, kind.name+strings.Repeat("+", o), pathReasons(c.reasons),
						slices.Min(c.idle).Seconds(), slices.Max(c.idle).Seconds())
				}
			}
		}
	}
}

func (cell *awayCell) blamed() (n int) {
	for r, count := range cell.reasons {
		if pathBlames(r) {
			n += count
		}
	}
	return n
}

// judge fails the test for everything that was promised and not kept.
func (p awayPlan) judge(t *testing.T, cells map[awayKey]*awayCell) {
	var wrong []string
	for key, c := range cells {
		if c.example != nil {
			wrong = append(wrong, fmt.Sprintf("away %v, %s%s: %d blamed, "+
				"%d ended though acknowledged before Timeout, %d ended though heard again, as this one: %s: %v, %+v",
				p.lengths[key.length], awayKinds[key.kind].name, strings.Repeat("+", key.option), c.blamed(), c.wronged,
				c.ignored, c.example, c.example.Record, c.example.Record.TCP))
		}
	}
	slices.Sort(wrong)
	if len(wrong) > 0 {
		assert.Fail(t, "a promise is not kept", strings.Join(wrong, "\n"))
	}
}
