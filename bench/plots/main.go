// Command plots measures how the library scales, next to bare gnet, and draws it:
//
//	go run ./bench/plots                    all of it, some minutes: bench/plots/*.svg
//	go run ./bench/plots -quick -dir .      a look at whether it works
//
// Each server is a process of its own, with one loop on a CPU of its own unless loops are what is counted, and so is
// its load. Rounds are interleaved; a point is the median of its rounds, a bar its quartiles. Each
// drawing says in its <desc> by which command it was made. Absolute figures are those of one machine.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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
	only    = flag.String("only", "", "parts to run, of connections,eviction,loops; if empty, all")
	dir     = flag.String("dir", "bench/plots", "where the drawings go")
	quick   = flag.Bool("quick", false, "few connections and short rounds: the figures mean little")
	rounds  = flag.Int("rounds", 5, "how often each server is measured at each point")
	counted = flag.Duration("for", 250*time.Millisecond, "how long a round counts")
	seed    = flag.Uint64("seed", 0, "of the order in each round; if zero, one is chosen")
)

// crowds are the numbers of connections.
var crowds = []int{100, 1000, 5000, 15000}

func main() {
	servers.Register()
	rig.Main()
	flag.Parse()
	if err := plot(); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

func plot() error {
	if runtime.GOOS != "linux" {
		return errors.New("works on Linux only: it needs epoll and /proc")
	}
	if *quick {
		crowds, *rounds, *counted = []int{100, 1000}, 3, 50*time.Millisecond
	}
	if *rounds < 1 || *counted <= 0 {
		return errors.New("-rounds and -for must be positive")
	}
	if *seed == 0 {
		*seed = rand.Uint64()>>32 + 1
	}
	parts := []struct {
		name string
		run  func() error
	}{{"connections", plotConnections}, {"eviction", plotEviction}, {"loops", plotLoops}}
	var wanted []string
	if *only != "" {
		wanted = strings.Split(*only, ",")
	}
	for _, w := range wanted {
		if w != "connections" && w != "eviction" && w != "loops" {
			return fmt.Errorf("-only: no part %q", w)
		}
	}
	for _, p := range parts {
		if len(wanted) > 0 && !slices.Contains(wanted, p.name) {
			continue
		}
		begun := time.Now()
		if err := p.run(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: measured in %v\n", p.name, time.Since(begun).Round(time.Second))
	}
	return nil
}

// draw writes a drawing, and prints the same as a table.
func draw(name string, c chart, place string) error {
	c.desc = append(c.desc,
		strings.Join(append([]string{"Made by: go run ./bench/plots"}, os.Args[1:]...), " "),
		fmt.Sprintf("%s, %s/%s, %d CPUs, seed %d, %d rounds of %v; %s", runtime.Version(), runtime.GOOS, runtime.GOARCH, len(rig.CPUs()), *seed, *rounds, *counted, place))
	t := rig.Table{Head: []string{c.x}}
	for _, l := range c.lines {
		t.Head = append(t.Head, l.name+", "+c.y)
	}
	for i, p := range c.lines[0].points {
		row := []string{rig.Count(p.x)}
		for _, l := range c.lines {
			row = append(row, rig.Count(l.points[i].Median))
		}
		t.Add(row...)
	}
	fmt.Printf("\n%s\n\n", c.title)
	t.Print(os.Stdout)
	f, err := os.Create(filepath.Join(*dir, name))
	if err != nil {
		return err
	}
	return errors.Join(c.svg(f), f.Close())
}

func match() rig.Match {
	return rig.Match{Rounds: *rounds, Seed: *seed, Round: load.Round{Warm: 50 * time.Millisecond, For: *counted}}
}

// The servers: bare gnet is measured with GOMAXPROCS = loops and with one more, and the better is drawn.
const (
	gnet = iota
	gnetMore
	ours
)

// contenders are the servers, with so many connections each.
func contenders(at rig.Place, loops, conns int) []rig.Candidate {
	var all []rig.Candidate
	for _, c := range []struct {
		name, role string
		spare      int
	}{{"gnet", servers.Gnet, 0}, {"gnet, GOMAXPROCS = loops + 1", servers.Gnet, 1}, {"pulsewheel", servers.Pulsewheel, 0}} {
		s := servers.Server(c.role, servers.Options{Loops: loops})
		s.CPUs, s.GOMAXPROCS, s.Env = at.Server, loops+c.spare, []string{"GOGC=100"}
		all = append(all, rig.Candidate{Name: c.name, Server: s, Load: load.Options{
			Conns: conns, Message: message(), Pongs: true, Threads: at.Threads, CPUs: at.Load,
		}})
	}
	return all
}

// better returns that with the higher median.
func better(a, b []float64) rig.Spread {
	if x, y := rig.SpreadOf(a), rig.SpreadOf(b); x.Median > y.Median {
		return x
	}
	return rig.SpreadOf(b)
}

// message is a frame of 64 bytes.
func message() []byte {
	b, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: make([]byte, 64)})
	if err != nil {
		panic(err)
	}
	return b
}
