// Command compare prints how fast the library is, next to what it is built upon, as Markdown tables:
//
//	go run ./bench/compare                             the usual cells, some minutes
//	go run ./bench/compare -cells all -loops 1,all     every cell: an hour or so
//	go run ./bench/compare -only echo -cells 100x1x64  one
//	go run ./bench/compare -against v1.2.0             next to the library as it was at that revision, too
//	go run ./bench/compare -against v1.2.0 -only older -rounds 100
//	                                                   these two alone, which makes the ratio more precise
//
// With -against the revision is checked out into a temporary git worktree and built there, and its
// server is one more candidate in every part. The worktree is removed as soon as it is built; nothing
// else changes in the repository.
//
// Each server is a process of its own, and so is its load. All are there at the same time and are measured in
// turn, in an order that is shuffled for each round; a ratio is the median of the ratios of rounds that
// were next to each other, with its quartiles. Absolute figures are those of one machine at one moment.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
	"github.com/pulsewheel/pulsewheel/codec"
)

var (
	only = flag.String("only", "", "parts to run, of "+strings.Join(names(), ",")+"; if empty, all of these; or "+partOlder+
		": echo by this tree and the revision of -against alone")
	rounds   = flag.Int("rounds", 20, "how often each server is measured")
	counted  = flag.Duration("for", 300*time.Millisecond, "how long a round counts, after 50 ms to warm up")
	seed     = flag.Uint64("seed", 0, "of the order in each round; if zero, one is chosen")
	loops    = flag.String("loops", "1", "1: one loop, server and load on CPUs of their own; all: as many loops as CPUs, nothing bound; or both: 1,all")
	cellList = flag.String("cells", "100x1x64,1000x1x64,100x16x64,1000x16x64", "connections x messages outstanding x bytes of payload; all: every cell")
	spare    = flag.Int("spare", 0, "GOMAXPROCS of the library's processes less their loops")
	spin     = flag.Bool("spin", false, "the load polls without sleeping while it is measured; not with -loops all")
	sessions = flag.Int("idle.sessions", 15000, "sessions of the idle part")
	window   = flag.Duration("idle.window", 30*time.Second, "for how long the idle part looks at CPU time, in windows of a sixth of it")
	against  = flag.String("against", "", "a git `revision` of this repository whose server is measured, too: this tree's is compared with it")
	verbose  = flag.Bool("v", false, "print every server's figures, too")
)

// A part is one of the tables. It says first what it will do.
type part struct {
	name string
	plan func(place) string
	run  func(place) error
}

var parts []part

// names are known before flags are read.
func names() []string { return []string{"echo", "latency", "accept", "broadcast", "sends", "idle"} }

// partOlder is the part that measures nothing but this tree and the revision of -against: it runs only
// if it is named, since the others tell that, too.
const partOlder = "older"

func main() {
	servers.Register()
	rig.Main()
	parts = []part{
		{"echo", planEcho, runEcho},
		{"latency", planLatency, runLatency},
		{"accept", planAccept, runAccept},
		{"broadcast", planBroadcast, runBroadcast},
		{"sends", planSends, runSends},
		{"idle", planIdle, runIdle},
		{partOlder, planOlder, runOlder},
	}
	flag.Parse()
	if err := compare(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func compare() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("works on Linux only: it needs epoll and /proc")
	}
	if *rounds < 1 || *counted <= 0 || *sessions < 1 || *window <= 0 || *spare < 0 {
		return fmt.Errorf("-rounds, -for, -idle.sessions and -idle.window must be positive, and -spare not negative")
	}
	wanted := names()
	if *only != "" {
		wanted = strings.Split(*only, ",")
	}
	for _, w := range wanted {
		if w == partOlder && *against == "" {
			return fmt.Errorf("-only: the part %s needs -against", w)
		}
		if !slices.Contains(names(), w) && w != partOlder {
			return fmt.Errorf("-only: no part %q", w)
		}
	}
	places, err := parsePlaces(*loops)
	if err != nil {
		return err
	}
	if _, err := parseCells(*cellList); err != nil {
		return err
	}
	if *seed == 0 {
		*seed = rand.Uint64()>>32 + 1
	}
	fmt.Printf("%s, %s/%s, %d CPUs, seed %d\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, len(rig.CPUs()), *seed)
	if *against != "" {
		remove, err := prepareOlder(*against)
		if err != nil {
			return fmt.Errorf("-against %s: %w", *against, err)
		}
		defer remove()
		fmt.Println(older.note)
	}
	todo := func(f func(p part, at place) error) error {
		for _, p := range parts {
			for i, at := range places {
				if !slices.Contains(wanted, p.name) || p.name == "idle" && i > 0 {
					continue
				}
				if err := f(p, at); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
			}
		}
		return nil
	}
	_ = todo(func(p part, at place) error {
		fmt.Printf("- %s, %s: %s\n", p.name, at.name, p.plan(at))
		return nil
	})
	return todo(func(p part, at place) error {
		fmt.Printf("\n### %s, %s\n\n%s\n\n", p.name, at.name, at.Note)
		return p.run(at)
	})
}

// A place is a number of loops and where they run.
type place struct {
	rig.Place
	name  string
	loops int
}

func parsePlaces(list string) ([]place, error) {
	var all []place
	for _, s := range strings.Split(list, ",") {
		switch s {
		case "1":
			all = append(all, place{rig.Apart(1), "1 loop", 1})
		case "all":
			n := max(len(rig.CPUs()), 1)
			all = append(all, place{rig.Together(), fmt.Sprintf("%d loops", n), n})
		default:
			return nil, fmt.Errorf("-loops: %q is neither 1 nor all", s)
		}
	}
	return all, nil
}

// match is how all parts compare.
func match() rig.Match {
	return rig.Match{Rounds: *rounds, Seed: *seed, Round: load.Round{Warm: 50 * time.Millisecond, For: *counted}}
}

// The names of servers in tables: bare gnet is there twice, since which number of Ps is better depends on
// the machine and on the load.
const (
	gnet     = "gnet"
	gnetMore = "gnet, GOMAXPROCS = loops + 1"
)

// contenders are the servers of echo. Bare epoll has a P to spare: it is as fast as Go can be.
func contenders(at place) []rig.Candidate {
	var all []rig.Candidate
	for _, c := range []struct {
		name, role string
		spare      int
	}{
		{servers.Epoll, servers.Epoll, 1},
		{gnet, servers.Gnet, 0},
		{gnetMore, servers.Gnet, 1},
		{servers.Pulsewheel, servers.Pulsewheel, *spare},
		{servers.Unwatched, servers.Unwatched, *spare},
	} {
		s := servers.Server(c.role, servers.Options{Loops: at.loops})
		s.CPUs, s.GOMAXPROCS = at.Server, at.loops+c.spare
		all = append(all, rig.Candidate{Name: c.name, Server: s, Load: load.Options{
			Threads: at.Threads, CPUs: at.Load, Pongs: true, Spin: *spin && len(at.Load) > 0,
		}})
	}
	if older != nil {
		ours := all[slices.IndexFunc(all, func(c rig.Candidate) bool { return c.Name == servers.Pulsewheel })]
		ours.Name, ours.Server.Program = older.name, older.program
		all = append(all, ours)
	}
	return all
}

// message is a frame with so much payload.
func message(payload int) []byte {
	b, err := codec.Binary{PayloadMax: codec.PayloadLimit}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: make([]byte, payload)})
	if err != nil {
		panic(err)
	}
	return b
}

// took is how long so many rounds of so many servers take, roughly.
func took(servers int) time.Duration {
	return (time.Duration(*rounds*servers)*(*counted+60*time.Millisecond) + 500*time.Millisecond).Round(time.Second)
}
