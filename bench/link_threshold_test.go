//go:build linux

package bench

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	linkLong = flag.Bool("link.long", false, "run the tests of links long enough for rare false alarms to show")
	linkSeed = flag.Uint64("link.seed", 1, "the seed of the tests of links")
)

const (
	// linkSoon is within which a cut path that is streamed to must be suspected.
	linkSoon = time.Second
	// linkLate is by how much a server may be later than its rule: it samples at ticks of 100 ms, and
	// the kernel's clock ticks too.
	linkLate = 110 * time.Millisecond
	// linkAway is for how long at a time this process, and with it a relay, may be held up before a
	// healthy link is one no more.
	linkAway = 200 * time.Millisecond
	// linkCut is how long a cut lasts.
	linkCut = 2500 * time.Millisecond
)

// TestWarningThreshold measures by which rule a cut path should be suspected before any timeout: how
// soon each of the candidates notices a cut, and how often it is wrong about a healthy link. It needs
// no server of ours: it reads what the kernel tells about plain connections that are streamed to.
//
// The rule of the default policy must notice within a second, ticks included, and must not be wrong
// about a steady link, however slow.
func TestWarningThreshold(t *testing.T) {
	if !*linkLong {
		measureRules(t, "cubic", 12, 1)
		return
	}
	for _, algorithm := range []string{"cubic", "bbr"} {
		t.Run(algorithm, func(t *testing.T) { measureRules(t, algorithm, 24, 16) })
	}
}

// measureRules streams to conns connections of a kind over each link, and cuts the clean ones so often.
func measureRules(t *testing.T, algorithm string, conns, cuts int) {
	clean, healthy := cleanLinks(conns), healthyLinks(conns)
	t.Logf("congestion control %s, -link.seed=%d", algorithm, *linkSeed)
	warm := 2500 * time.Millisecond
	if *linkLong {
		warm *= 2
	}
	w := watchLinks(t, *linkSeed, algorithm, append(slices.Clone(healthy), clean...))
	held := watchHeldUp()
	defer held.stop()
	began, found, heldUp := time.Now(), linkFound{}, time.Duration(0)
	for range cuts {
		time.Sleep(warm) // it streams, and recovers from the last cut
		before := held.total()
		found.cut(t, w, clean)
		heldUp = max(heldUp, held.total()-before)
	}
	var table string
	var wrong int
	var longest time.Duration
	w.between(func() {
		table, wrong = linkAlarms(w, healthy, time.Since(began))
		longest = w.longest
	})
	t.Logf("held up by %v during a cut; the longest time between samples was %v\n%s\n%s", heldUp, longest, found.table(clean), table)

	for _, l := range clean {
		for _, s := range []string{linkFast, linkFaster} {
			times := found[linkKey{l.name, s}][slices.IndexFunc(linkRules, isDefault)]
			assert.LessOrEqual(t, slices.Max(times)+linkLate, linkSoon+heldUp, "%s, %s", l.name, s)
		}
	}
	if longest > linkAway {
		t.Logf("this process was held up for %v at a time, and so was the relay: nothing follows from false alarms", longest)
		return
	}
	assert.Zero(t, wrong, "false alarms of the policy on steady links")
}

func isDefault(r linkRule) bool { return r.name == linkDefault }

// linkKey is one stream over one link.
type linkKey struct{ link, stream string }

// linkFound is how soon after a cut each rule fired, for every connection and cut.
type linkFound map[linkKey][][]time.Duration

// linkNever is longer than any cut: the rule did not fire.
const linkNever = time.Hour

// cut cuts the links for a while, and writes down when the rules fire.
func (f linkFound) cut(t *testing.T, w *linkWatch, links []link) {
	t.Helper()
	at := map[string]time.Time{}
	w.between(func() {
		for _, p := range w.probes {
			clear(p.first)
		}
		for _, l := range links {
			for _, g := range w.legs[l.name] {
				cut, err := g.Cut()
				assert.NoError(t, err)
				at[l.name] = cut
			}
		}
	})
	time.Sleep(linkCut)
	w.between(func() {
		for _, p := range w.probes {
			from, isCut := at[p.link]
			if !isCut {
				continue
			}
			key := linkKey{p.link, p.stream.name}
			if f[key] == nil {
				f[key] = make([][]time.Duration, len(linkRules))
			}
			for i, first := range p.first {
				took := first.Sub(from)
				if first.IsZero() {
					took = linkNever
				}
				f[key][i] = append(f[key][i], took)
			}
		}
	})
	for _, l := range links {
		for _, g := range w.legs[l.name] {
			require.NoError(t, g.Mend())
		}
	}
}

// linkTable writes a table with a line for each rule.
func linkTable(title string, columns []string, cell func(rule int, column string) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", title)
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "rule\t%s\t\n", strings.Join(columns, "\t"))
	for i, r := range linkRules {
		fmt.Fprintf(tw, "%s\t", r.name)
		for _, c := range columns {
			fmt.Fprintf(tw, "%s\t", cell(i, c))
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
	return b.String()
}

func (f linkFound) table(links []link) string {
	var b strings.Builder
	var columns []string
	for _, l := range links {
		columns = append(columns, l.name)
	}
	for _, s := range links[0].streams() {
		b.WriteString(linkTable("ms from the cut until the rule fires, p50/p99/max: "+s.name, columns, func(rule int, link string) string {
			return linkSpread(f[linkKey{link, s.name}][rule])
		}))
	}
	return b.String()
}

// linkPart is the time within which that part of them lie.
func linkPart(times []time.Duration, part float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[int(part*float64(len(sorted)-1))]
}

// linkSpread is p50/p99/max in milliseconds.
func linkSpread(times []time.Duration) string {
	ms := func(part float64) string {
		d := linkPart(times, part)
		if d == linkNever {
			return "-"
		}
		return fmt.Sprint(d.Milliseconds())
	}
	return ms(0.5) + "/" + ms(0.99) + "/" + ms(1)
}

// linkAlarms tells how often the rules fired on healthy links in the time that the watch took, and how
// often the default rule did on the steady ones.
func linkAlarms(w *linkWatch, links []link, took time.Duration) (table string, wrong int) {
	var b strings.Builder
	var columns []string
	probes := map[linkKey][]*linkProbe{}
	for _, p := range w.probes {
		probes[linkKey{p.link, p.stream.name}] = append(probes[linkKey{p.link, p.stream.name}], p)
	}
	for _, l := range links {
		columns = append(columns, l.name)
	}
	for _, s := range links[0].streams() {
		title := fmt.Sprintf("false alarms per connection-minute: %s", s.name)
		b.WriteString(linkTable(title, columns, func(rule int, link string) string {
			sum, all := 0, probes[linkKey{link, s.name}]
			for _, p := range all {
				sum += p.alarms[rule]
			}
			l := links[slices.Index(columns, link)]
			if isDefault(linkRules[rule]) && l.steady() {
				wrong += sum
			}
			return fmt.Sprintf("%.3f", float64(sum)/(float64(len(all))*took.Minutes()))
		}))
		b.WriteString("smoothed RTT p50/max, connection-minutes:")
		for _, l := range links {
			var srtt []time.Duration
			all := probes[linkKey{l.name, s.name}]
			for _, p := range all {
				srtt = append(srtt, p.srtt...)
			}
			slices.Sort(srtt)
			fmt.Fprintf(&b, "  %s: %d/%d ms, %.1f;", l.name, srtt[len(srtt)/2].Milliseconds(), srtt[len(srtt)-1].Milliseconds(),
				float64(len(all))*took.Minutes())
		}
		b.WriteString("\n")
	}
	return b.String(), wrong
}
