package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// idleSettle is how long sessions are left alone until they have ceased to beat together.
const idleSettle = 2 * heartbeat.DefaultInterval

func planIdle(at place) string {
	return fmt.Sprintf("%d sessions on each of %d servers, each after one echo; %v to settle, %v to look: about %v",
		*sessions, len(idlers(at)), idleSettle, *window, (idleSettle + *window + 20*time.Second).Round(time.Second))
}

// An idler is a server with sessions that say nothing but Pongs.
type idler struct {
	name          string
	server        rig.Server
	proc          *rig.Process
	load          *rig.Load
	fresh         int // bytes resident before the first connection
	before, after rig.Usage
	pings         int // answered between them
}

func idlers(at place) []*idler {
	var all []*idler
	for _, c := range []struct {
		name, role string
		o          servers.Options
	}{
		{"epoll", servers.Epoll, servers.Options{}},
		{"gnet", servers.Gnet, servers.Options{}},
		{"pulsewheel, default policy", servers.Pulsewheel, servers.Options{}},
		{"pulsewheel, Interval 60 s", servers.Pulsewheel, servers.Options{Interval: time.Minute}},
	} {
		c.o.Loops = at.loops
		s := servers.Server(c.role, c.o)
		s.CPUs, s.GOMAXPROCS = at.Server, at.loops+*spare
		s.Env = []string{"GOGC=100"}
		all = append(all, &idler{name: c.name, server: s})
	}
	return all
}

// runIdle prints a row for each server.
func runIdle(at place) (err error) {
	all := idlers(at)
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.stop())
		}
	}()
	for _, s := range all {
		if err := s.fill(at); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	time.Sleep(idleSettle)
	begun := time.Now()
	for _, s := range all {
		if s.before, err = s.proc.Usage(); err != nil {
			return err
		}
		s.pings = -s.answered()
	}
	time.Sleep(*window)
	took := time.Since(begun).Seconds()
	for _, s := range all {
		if s.after, err = s.proc.Usage(); err != nil {
			return err
		}
		s.pings += s.answered()
	}
	t := rig.Table{Head: []string{"server", "bytes for a session", "Pings/s", "share of a core", "context switches/s: voluntary", "involuntary"}}
	for _, s := range all {
		rss, err := s.proc.RSS()
		if err != nil {
			return err
		}
		t.Add(s.name, rig.Count(float64(rss-s.fresh)/float64(*sessions)), rig.Count(float64(s.pings)/took),
			fmt.Sprintf("%.2f %%", 100*(s.after.CPU-s.before.CPU).Seconds()/took),
			rig.Count(float64(s.after.Voluntary-s.before.Voluntary)/took), rig.Count(float64(s.after.Involuntary-s.before.Involuntary)/took))
	}
	t.Print(os.Stdout)
	fmt.Println("\nSessions are asked half to three quarters of an Interval after they were last heard: see Pings/s. To see those of 60 s take -idle.window 2m.")
	return nil
}

// fill starts the server and opens its sessions; each sends one message, so that it has shown that it is there.
func (s *idler) fill(at place) (err error) {
	if s.proc, err = rig.Start(s.server); err != nil {
		return err
	}
	if s.load, err = rig.StartLoad(1, at.Load); err != nil {
		return err
	}
	// Once around with some sessions, so that what the process takes only once is not counted as theirs.
	o := load.Options{Addr: s.proc.Addr(), Conns: min(*sessions, 100), Message: message(64), Pongs: true}
	if err := s.open(o); err != nil {
		return err
	}
	if err := s.load.Close(); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	if s.fresh, err = s.proc.RSS(); err != nil {
		return err
	}
	o.Conns = *sessions
	return s.open(o)
}

func (s *idler) open(o load.Options) error {
	if err := s.load.Open(o); err != nil {
		return err
	}
	_, err := s.load.Run(load.Round{Messages: o.Conns})
	return err
}

// answered returns how many Pings have been answered so far.
func (s *idler) answered() int {
	n, _ := s.load.Pings()
	return n
}

func (s *idler) stop() (err error) {
	if s.load != nil {
		err = s.load.Stop()
	}
	if s.proc != nil {
		err = errors.Join(err, s.proc.Stop())
	}
	return err
}
