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

// evictionInterval is the Interval of the policy; Timeout is three of them. evictionSettle is how long sessions
// that were opened together are left alone until they have ceased to beat together: else more than half of them would be due at
// once, which looks like a failure of the server's own network, and all get an Interval more (a grace round).
const (
	evictionInterval = time.Second
	evictionSettle   = 8 * evictionInterval
)

// plotEviction draws how late OnClose is when all clients freeze at once.
func plotEviction() error {
	at := rig.Apart(1)
	grace := uint64(0)
	lines := []line{{name: "p50"}, {name: "p99"}, {name: "longest"}}
	for _, n := range crowds {
		e, err := measureEviction(at, n)
		if err != nil {
			return fmt.Errorf("%d connections: %w", n, err)
		}
		for i, q := range []int{n / 2, n - 1 - n/100, n - 1} {
			ms := float64(e.Late[q]) / float64(time.Millisecond)
			lines[i].points = append(lines[i].points, point{float64(n), rig.SpreadOf([]float64{ms})})
		}
		grace += e.GraceRounds
		fmt.Fprintf(os.Stderr, "measured: %d connections; grace rounds: %d; earliest: %v\n", n, e.GraceRounds, e.Late[0])
	}
	return draw("eviction.svg", chart{title: "OnClose after the last byte and the Timeout of 3 s, when all clients freeze at once", x: "connections", y: "milliseconds late", log: true, lines: lines,
		desc: []string{fmt.Sprintf("Interval 1 s, Tick 100 ms: two ticks are the promise. Idle clients that answered Pings for %v are stopped (SIGSTOP). Bare gnet tells nothing of them. Grace rounds (an Interval more, where more than half are due at once): %d.", evictionSettle, grace)}}, at.Note)
}

func measureEviction(at rig.Place, n int) (e servers.Evicted, err error) {
	s := servers.Server(servers.PulsewheelMany, servers.Options{Loops: 1, Interval: evictionInterval})
	s.CPUs, s.GOMAXPROCS = at.Server, 1
	pair, err := rig.StartPair(rig.Candidate{Server: s, Load: load.Options{
		Conns: n, Message: message(), Reports: 1, Pongs: true, CPUs: at.Load,
	}})
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, pair.Stop()) }()
	time.Sleep(evictionSettle)
	if err := pair.Load.Freeze(); err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, pair.Load.Thaw()) }()
	for deadline := time.Now().Add(10 * evictionInterval); len(e.Late) < n; {
		if time.Now().After(deadline) {
			return e, fmt.Errorf("%d of %d were told, %d ended otherwise", len(e.Late), n, e.Wrong)
		}
		time.Sleep(evictionInterval)
		if e, err = servers.AskEvicted(pair.Server); err != nil {
			return e, err
		}
	}
	return e, nil
}
