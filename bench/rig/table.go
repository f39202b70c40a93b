package rig

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// A Table is printed in Markdown. The first column is text, the others are numbers.
type Table struct {
	Head []string
	Rows [][]string
}

// Add adds a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Print prints the table.
func (t *Table) Print(w io.Writer) {
	line := func(cells []string) {
		escaped := make([]string, len(cells))
		for i, c := range cells {
			escaped[i] = strings.ReplaceAll(strings.ReplaceAll(c, "\n", " "), "|", "\\|")
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(escaped, " | "))
	}
	line(t.Head)
	fmt.Fprintf(w, "|---%s|\n", strings.Repeat("|--:", len(t.Head)-1))
	for _, r := range t.Rows {
		line(r)
	}
}

// Print prints the rows: messages per second (the median of the rounds), their ratio to those of the base (the median and
// the quartiles of the ratios of paired rounds), the server's CPU time for a message, how many cores the
// server and its load kept busy, and the latency of bursts (of all rounds together). Below it stands what could not be measured, and remarks.
func (o *Outcome) Print(w io.Writer, base string) {
	t := Table{Head: []string{"server", "messages/s", "ratio to " + base, "CPU for one", "cores: server", "load", "p50", "p99", "p99.9"}}
	b := o.Row(base)
	var notes []string
	for _, r := range o.Rows {
		if r.Remark != "" {
			notes = append(notes, r.Name+": "+r.Remark)
		}
		if r.Err != nil {
			notes = append(notes, r.Name+" could not be measured: "+r.Err.Error())
			continue
		}
		ratio := "-"
		if b != nil && b.Err == nil {
			ratio = Ratio(r.Rates(), b.Rates()).String()
		}
		h := r.Latency()
		t.Add(r.Name, Count(SpreadOf(r.Rates()).Median), ratio, Short(time.Duration(SpreadOf(r.PerMessage()).Median)),
			fmt.Sprintf("%.2f", SpreadOf(r.Busy()).Median), fmt.Sprintf("%.2f", SpreadOf(r.LoadBusy()).Median),
			Short(h.Quantile(0.5)), Short(h.Quantile(0.99)), Short(h.Quantile(0.999)))
	}
	t.Print(w)
	for _, n := range notes {
		fmt.Fprintf(w, "\n- %s", n)
	}
	if len(notes) > 0 {
		fmt.Fprintln(w)
	}
}

// Short is a duration in two to four digits.
func Short(d time.Duration) string {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 10*unit {
			return d.Round(unit / 10).String()
		}
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// Count is a number with its thousands set apart.
func Count(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
