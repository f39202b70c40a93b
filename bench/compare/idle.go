package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const (
	longInterval = time.Minute
	longGroups   = 15 // in which the sessions with longInterval begin
	idleWindows  = 6
)

var settle = flag.Duration("idle.settle", 10*time.Second, "how long the idle part lets its sessions alone before it looks")

// meanWait is after how long a session is asked, on average.
func meanWait(interval time.Duration) time.Duration { return interval * 5 / 8 }

func planIdle(at place) string {
	n := len(idlers(at))
	long := meanWait(longInterval) + *settle + *window + time.Duration(n**sessions)*100*time.Microsecond
	return fmt.Sprintf("%d sessions on each of %d servers, each after one echo; those with an Interval of %v begin within %v; %v to settle, %d windows of %v: about %v",
		*sessions, n, longInterval, meanWait(longInterval), *settle, idleWindows, *window/idleWindows, long.Round(time.Second))
}

// An idler is a server with sessions that say nothing but Pongs.
type idler struct {
	name     string
	base     *idler        // what it is compared with; nil: nothing
	older    *idler        // the same of the revision of -against; nil: there is none
	interval time.Duration // of its Pings; 0: it sends none
	server   rig.Server
	proc     *rig.Process
	loads    []*rig.Load
	fresh    int // bytes resident before the first connection
	looks    []look
}

// A look is what a server has used until then.
type look struct {
	at time.Time
	rig.Usage
	pings int // answered
}

func idlers(at place) []*idler {
	var all []*idler
	type kind struct {
		name, role string
		interval   time.Duration
		base       int // index
		program    string
	}
	kinds := []kind{
		{"epoll", servers.Epoll, 0, -1, ""},
		{"gnet", servers.Gnet, 0, -1, ""},
		{"epoll that sends the same Pings", servers.Pings, heartbeat.DefaultInterval, 2, ""},
		{"pulsewheel, default policy", servers.Pulsewheel, heartbeat.DefaultInterval, 2, ""},
		{"epoll that sends the same Pings, Interval 60 s", servers.Pings, longInterval, 4, ""},
		{"pulsewheel, Interval 60 s", servers.Pulsewheel, longInterval, 4, ""},
	}
	if older != nil {
		kinds = append(kinds,
			kind{older.name + ", default policy", servers.Pulsewheel, heartbeat.DefaultInterval, 2, older.program},
			kind{older.name + ", Interval 60 s", servers.Pulsewheel, longInterval, 4, older.program})
	}
	for _, c := range kinds {
		s := &idler{name: c.name, interval: c.interval, server: servers.Server(c.role, servers.Options{Loops: at.loops, Interval: c.interval})}
		s.server.CPUs, s.server.GOMAXPROCS, s.server.Program = at.Server, at.loops+*spare, c.program
		if c.role == servers.Epoll || c.role == servers.Pings {
			s.server.GOMAXPROCS = at.loops + 1
		}
		s.server.Env = []string{"GOGC=100"}
		all = append(all, s)
		if c.base >= 0 {
			s.base = all[c.base]
		}
	}
	if older != nil {
		all[3].older, all[5].older = all[6], all[7]
	}
	return all
}

// runIdle prints a row for each server. All are there at once, and their windows are the same: a server whose
// sessions wait cannot be put aside for a while without being another case.
func runIdle(at place) (err error) {
	all := idlers(at)
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.stop())
		}
	}()
	for _, s := range all {
		if err := s.start(at); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if err := fillAll(all, at); err != nil {
		return err
	}
	time.Sleep(*settle)
	for i := range idleWindows + 1 {
		if i > 0 {
			time.Sleep(*window / idleWindows)
		}
		for _, s := range all {
			if err := s.look(); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	t := rig.Table{Head: []string{"server", "bytes for a session", "Pings/s", "share of a core", "ratio", "CPU for a Ping", "ratio",
		"context switches/s: voluntary", "involuntary"}}
	t.Head = append(t.Head, older.heads("share of a core", "CPU for a Ping")...)
	for _, s := range all {
		rss, err := s.proc.RSS()
		if err != nil {
			return err
		}
		s.row(&t, rss)
	}
	t.Print(os.Stdout)
	fmt.Printf(`
Medians of %d windows, and of the ratios of a window to the same window of the server that sends the same Pings and does nothing
else of liveness. All servers were there at once, and on the same CPU if they were bound to one: each was asked by the same clock.
CPU for a Ping is all CPU time of a window by its Pings: sent, and their Pongs read. A session is asked half to three quarters of an Interval after
it was last heard: in the long run %s Pings/s at %v, %s at %v.
`, idleWindows, steady(heartbeat.DefaultInterval), heartbeat.DefaultInterval, steady(longInterval), longInterval)
	return nil
}

func steady(interval time.Duration) string {
	return rig.Count(float64(*sessions) / meanWait(interval).Seconds())
}

// each returns a figure of each window.
func (s *idler) each(f func(from, to look) float64) []float64 {
	if s == nil {
		return nil
	}
	var v []float64
	for i := range len(s.looks) - 1 {
		v = append(v, f(s.looks[i], s.looks[i+1]))
	}
	return v
}

func (s *idler) row(t *rig.Table, rss int) {
	perSecond := func(of func(look) float64) func(from, to look) float64 {
		return func(from, to look) float64 { return (of(to) - of(from)) / to.at.Sub(from.at).Seconds() }
	}
	median := func(f func(from, to look) float64) float64 { return rig.SpreadOf(s.each(f)).Median }
	share := perSecond(func(l look) float64 { return l.CPU.Seconds() })
	forOne := func(from, to look) float64 { return float64(to.CPU-from.CPU) / float64(max(to.pings-from.pings, 1)) }
	one, oneRatio := "-", "-"
	if s.interval > 0 {
		one, oneRatio = nanoseconds(median(forOne)), rig.Ratio(s.each(forOne), s.base.each(forOne)).String()
	}
	cells := []string{s.name, rig.Count(float64(rss-s.fresh) / float64(*sessions)),
		rig.Count(median(perSecond(func(l look) float64 { return float64(l.pings) }))),
		fmt.Sprintf("%.2f %%", 100*median(share)), rig.Ratio(s.each(share), s.base.each(share)).String(), one, oneRatio,
		rig.Count(median(perSecond(func(l look) float64 { return float64(l.Voluntary) }))),
		rig.Count(median(perSecond(func(l look) float64 { return float64(l.Involuntary) })))}
	if older != nil {
		cells = append(cells, rig.Ratio(s.each(share), s.older.each(share)).String(), rig.Ratio(s.each(forOne), s.older.each(forOne)).String())
	}
	t.Add(cells...)
}

// look notes what has been used so far.
func (s *idler) look() error {
	n := 0
	for _, l := range s.loads {
		m, err := l.Pings()
		if err != nil {
			return err
		}
		n += m
	}
	u, err := s.proc.Usage()
	s.looks = append(s.looks, look{time.Now(), u, n})
	return err
}

// start starts the server.
func (s *idler) start(at place) (err error) {
	if s.proc, err = rig.Start(s.server); err != nil {
		return err
	}
	// Once around with some sessions, so that what the process takes only once is not counted as theirs.
	if err := s.open(at, min(*sessions, 100)); err != nil {
		return err
	}
	if err := s.stopLoads(); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	s.fresh, err = s.proc.RSS()
	return err
}

// fillAll opens the sessions. Those with a long Interval are spread over as long as they wait to be asked: then they
// beat as they would after hours.
func fillAll(all []*idler, at place) error {
	for _, s := range all {
		if s.interval < longInterval {
			if err := s.open(at, *sessions); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	begun := time.Now()
	for i := range longGroups {
		time.Sleep(time.Until(begun.Add(meanWait(longInterval) * time.Duration(i) / longGroups)))
		for _, s := range all {
			if n := *sessions*(i+1)/longGroups - *sessions*i/longGroups; s.interval >= longInterval && n > 0 {
				if err := s.open(at, n); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
		}
	}
	time.Sleep(time.Until(begun.Add(meanWait(longInterval))))
	return nil
}

// open opens sessions; each sends one message, so that it has shown that it is there.
func (s *idler) open(at place, n int) error {
	l, err := rig.StartLoad(1, at.Load)
	if err != nil {
		return err
	}
	s.loads = append(s.loads, l)
	if err := l.Open(load.Options{Addr: s.proc.Addr(), Conns: n, Message: message(64), Pongs: true}); err != nil {
		return err
	}
	_, err = l.Run(load.Round{Messages: n})
	return err
}

func (s *idler) stopLoads() (err error) {
	for _, l := range s.loads {
		err = errors.Join(err, l.Stop())
	}
	s.loads = nil
	return err
}

func (s *idler) stop() error {
	err := s.stopLoads()
	if s.proc != nil {
		err = errors.Join(err, s.proc.Stop())
	}
	return err
}
