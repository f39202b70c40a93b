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

// broadcastTo and sendTo are what the parts broadcast and sends have servers send; window is how many broadcasts may be
// on their way.
func broadcastTo(window int) servers.Push {
	return servers.Push{Sessions: 10_000, Payload: 100, For: *counted, Window: window}
}

// windows are those of the part broadcast: one message, or all that happens in a tick of a game.
var windows = []int{1, 16}

func sendTo() servers.Push {
	return servers.Push{Sessions: 1000, Payload: 100, For: *counted, Senders: 8, Window: 16}
}

func planBroadcast(place) string {
	return fmt.Sprint(len(windows), " times ", planPush(broadcastTo(1)))
}
func planSends(place) string { return planPush(sendTo()) }

func planPush(p servers.Push) string {
	n := len(pushers(p))
	opening := time.Duration(n*p.Sessions) * 500 * time.Microsecond
	return fmt.Sprintf("%d sessions, %d servers, %d rounds of %v: about %v", p.Sessions, n, *rounds, *counted, (took(n) + opening).Round(time.Second))
}

// A pusher is a server that sends of itself.
type pusher struct {
	name        string
	pair        *rig.Pair
	rates, cost []float64 // messages a second, nanoseconds of CPU time for each
	busy        []float64 // cores
	loadBusy    []float64 // cores
	wakes       []float64 // for each message
}

func startPusher(at place, k pusherKind, p servers.Push) (*pusher, error) {
	s := servers.Server(k.role, servers.Options{Loops: at.loops})
	s.CPUs, s.GOMAXPROCS, s.Program = at.Server, at.loops+k.spare, k.program
	pair, err := rig.StartPair(rig.Candidate{Server: s, Load: load.Options{
		Conns: p.Sessions, Message: message(p.Payload), Reports: p.Reports(), Pongs: true, CPUs: at.Load,
	}})
	return &pusher{name: k.name, pair: pair}, err
}

// measure measures one round.
func (c *pusher) measure(p servers.Push) error {
	before, err := c.pair.Server.Usage()
	if err != nil {
		return err
	}
	loadBefore, err := c.pair.Load.Usage()
	if err != nil {
		return err
	}
	found, err := p.Ask(c.pair.Server)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	after, err := c.pair.Server.Usage()
	if err != nil {
		return err
	}
	loadAfter, err := c.pair.Load.Usage()
	cpu, n := after.CPU-before.CPU, float64(max(found.Messages, 1))
	c.rates = append(c.rates, found.Rate())
	c.cost = append(c.cost, float64(cpu)/n)
	c.busy = append(c.busy, cpu.Seconds()/found.Elapsed.Seconds())
	c.loadBusy = append(c.loadBusy, (loadAfter.CPU-loadBefore.CPU).Seconds()/found.Elapsed.Seconds())
	c.wakes = append(c.wakes, float64(found.Wakes)/n)
	return err
}

func runBroadcast(at place) error {
	for _, w := range windows {
		fmt.Printf("%d on their way at a time:\n\n", w)
		if err := runPush(at, broadcastTo(w)); err != nil {
			return err
		}
		fmt.Println()
	}
	fmt.Println("A broadcast waits until all have got the one so many before it. A message is one for each session. epoll: one raw send for each session, which is what one message at a time costs at least. gnet: AsyncWrite of the same bytes on each connection of a list; pulsewheel: Group.Broadcast; both from a goroutine outside of the loops.")
	return nil
}

func runSends(at place) error {
	err := runPush(at, sendTo())
	fmt.Println("\n8 goroutines send to their share of the sessions in turn, one message each, and wait while more than 16 messages for each session are on their way. gnet: AsyncWrite of a frame of its own for each message; pulsewheel: Session.Send. Loops do not count their wakes in gnet.")
	return err
}

type pusherKind struct {
	name, role string
	spare      int
	program    string // as in rig.Server
}

// pushers are the servers: raw epoll only where the system calls are all there is.
func pushers(p servers.Push) []pusherKind {
	all := []pusherKind{
		{gnet, servers.GnetMany, 0, ""},
		{gnetMore, servers.GnetMany, 1, ""},
		{servers.Pulsewheel, servers.PulsewheelMany, *spare, ""},
	}
	if p.Senders == 0 {
		all = append(all, pusherKind{servers.Epoll, servers.EpollMany, 1, ""})
	}
	if older != nil {
		all = append(all, pusherKind{older.name, servers.PulsewheelMany, *spare, older.program})
	}
	return all
}

// runPush prints a row for each server.
func runPush(at place, p servers.Push) (err error) {
	var all []*pusher
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.pair.Stop())
		}
	}()
	for _, c := range pushers(p) {
		one, err := startPusher(at, c, p)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		all = append(all, one)
		warm := p
		warm.For = 50 * time.Millisecond
		if err := one.measure(warm); err != nil {
			return err
		}
		*one = pusher{name: one.name, pair: one.pair}
	}
	match().Interleave(len(all), func(_, i int) {
		if err == nil {
			err = all[i].measure(p)
		}
	})
	if err != nil {
		return err
	}
	base, ours := all[0], all[2]
	if rig.SpreadOf(all[1].rates).Median > rig.SpreadOf(base.rates).Median {
		base = all[1]
	}
	t := rig.Table{Head: []string{"server", "messages/s", "ratio to " + base.name, "CPU for one", base.name + " : it, CPU", "cores: server", "load", "wakes for one"}}
	t.Head = append(t.Head, older.heads("messages/s", "CPU for one")...)
	for _, c := range all {
		wakes := "-"
		if c == ours || older != nil && c.name == older.name {
			wakes = fmt.Sprintf("%.5f", rig.SpreadOf(c.wakes).Median)
		}
		cells := []string{c.name, rig.Count(rig.SpreadOf(c.rates).Median), rig.Ratio(c.rates, base.rates).String(),
			nanoseconds(rig.SpreadOf(c.cost).Median), rig.Ratio(base.cost, c.cost).String(),
			fmt.Sprintf("%.2f", rig.SpreadOf(c.busy).Median), fmt.Sprintf("%.2f", rig.SpreadOf(c.loadBusy).Median), wakes}
		if older != nil {
			was := all[len(all)-1]
			cells = append(cells, rig.Ratio(c.rates, was.rates).String(), rig.Ratio(c.cost, was.cost).String())
		}
		t.Add(cells...)
	}
	t.Print(os.Stdout)
	return nil
}
