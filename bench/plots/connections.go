package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// A subject is a server with its connections, and a second load for those that come and go.
type subject struct {
	rig.Candidate
	server       *rig.Process
	load, storms *rig.Load
	rss          float64 // bytes for a session
	rates, opens []float64
}

// plotConnections draws throughput, memory and accepts against the connections that are there.
func plotConnections() error {
	at := rig.Apart(1)
	var rates, rss, opens [2]line
	for i, name := range []string{"gnet", "pulsewheel"} {
		rates[i].name, rss[i].name, opens[i].name = name, name, name
	}
	for _, n := range crowds {
		found, err := measureConnections(at, n)
		if err != nil {
			return fmt.Errorf("%d connections: %w", n, err)
		}
		x := float64(n)
		rates[0].points = append(rates[0].points, point{x, better(found[gnet].rates, found[gnetMore].rates)})
		opens[0].points = append(opens[0].points, point{x, better(found[gnet].opens, found[gnetMore].opens)})
		rss[0].points = append(rss[0].points, point{x, rig.SpreadOf([]float64{found[gnet].rss})})
		rates[1].points = append(rates[1].points, point{x, rig.SpreadOf(found[ours].rates)})
		opens[1].points = append(opens[1].points, point{x, rig.SpreadOf(found[ours].opens)})
		rss[1].points = append(rss[1].points, point{x, rig.SpreadOf([]float64{found[ours].rss})})
		fmt.Fprintf(os.Stderr, "measured: %d connections\n", n)
	}
	better := "gnet is the better of GOMAXPROCS = loops and loops + 1."
	return errors.Join(
		draw("throughput.svg", chart{title: "Echoes of 64 bytes, one outstanding on each connection, one loop", x: "connections", y: "messages/s", log: true, lines: rates[:], desc: []string{better}}, at.Note),
		draw("memory.svg", chart{title: "Resident memory of the server for a session that has echoed once", x: "connections", y: "bytes", log: true, lines: rss[:],
			desc: []string{"After a collection and debug.FreeOSMemory, less what the process had before the first of them."}}, at.Note),
		draw("accept.svg", chart{title: "Accept and first echo, while so many other connections are there", x: "connections", y: "connections/s", log: true, lines: opens[:], desc: []string{better}}, at.Note))
}

func measureConnections(at rig.Place, n int) (all []*subject, err error) {
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.stop())
		}
	}()
	for _, c := range contenders(at, 1, n) {
		s := &subject{Candidate: c}
		all = append(all, s)
		if err := s.start(n); err != nil {
			return all, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	match().Interleave(len(all), func(_, i int) {
		if err == nil {
			err = all[i].round()
		}
	})
	return all, err
}

// start starts the processes, opens n connections and sees what memory they take.
func (s *subject) start(n int) (err error) {
	if s.server, err = rig.Start(s.Server); err != nil {
		return err
	}
	if s.load, err = rig.StartLoad(s.Load.Threads, s.Load.CPUs); err != nil {
		return err
	}
	if s.storms, err = rig.StartLoad(1, s.Load.CPUs); err != nil {
		return err
	}
	// Once around with some, so that what the process takes only once is not counted as theirs.
	o := s.Load
	o.Addr, o.Conns = s.server.Addr(), 100
	fresh := 0
	for _, n := range []int{100, n} {
		o.Conns = n
		if err := s.load.Open(o); err != nil {
			return err
		}
		if _, err := s.load.Run(load.Round{Messages: n}); err != nil {
			return err
		}
		if fresh > 0 {
			break
		}
		if err := s.load.Close(); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond) // the server sees them go
		if fresh, err = s.server.RSS(); err != nil {
			return err
		}
	}
	all, err := s.server.RSS()
	s.rss = float64(all-fresh) / float64(n)
	return err
}

// round measures echoes, and connections that come and go.
func (s *subject) round() error {
	m := match().Round
	r, err := s.load.Run(m)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	// From addresses of their own: the kernel would look long for a port that the others have left.
	o := load.StormOptions{Addr: s.server.Addr(), For: m.For, Message: message(), Sources: 100}
	if len(s.Load.CPUs) > 0 {
		o.CPUs = s.Load.CPUs[:1]
	}
	storm, err := s.storms.Storm(o)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	s.rates, s.opens = append(s.rates, r.Rate()), append(s.opens, storm.Rate())
	return nil
}

func (s *subject) stop() (err error) {
	for _, l := range []*rig.Load{s.storms, s.load} {
		if l != nil {
			err = errors.Join(err, l.Stop())
		}
	}
	if s.server != nil {
		err = errors.Join(err, s.server.Stop())
	}
	return err
}
