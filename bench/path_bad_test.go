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
	badFor     = flag.Duration("bad.for", 5*time.Second, "for how long TestBadPaths watches them")
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

// badPaths are the paths of the table. In a queue of 2 s what is sent waits that long, whoever filled the
// queue: downloads in the same house, or the stream itself, which is then a third more than the path takes.
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

// A badGroup is the clients behind one path, under one policy.
type badGroup struct {
	policy  heartbeat.Policy
	path    badPath
	game    *pathGame
	legs    []*netlab.Leg
	clients []*pathClient
}

// TestBadPaths watches healthy clients behind paths that lose much or hold up much, and prints what the
// server says about them: ended, warned of (the path, the silence), recovered. Behind such a path a client
// can be silent for longer than a timeout of 3 s, and what the server can say then is what its kernel
// knows of the path. That it is the client's fault, too slow or too late, is never true here.
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
	for _, g := range groups {
		for i := range g.legs {
			legs--
			g.legs[i] = lab.Leg(legs)
		}
		g.join(t, lab)
	}
	require.False(t, t.Failed())
	began := time.Now()
	for _, g := range groups {
		g.spoil(t, lab)
	}
	time.Sleep(*badFor)
	over := time.Now()
	var b strings.Builder
	fmt.Fprintf(&b, "%-7s %-25s %-20s%8s%8s%8s%8s%8s%8s%9s%9s%11s\n", "timeout", "path", "kind",
		"clients", "ended", "frozen", "dead", "lost", "others", "warned", "silence", "recovered")
	for _, g := range groups {
		g.print(&b, began, over)
	}
	t.Logf("%d clients of each kind for %v, held up by %v at a time\n"+
		"frozen, dead, lost, others: reasons of the ended; warned: SuspectPath; silence: SuspectSilence\n%s",
		*badClients, *badFor, worst().Round(time.Millisecond), b.String())
}
