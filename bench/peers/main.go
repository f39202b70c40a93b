//go:build linux

package main

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// payload is how long the payload of a message is, in bytes.
const payload = 64

// A cell is one load.
type cell struct{ conns, outstanding int }

func (c cell) String() string { return fmt.Sprintf("%dx%d", c.conns, c.outstanding) }

func main() {
	register()
	rig.Main()
	if err := compare(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "peers: %v\n", err)
		os.Exit(1)
	}
}

// compare does what the command line says.
func compare(w io.Writer, args []string) error {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError) // of our own: zinx puts those of package testing into the other
	rounds := flags.Int("rounds", 7, "how often each server is measured in each cell")
	only := flags.String("only", "", "names of the peers, with commas between; if empty, all: "+strings.Join(names(), ","))
	cellsFlag := flags.String("cells", "100x1,1000x1,100x16,1000x16", "connections x messages outstanding on each, with commas between")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("no such argument: %q", flags.Arg(0))
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	cells, err := parseCells(*cellsFlag)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "peers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)

	place := rig.Apart(1)
	match := rig.Match{Rounds: *rounds, Seed: rand.Uint64()>>32 + 1, Round: load.Round{Warm: 50 * time.Millisecond, For: 300 * time.Millisecond}}
	fmt.Fprintf(w, "%d servers, %d cells, %d rounds each: about %v.\n", len(chosen), len(cells), *rounds,
		(time.Duration(len(chosen)*len(cells)*(*rounds)) * (match.Round.Warm + match.Round.For + 50*time.Millisecond)).Round(time.Second))
	fmt.Fprintf(w, "One loop, GOMAXPROCS=1, messages of %d bytes behind the header; %s. Seed of the orders: %d.\n\n", payload, place.Note, match.Seed)

	book := newBook(chosen, cells)
	var started []peer
	var servers []rig.Server
	for _, p := range chosen {
		s, err := p.server(folder)
		if err != nil {
			book.skipped[p.name] = err.Error()
			continue
		}
		s.CPUs = place.Server
		started, servers = append(started, p), append(servers, s)
	}
	for i, c := range cells {
		candidates := make([]rig.Candidate, len(started))
		for j, p := range started {
			candidates[j] = rig.Candidate{Name: p.name, Server: servers[j], Load: load.Options{
				Conns: c.conns, Outstanding: c.outstanding, Message: p.message(make([]byte, payload)), Pongs: !p.tlv,
				Threads: place.Threads, CPUs: place.Load,
			}}
		}
		book.enter(i, match.Compare(candidates))
	}
	book.print(w)
	return nil
}

func names() []string {
	var all []string
	for _, p := range peers {
		all = append(all, p.name)
	}
	return all
}

// choose returns the peers of these names, and always the first of all.
func choose(only string) ([]peer, error) {
	if only == "" {
		return peers, nil
	}
	chosen := peers[:1:1]
	for _, name := range strings.Split(only, ",") {
		i := slices.Index(names(), name)
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no %q, but %s", name, strings.Join(names(), ", "))
		}
		if !slices.ContainsFunc(chosen, func(p peer) bool { return p.name == name }) {
			chosen = append(chosen, peers[i])
		}
	}
	return chosen, nil
}

func parseCells(s string) ([]cell, error) {
	var cells []cell
	for _, one := range strings.Split(s, ",") {
		var c cell
		if n, err := fmt.Sscanf(one, "%dx%d", &c.conns, &c.outstanding); n != 2 || err != nil || c.conns < 1 || c.outstanding < 1 || c.String() != one {
			return nil, fmt.Errorf("-cells: %q is not like 1000x16", one)
		}
		cells = append(cells, c)
	}
	return cells, nil
}
