//go:build linux

package bench

import (
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	badClients = flag.Int("bad.clients", 4, "clients of each kind behind each path of TestBadPaths, at most 60")
	badFor     = flag.Duration("bad.for", 4*time.Second, "for how long TestBadPaths watches them")
	badSeed    = flag.Uint64("bad.seed", 1, "the seed of the losses of TestBadPaths")
)

// A badPath is a path that is bad and not cut.
type badPath struct {
	name      string
	shape     netlab.Shape
	perLeg    int // so many clients of each kind share a leg; 0: all
	downloads int // plain TCP connections that take on each leg what they get
	kinds     []pathKind
}

var badKinds = []pathKind{
	{name: "echo", talks: true, echo: true},
	{name: "echo, streamed to", talks: true, echo: true, stream: 100, every: 100 * time.Millisecond},
	{name: "silent"},
	{name: "silent, streamed to", stream: 100, every: 100 * time.Millisecond},
}

// badPaths are the paths of the table. In a queue of 2 s what is sent waits that long, whoever
// filled the queue: downloads in the same house, or the stream itself, which is then a third more
// than the path takes.
func badPaths() []badPath {
	loss := func(share float64) netlab.Shape {
		return netlab.Shape{Delay: 20 * time.Millisecond, Loss: share, Seed: *badSeed}
	}
	queue := netlab.Shape{Delay: 20 * time.Millisecond, Rate: 60_000, Queue: 120_000, Seed: *badSeed}
	own := netlab.Shape{Delay: 20 * time.Millisecond, Rate: 48_000, Queue: 96_000, Seed: *badSeed}
	const heavy, every = 4000, 250 * time.Millisecond
	return []badPath{
		{name: "loss 20 %", shape: loss(0.2), kinds: badKinds},
		{name: "loss 30 %", shape: loss(0.3), kinds: badKinds},
		{name: "queue of 2 s, downloads", shape: queue, perLeg: 4, downloads: 3, kinds: badKinds},
		{name: "queue of 2 s, own stream", shape: own, perLeg: 2, kinds: []pathKind{
			{name: "echo, streamed to", talks: true, echo: true, stream: heavy, every: every},
			{name: "silent, streamed to", stream: heavy, every: every},
		}},
	}
}

// badTitles are the columns after the first three.
var badTitles = []string{
	"clients", "ended", "frozen", "dead", "lost", "others", "warned", "silence", "recovered",
}

// A badGroup is the clients behind one path, under one policy.
type badGroup struct {
	policy heartbeat.Policy
	path   badPath
	game   *pathGame
	legs   []*netlab.Leg
}

// TestBadPaths watches healthy clients behind paths that lose much or delay much, and prints what
// the server says about them: how many were ended, suspected (of the path, of silence) and
// recovered. Such a client can be silent for longer than a timeout of 3 s; then the server may say
// what its kernel knows of the path. It must not say that the client is slow, late or flooding. Nor
// is the client ever frozen, but under loss nothing tells: its kernel acknowledges while its answer
// waits to be sent again. So peer_frozen is counted under loss, and forbidden elsewhere.
func TestBadPaths(t *testing.T) {
	t.Parallel()
	require.LessOrEqual(t, *badClients, 60, "more on a loop would be given a grace round")
	policies := []heartbeat.Policy{
		{Interval: time.Second, Timeout: 3 * time.Second},
		{Interval: 5 * time.Second, Timeout: 15 * time.Second},
	}
	var groups []*badGroup
	legs := 0
	for _, policy := range policies {
		for _, path := range badPaths() {
			n := 1
			if path.perLeg > 0 {
				n = (*badClients + path.perLeg - 1) / path.perLeg
			}
			groups = append(groups, &badGroup{policy: policy, path: path, legs: make([]*netlab.Leg, n)})
			legs += n
		}
	}
	lab := newLab(t, legs)
	worst := watchWorst(t)
	var joined sync.WaitGroup
	for _, g := range groups {
		for i := range g.legs {
			legs--
			g.legs[i] = lab.Leg(legs)
			// The path is good until all have joined.
			require.NoError(t, g.legs[i].Relay(netlab.Shape{Delay: g.path.shape.Delay}))
		}
		var err error
		g.game, err = newPathGame(t, lab, server.Config{Policy: g.policy, Loops: 1}, 0)
		require.NoError(t, err)
		for i, leg := range g.legs {
			n := *badClients*(i+1)/len(g.legs) - *badClients*i/len(g.legs)
			joined.Go(func() { g.game.join(t, leg, g.path.kinds, n, 500*time.Millisecond) })
		}
	}
	joined.Wait()
	require.False(t, t.Failed())
	for _, g := range groups {
		g.spoil(t, lab)
	}
	time.Sleep(*badFor)
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s%-26s%-21s", "timeout", "path", "kind")
	for _, title := range badTitles {
		fmt.Fprintf(&b, "%10s", title)
	}
	fmt.Fprintln(&b)
	var examples strings.Builder
	for _, g := range groups {
		g.print(t, &b, &examples)
	}
	t.Logf("%d clients of each kind for %v, seed %d, held up by %v at a time\n"+
		"frozen, dead, lost, others: reasons of the ended; warned: SuspectPath; silence: SuspectSilence\n%s"+
		"one of each that were ended\n%s",
		*badClients, *badFor, *badSeed, worst().Round(time.Millisecond), b.String(), examples.String())
}

// spoil makes the path as bad as it is said to be.
func (g *badGroup) spoil(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	for _, leg := range g.legs {
		require.NoError(t, leg.Relay(g.path.shape))
		for range g.path.downloads {
			download(t, lab, leg)
		}
	}
}

// download takes as much as it gets over the leg, by a TCP connection of its own, until the test
// ends.
func download(t *testing.T, lab *netlab.Lab, leg *netlab.Leg) {
	t.Helper()
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	defer ln.Close()
	c, err := leg.Dial(ln.Addr().(*net.TCPAddr).Port)
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(io.Discard, c) })
	both.Go(func() {
		for buf := make([]byte, 16<<10); err == nil; {
			_, err = s.Write(buf)
		}
	})
	t.Cleanup(func() {
		for _, c := range []net.Conn{s, c} {
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		both.Wait()
	})
}

// print prints a row for each kind and an example for each reason, and fails the test for every
// client that was blamed.
func (g *badGroup) print(t *testing.T, b, examples *strings.Builder) {
	t.Helper()
	for _, k := range g.path.kinds {
		reasons := map[server.Reason]int{}
		suspected := map[server.Suspicion]int{}
		clients, recovered, blamed := 0, 0, 0
		var example *server.CloseError
		for _, c := range g.game.clients {
			if c.kind != k {
				continue
			}
			clients++
			c.mu.Lock()
			recovered += c.recovered
			for why, n := range c.suspected {
				suspected[why] += n
			}
			if c.end != nil {
				if reasons[c.end.Reason]++; reasons[c.end.Reason] == 1 {
					fmt.Fprintf(examples, "%v, %s, %s: %v: %v, %+v\n", g.policy.Timeout, g.path.name, k.name,
						c.end, c.end.Record, c.end.Record.TCP)
				}
				if r := c.end.Reason; pathBlames(r) && (r != server.PeerFrozen || g.path.shape.Loss == 0) {
					blamed++
					example = c.end
				}
			}
			c.mu.Unlock()
		}
		if blamed > 0 {
			assert.Fail(t, "healthy clients were blamed", "timeout %v, %s, %s: %d, as this one: %v: %v, %+v",
				g.policy.Timeout, g.path.name, k.name, blamed, example, example.Record, example.Record.TCP)
		}
		ended, others := 0, 0
		for r, n := range reasons {
			ended += n
			if r < server.HeartbeatLost || r > server.PathDead {
				others += n
			}
		}
		fmt.Fprintf(b, "%-8v%-26s%-21s", g.policy.Timeout, g.path.name, k.name)
		for _, n := range []int{
			clients, ended,
			reasons[server.PeerFrozen], reasons[server.PathDead], reasons[server.HeartbeatLost], others,
			suspected[server.SuspectPath], suspected[server.SuspectSilence], recovered,
		} {
			fmt.Fprintf(b, "%10d", n)
		}
		fmt.Fprintln(b)
	}
}
