package main

import (
	"fmt"
	"io"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// A row is a line of the table.
type row struct {
	name, format string
	of           func(finding) float64
	least        float64    // what ours is taken for where it is less: it cannot be measured better
	limit        float64    // what ours should be at most; 0: no target
	times        [4]float64 // what the others should be at least, as a multiple of ours; 0: no target
	plain        bool       // no ratio
}

var rows = []row{
	{name: "touch", format: "%.1f ns", of: func(f finding) float64 { return f.Touch }, limit: 4, times: [4]float64{0, 140, 200}},
	{name: "schedule", format: "%.1f ns", of: func(f finding) float64 { return f.Schedule }, limit: 8, times: [4]float64{0, 40, 30}},
	{name: "cancel", format: "%.1f ns", of: func(f finding) float64 { return f.Cancel }, limit: 1.5, times: [4]float64{0, 13, 16}},
	{name: "memory of one", format: "%.1f B", of: func(f finding) float64 { return f.Bytes }, limit: 14, times: [4]float64{0, 11, 7}},
	{name: "objects of one", format: "%.2f", of: func(f finding) float64 { return f.Objects }, limit: 0.01, plain: true},
	{name: "garbage collection, CPU more", format: "%.1f ms", of: func(f finding) float64 { return f.Collect }, least: 1, limit: 3, times: [4]float64{0, 34, 65}},
	{name: "all due at once: the last fires after", format: "%.0f ms", of: func(f finding) float64 { return f.Last }, limit: 80, times: [4]float64{0, 16, 4}},
	{name: "the first", format: "%.1f ms", of: func(f finding) float64 { return f.First }, plain: true},
	{name: "memory of the process at most", format: "%.0f MB", of: func(f finding) float64 { return f.Peak }},
}

// printTable prints the table in Markdown: ours, and the others with their ratio to ours in the same round.
func printTable(w io.Writer, found [][]finding) {
	t := rig.Table{Head: []string{""}}
	for _, c := range contenders {
		t.Head = append(t.Head, c.name)
	}
	t.Head = append(t.Head, "target")
	var missed []string
	for _, r := range rows {
		line := []string{r.name}
		ours := r.values(found[0])
		for i, c := range contenders {
			theirs := r.values(found[i])
			text := fmt.Sprintf(r.format, rig.SpreadOf(theirs).Median)
			if i > 0 && !r.plain {
				ratio := rig.Ratio(theirs, r.raised(ours))
				text += ", " + times(ratio)
				if ratio.Median < r.times[i] {
					missed = append(missed, fmt.Sprintf("%s: %s is %.3gx ours, not %gx", r.name, c.name, ratio.Median, r.times[i]))
				}
			}
			line = append(line, text)
		}
		if m := rig.SpreadOf(ours).Median; r.limit > 0 && m > r.limit {
			missed = append(missed, fmt.Sprintf("%s: ours is "+r.format+", more than "+r.format, r.name, m, r.limit))
		}
		t.Add(append(line, r.target())...)
	}
	t.Print(w)
	fmt.Fprint(w, "\nMedians of the rounds; 12x (11-13) is the ratio to ours in the same round and its quartiles. A target is ours, "+
		"and the least ratio of time.AfterFunc and of RussellLuo.\n\n"+
		"- touch: Wheel.Touch; Timer.Reset; Stop and AfterFunc, as RussellLuo has no Reset; antlabs' Reset, which blocks forever\n"+
		"  if the timer stays in its slot, as it would in most servers: here it never does.\n"+
		"- ours keeps when to look at an id, no function: the owner of the id knows what to do, and the deadline itself is in the\n"+
		"  session, in another 8 bytes. The others have a function for each timer, which counts as its memory.\n"+
		"- garbage collection: what the timers add to the CPU time of one; ours is taken for 1 ms in ratios if it is less.\n"+
		"- a first one that fires before its time (a negative figure) has convicted somebody who had time left.\n")
	for i, c := range contenders {
		for _, f := range found[i] {
			if f.Missing > 0 {
				fmt.Fprintf(w, "- %s: %d timers had not fired 5 s after the last one that did.\n", c.name, f.Missing)
			}
		}
	}
	for _, m := range missed {
		fmt.Fprintf(w, "- target missed: %s.\n", m)
	}
}

func (r row) values(found []finding) []float64 {
	v := make([]float64, len(found))
	for i, f := range found {
		v[i] = r.of(f)
	}
	return v
}

// raised is what ratios are taken to.
func (r row) raised(ours []float64) []float64 {
	v := make([]float64, len(ours))
	for i, x := range ours {
		v[i] = max(x, r.least)
	}
	return v
}

func (r row) target() string {
	if r.limit == 0 {
		return ""
	}
	text := "<= " + fmt.Sprintf(r.format, r.limit)
	if r.times[1] > 0 {
		text += fmt.Sprintf(", %gx, %gx", r.times[1], r.times[2])
	}
	return text
}

func times(s rig.Spread) string {
	return fmt.Sprintf("%.3gx (%.3g-%.3g)", s.Median, s.Low, s.High)
}
