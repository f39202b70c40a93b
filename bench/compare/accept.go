package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
)

func planAccept(at place) string {
	n := len(contenders(at)) - 1
	return fmt.Sprintf("connect, one message, its reply, RST; 64 at a time; %d servers, %d rounds of %v: about %v", n, *rounds, *counted, took(n))
}

// A door is a server whose accepts are measured.
type door struct {
	rig.Candidate
	server           *rig.Process
	load             *rig.Load
	rates, cost      []float64 // connections a second, nanoseconds of CPU time for each
	busy, busyLoader []float64 // cores
}

// runAccept prints a row for each server.
func runAccept(at place) (err error) {
	var doors []*door
	defer func() {
		for _, d := range doors {
			err = errors.Join(err, d.stop())
		}
	}()
	for _, c := range contenders(at) {
		if c.Name == servers.Unwatched {
			continue
		}
		d := &door{Candidate: c}
		doors = append(doors, d)
		if d.server, err = rig.Start(c.Server); err != nil {
			return err
		}
		if d.load, err = rig.StartLoad(1, c.Load.CPUs); err != nil {
			return err
		}
		if err := d.storm(50 * time.Millisecond); err != nil { // to warm up
			return err
		}
		d.rates, d.cost, d.busy, d.busyLoader = nil, nil, nil, nil
	}
	match().Interleave(len(doors), func(_, i int) {
		if err == nil {
			err = doors[i].storm(*counted)
		}
	})
	if err != nil {
		return err
	}
	base := doors[1]
	if best := doors[2]; rig.SpreadOf(best.rates).Median > rig.SpreadOf(base.rates).Median {
		base = best
	}
	t := rig.Table{Head: []string{"server", "connections/s", "ratio to " + base.Name, "CPU for one", "ratio", "cores: server", "load"}}
	t.Head = append(t.Head, older.heads("connections/s", "CPU for one")...)
	for _, d := range doors {
		cells := []string{d.Name, rig.Count(rig.SpreadOf(d.rates).Median), rig.Ratio(d.rates, base.rates).String(),
			nanoseconds(rig.SpreadOf(d.cost).Median), rig.Ratio(d.cost, base.cost).String(),
			fmt.Sprintf("%.2f", rig.SpreadOf(d.busy).Median), fmt.Sprintf("%.2f", rig.SpreadOf(d.busyLoader).Median)}
		if older != nil {
			was := doors[len(doors)-1]
			cells = append(cells, rig.Ratio(d.rates, was.rates).String(), rig.Ratio(d.cost, was.cost).String())
		}
		t.Add(cells...)
	}
	t.Print(os.Stdout)
	fmt.Println("\nOn the loopback the client's connect(2) does the kernel's work of the handshake for both sides: where the load is busy for the whole time, the CPU time tells more than the rate.")
	return nil
}

// storm measures one round.
func (d *door) storm(length time.Duration) error {
	before, err := d.server.Usage()
	if err != nil {
		return err
	}
	begun := time.Now()
	o := load.StormOptions{Addr: d.server.Addr(), For: length, Message: message(64)}
	if len(d.Load.CPUs) > 0 {
		o.CPUs = d.Load.CPUs[:1]
	}
	r, err := d.load.Storm(o)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	took := time.Since(begun)
	after, err := d.server.Usage()
	cpu := after.CPU - before.CPU
	d.rates = append(d.rates, r.Rate())
	d.cost = append(d.cost, float64(cpu)/float64(max(r.Total, 1)))
	d.busy = append(d.busy, cpu.Seconds()/took.Seconds())
	d.busyLoader = append(d.busyLoader, r.CPU.Seconds()/r.Elapsed.Seconds())
	return err
}

func (d *door) stop() (err error) {
	if d.load != nil {
		err = d.load.Stop()
	}
	if d.server != nil {
		err = errors.Join(err, d.server.Stop())
	}
	return err
}
