//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// full is how much of its core a server uses that has no time to spare. The rest is what the kernel does for others.
const full = 0.9

// A book holds what was found, for each peer and cell.
type book struct {
	peers   []peer
	cells   []cell
	skipped map[string]string   // why a peer could not take part
	ratios  map[string][]string // of a peer, for each cell
	failed  []string            // sentences
	idle    []string            // servers that did not fill their core, by cell
}

func newBook(peers []peer, cells []cell) *book {
	b := &book{peers: peers, cells: cells, skipped: map[string]string{}, ratios: map[string][]string{}}
	for _, p := range peers {
		b.ratios[p.name] = make([]string, len(cells))
	}
	return b
}

// enter enters what was found for a cell.
func (b *book) enter(at int, out *rig.Outcome) {
	base := out.Row(b.peers[0].name)
	var idle []string
	for _, p := range b.peers {
		row := out.Row(p.name)
		if row == nil {
			continue // skipped
		}
		text := "-"
		switch {
		case row.Err != nil:
			text = "failed"
			b.failed = append(b.failed, fmt.Sprintf("%s could not be measured at %s: %v", p.name, b.cells[at], row.Err))
		case p.name == b.peers[0].name:
			text = "1 = " + rig.Count(rig.SpreadOf(row.Rates()).Median) + "/s"
		case base.Err == nil:
			ratio := rig.Ratio(row.Rates(), base.Rates())
			if text = ratio.String(); ratio.Low > 1 {
				text = "**" + text + "**"
			}
		}
		b.ratios[p.name][at] = text
		if busy := rig.SpreadOf(row.Busy()).Median; row.Err == nil && busy < full {
			idle = append(idle, fmt.Sprintf("%s %.3g", p.name, busy))
		}
	}
	if len(idle) > 0 {
		b.idle = append(b.idle, fmt.Sprintf("at %s: %s", b.cells[at], strings.Join(idle, ", ")))
	}
}

// print prints the table in Markdown, and what is to be said of it.
func (b *book) print(w io.Writer) {
	t := rig.Table{Head: []string{"server"}}
	for _, c := range b.cells {
		t.Head = append(t.Head, c.String())
	}
	t.Head = append(t.Head, "liveness")
	for _, p := range b.peers {
		if b.skipped[p.name] == "" {
			t.Add(append(append([]string{p.title()}, b.ratios[p.name]...), p.liveness)...)
		}
	}
	t.Print(w)
	fmt.Fprintf(w, "\nMessages per second as a ratio to %s in the same round: median (quartiles). In bold: faster than %[1]s, the lower quartile too.\nThe columns are connections x messages outstanding on each.\n\n", b.peers[0].name)
	for _, p := range b.peers {
		if why := b.skipped[p.name]; why != "" {
			fmt.Fprintf(w, "- %s: left out: %s\n", p.name, why)
		} else {
			fmt.Fprintf(w, "- %s: %s.\n", p.name, p.remark)
		}
	}
	for _, f := range b.failed {
		fmt.Fprintf(w, "- %s\n", f)
	}
	if len(b.idle) > 0 {
		fmt.Fprintf(w, "\nThese used less than %.1f of their core, so that the load was the limit, or other programs had the machine, and the ratio says little: %s.\n",
			full, strings.Join(b.idle, "; "))
	}
}
