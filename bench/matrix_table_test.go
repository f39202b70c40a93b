//go:build linux

package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// table is everything that was seen, in markdown.
func (m *matrix) table(rows []*row) string {
	var b strings.Builder
	line := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	head := []string{"what happens to the client"}
	for how := range methods {
		head = append(head, how.String())
	}
	line(append(head, "suspect", "pulsewheel says", "told", "p99 of limit", "wrong")...)
	line(strings.Fields(strings.Repeat("--- ", len(head)) + "--: --- --: --: --:")...)
	for _, r := range rows {
		cells := []string{r.name}
		for how, seen := range r.sights {
			if r.alone {
				cells = append(cells, sightCell(method(how), seen))
			} else {
				cells = append(cells, "″")
			}
		}
		line(append(cells, r.suspectCell(), r.reasonCell(), r.toldCell(), r.limitCell(), r.wrongCell())...)
	}
	return b.String()
}

// legend says how to read the table.
func legend() string {
	c := matrixConfig
	return fmt.Sprintf(`%d repetitions of each. Times count from what was done to the client; those of the plain methods are medians, the others p50 / p99.
"nothing" is nothing in %s.

Each plain method has sockets of its own and uses nothing else: recv, epoll, and the errors that keepalive (1 s, 1 s, 3 probes) and
TCP_USER_TIMEOUT (%s) bring, are told when the kernel tells; TCP_INFO is asked every %s, in the slow cases every %s; the heartbeat is a byte
every %s, and silent after %s. An RST is an error on any socket, with options or without.

pulsewheel has Interval %s, Timeout and WriteTimeout %s, %s for the handshake and for a frame, and ticks of %s. A silence is counted from the
last byte, which came before the act, and told at most two ticks and a jiffy past Timeout. The limit counts from there too, and for a process that is
killed from the first that any method sees of it; what the machine held the server up by is taken off. Who stops reading is slow when its kernel has taken
nothing for WriteTimeout, which counts from the last acknowledgement of a byte (the test asks the server's kernel every 5 ms). The
server looks less often and may take it to be as late as the round trip and its variation allow; its limit has that added.
A client whose own bytes arrive while ours are lost is heard for up to %s more, until its kernel, which hears of no acknowledgement, sends nothing new.
`, *matrixReps, round(*matrixWindow), round(userTimeout), round(quickGrain), round(slowGrain), round(beatEvery), round(beatTimeout),
		round(c.Policy.Interval), round(c.Policy.Timeout), round(c.FrameTimeout), round(c.Tick), round(lastWords))
}

// round writes a round duration.
func round(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}

// sightCell is what a method saw in all repetitions, and its median time.
func sightCell(how method, seen []sighting) string {
	times := map[string][]time.Duration{}
	for _, s := range seen {
		times[s.what] = append(times[s.what], s.at)
	}
	var parts []string
	for what, at := range times {
		part := "nothing"
		if how == byTCPInfo {
			part = sockstat.Established.String()
		}
		if what != "" {
			part = fmt.Sprintf("%s at %s", what, spell(quantile(at, 0.5)))
		}
		if len(times) > 1 {
			part += fmt.Sprintf(" ×%d", len(at))
		}
		parts = append(parts, part)
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func (r *row) suspectCell() string {
	var after []time.Duration
	for _, tr := range r.trials {
		if tr.suspect.at != 0 {
			after = append(after, tr.suspect.at-tr.act.at)
		}
	}
	return pair(after, len(r.trials))
}

func (r *row) toldCell() string {
	var after []time.Duration
	for _, tr := range r.trials {
		if tr.end != nil {
			after = append(after, tr.told.at-tr.act.at)
		}
	}
	if r.truth == nil {
		return ""
	}
	return pair(after, len(r.trials))
}

// pair is p50 and p99, and of how many, if not of all.
func pair(ds []time.Duration, of int) string {
	if len(ds) == 0 {
		return ""
	}
	s := two(quantile(ds, 0.5), " / ", quantile(ds, 0.99))
	if len(ds) < of {
		s += fmt.Sprintf(" (%d of %d)", len(ds), of)
	}
	return s
}

func (r *row) reasonCell() string {
	if r.truth == nil {
		return "(not waited for)"
	}
	count := map[string]int{}
	for _, tr := range r.trials {
		if tr.end != nil {
			count[fmt.Sprintf("%d `%v`", uint16(tr.end.Reason), tr.end.Reason)]++
		} else {
			count["nothing"]++
		}
	}
	var parts []string
	for reason, n := range count {
		if len(count) > 1 {
			reason += fmt.Sprintf(" ×%d", n)
		}
		parts = append(parts, reason)
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// limitCell is the p99 of what the limit is about, and the limit.
func (r *row) limitCell() string {
	late, limit := r.lateness(), r.limit
	if r.truth == nil {
		late, limit = r.suspicions(), r.suspect
	}
	if len(late) == 0 {
		return ""
	}
	return two(quantile(late, 0.99), " of ", limit)
}

func (r *row) wrongCell() string {
	if r.truth == nil {
		return ""
	}
	return fmt.Sprintf("%d / %d", len(r.wrong()), len(r.trials))
}

// nearlySecond is from where durations are written in seconds: it would be rounded to 1000 ms.
const nearlySecond = 999500 * time.Microsecond

// spell writes d with a unit.
func spell(d time.Duration) string {
	if d >= nearlySecond {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%s ms", digits(float64(d)/float64(time.Millisecond)))
}

// two writes two durations in the unit of the longer, the second.
func two(a time.Duration, between string, b time.Duration) string {
	if b >= nearlySecond {
		return fmt.Sprintf("%.2f%s%s", a.Seconds(), between, spell(b))
	}
	return digits(float64(a)/float64(time.Millisecond)) + between + spell(b)
}

func digits(v float64) string {
	switch {
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// quantile is the nearest rank: of 20, the 0.99 is the last. It is 0 of none.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	ds = slices.Sorted(slices.Values(ds))
	return ds[max(int(math.Ceil(q*float64(len(ds))))-1, 0)]
}
