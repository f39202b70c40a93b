package main

import (
	"fmt"
	"os"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// plotLoops draws throughput against the number of loops, up to that of the CPUs.
func plotLoops() error {
	at := rig.Together()
	const conns = 1000
	lines := []line{{name: "gnet"}, {name: "pulsewheel"}}
	for loops := 1; loops <= max(len(rig.CPUs()), 1); loops++ {
		out := match().Compare(contenders(at, loops, conns))
		for _, r := range out.Rows {
			if r.Err != nil {
				return fmt.Errorf("%d loops: %s: %w", loops, r.Name, r.Err)
			}
		}
		x := float64(loops)
		lines[0].points = append(lines[0].points, point{x, better(out.Rows[gnet].Rates(), out.Rows[gnetMore].Rates())})
		lines[1].points = append(lines[1].points, point{x, rig.SpreadOf(out.Rows[ours].Rates())})
		fmt.Fprintf(os.Stderr, "measured: %d loops\n", loops)
	}
	return draw("loops.svg", chart{title: "Echoes of 64 bytes, one outstanding on each of 1,000 connections", x: "loops", y: "messages/s", lines: lines,
		desc: []string{"Server and load share the CPUs, so the last loops compete with the load. gnet is the better of GOMAXPROCS = loops and loops + 1."}}, at.Note)
}
