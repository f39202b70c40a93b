package main

import (
	"fmt"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
)

func planOlder(at place) string {
	cells, _ := parseCells(*cellList)
	return fmt.Sprintf("%d cells, 2 servers, %d rounds of %v: about %v",
		len(cells), *rounds, *counted, took(2*len(cells)).Round(time.Second))
}

// runOlder prints a row for each cell, of this tree's server and the older one. They are measured right
// after each other, so the machine changes less between them than beside the other servers.
func runOlder(at place) error {
	cells, err := parseCells(*cellList)
	if err != nil {
		return err
	}
	t := rig.Table{Head: []string{"connections x outstanding x bytes", older.name + ", messages/s",
		"**pulsewheel : it**", "CPU for one: it", "pulsewheel : it", "p99: it", "pulsewheel : it", "cores of the load"}}
	var now, then both
	for _, c := range cells {
		var two []rig.Candidate
		for _, one := range contendersFor(at, c) {
			if one.Name == servers.Pulsewheel || one.Name == older.name {
				two = append(two, one)
			}
		}
		out := match().Compare(two)
		fmt.Fprintf(os.Stderr, "measured: %v\n", c)
		if err := failed(out); err != nil {
			return fmt.Errorf("%v: %w", c, err)
		}
		ours, was := out.Row(servers.Pulsewheel), out.Row(older.name)
		t.Add(c.String(), rig.Count(rig.SpreadOf(was.Rates()).Median),
			"**"+rig.Ratio(ours.Rates(), was.Rates()).String()+"**",
			cpuForOne(was), rig.Ratio(ours.PerMessage(), was.PerMessage()).String(),
			nanoseconds(rig.SpreadOf(was.Quantiles(0.99)).Median),
			rig.Ratio(ours.Quantiles(0.99), was.Quantiles(0.99)).String(),
			fmt.Sprintf("%.2f", rig.SpreadOf(ours.LoadBusy()).Median))
		now.add(ours)
		then.add(was)
	}
	t.Print(os.Stdout)
	fmt.Println()
	printAllCells(now, then)
	return nil
}

// both are a server's figures of the rounds of all cells.
type both struct{ rates, cost []float64 }

func (b *both) add(r *rig.Row) {
	b.rates = append(b.rates, r.Rates()...)
	b.cost = append(b.cost, r.PerMessage()...)
}

func printAllCells(now, then both) {
	fmt.Printf("All rounds of all cells: pulsewheel : %s %v, the same of CPU for one %v.\n",
		older.name, rig.Ratio(now.rates, then.rates), rig.Ratio(now.cost, then.cost))
}
