package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
)

// A cell is a kind of load.
type cell struct{ conns, outstanding, payload int }

func (c cell) String() string { return fmt.Sprintf("%dx%dx%d", c.conns, c.outstanding, c.payload) }

// parseCells reads -cells.
func parseCells(list string) ([]cell, error) {
	var all []cell
	if list == "all" {
		for _, payload := range []int{64, 512} {
			for _, outstanding := range []int{1, 16} {
				for _, conns := range []int{1, 100, 1000, 5000} {
					all = append(all, cell{conns, outstanding, payload})
				}
			}
		}
		return all, nil
	}
	for _, s := range strings.Split(list, ",") {
		var c cell
		part := strings.Split(s, "x")
		for i, to := range []*int{&c.conns, &c.outstanding, &c.payload} {
			n := 0
			if len(part) == 3 {
				n, _ = strconv.Atoi(part[i])
			}
			if n < 1 {
				return nil, fmt.Errorf("-cells: %q is not like 100x1x64", s)
			}
			*to = n
		}
		all = append(all, c)
	}
	return all, nil
}

func planEcho(at place) string {
	cells, _ := parseCells(*cellList)
	n := len(contenders(at))
	long := took(n * len(cells))
	for _, c := range cells {
		long += time.Duration(n*c.conns) * 60 * time.Microsecond // to open and to close them
	}
	return fmt.Sprintf("%d cells, %d servers, %d rounds of %v: about %v", len(cells), n, *rounds, *counted, long.Round(time.Second))
}

// runEcho prints a row for each cell.
func runEcho(at place) error {
	cells, err := parseCells(*cellList)
	if err != nil {
		return err
	}
	t := rig.Table{Head: []string{"connections x outstanding x bytes", "gnet, messages/s", "its GOMAXPROCS",
		"epoll : gnet", "**pulsewheel : gnet**", "pulsewheel : epoll", "liveness on : off", "CPU for one: gnet", "pulsewheel", "cores of the load"}}
	var now, then both
	if older != nil {
		t.Head = append(t.Head, "**pulsewheel : "+older.name+"**", "the same of CPU for one")
	}
	for _, c := range cells {
		out := match().Compare(contendersFor(at, c))
		if *verbose {
			fmt.Printf("%v\n\n", c)
			out.Print(os.Stdout, gnet)
			fmt.Println()
		} else {
			fmt.Fprintf(os.Stderr, "measured: %v\n", c)
		}
		if err := failed(out); err != nil {
			return fmt.Errorf("%v: %w", c, err)
		}
		base := out.Best(gnet, gnetMore)
		epoll, ours, unwatched := out.Row(servers.Epoll), out.Row(servers.Pulsewheel), out.Row(servers.Unwatched)
		cells := []string{c.String(), rig.Count(rig.SpreadOf(base.Rates()).Median), strconv.Itoa(base.Server.GOMAXPROCS),
			rig.Ratio(epoll.Rates(), base.Rates()).String(), "**" + rig.Ratio(ours.Rates(), base.Rates()).String() + "**",
			rig.Ratio(ours.Rates(), epoll.Rates()).String(), rig.Ratio(ours.Rates(), unwatched.Rates()).String(),
			cpuForOne(base), cpuForOne(ours), fmt.Sprintf("%.2f", rig.SpreadOf(ours.LoadBusy()).Median)}
		if older != nil {
			was := out.Row(older.name)
			cells = append(cells, "**"+rig.Ratio(ours.Rates(), was.Rates()).String()+"**", rig.Ratio(ours.PerMessage(), was.PerMessage()).String())
			now.add(ours)
			then.add(was)
		}
		t.Add(cells...)
	}
	t.Print(os.Stdout)
	fmt.Println("\nWhere the load is busy for the whole time (1.00 of its cores), it may be what limits a ratio. gnet is the better of two: GOMAXPROCS = loops, or one more.")
	if older != nil {
		printAllCells(now, then)
	}
	return nil
}

// contendersFor are the contenders with a cell's load.
func contendersFor(at place, c cell) []rig.Candidate {
	all := contenders(at)
	for i := range all {
		l := &all[i].Load
		l.Conns, l.Outstanding, l.Message = c.conns, c.outstanding, message(c.payload)
	}
	return all
}

// failed returns why a server could not be measured.
func failed(out *rig.Outcome) error {
	for _, r := range out.Rows {
		if r.Err != nil {
			return fmt.Errorf("%s: %w", r.Name, r.Err)
		}
	}
	return nil
}

func cpuForOne(r *rig.Row) string { return nanoseconds(rig.SpreadOf(r.PerMessage()).Median) }
