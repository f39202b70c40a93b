package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// ending is one way in which a client goes away.
type ending struct {
	name     string
	act      string          // what is done to the client
	want     []server.Reason // any of these is true
	deadline time.Duration   // that has to pass first: told before it is as wrong as told late; 0: none
	play     func(*play)
}

// slack is what every limit allows the machine for running this process and the client's, loaded as
// it may be. What an unloaded event loop needs (p99 of 5 ms and less) is not measured here.
const slack = 250 * time.Millisecond

// limit is when the reason must have been told: within two ticks of the deadline, or at once. Where
// the server ends the session, it waits for the client to close first: two processes have to run then.
// For how long the machine has held this process up comes on top, see heldup.go.
func (e ending) limit() time.Duration {
	switch {
	case e.deadline > 0:
		return e.deadline + 2*config.Tick + slack
	case e.want[0] >= server.ServerClosed:
		return 2 * slack
	}
	return slack
}

type reasons = []server.Reason

var endings = []ending{
	{"close", "closes its socket", reasons{server.PeerClosed}, 0, does("close")},
	{"rst", "resets the connection", reasons{server.PeerReset}, 0, does("reset")},
	{"kill9", "is killed (SIGKILL)", reasons{server.PeerClosed, server.PeerReset}, 0, kill9},
	{"goodbye", "says Goodbye", reasons{server.PeerGoodbye}, 0, goodbye},
	{"garbage", "speaks HTTP", reasons{server.PeerProtocol}, 0, errs("raw " + hex.EncodeToString([]byte("GET / HTTP/1.1\r\n")))},
	{"too-long", "announces 64 KiB and 1 byte", reasons{server.PeerProtocol}, 0, errs("raw 01010001")},
	{"trickle", "sends a frame byte by byte", reasons{server.PeerStalledFrame}, config.FrameTimeout, errs("trickle")},
	{"says-nothing", "connects and says nothing", reasons{server.PeerUnready}, config.HandshakeTimeout, saysNothing},
	{"frozen", "is stopped (SIGSTOP)", frozenReasons, config.Policy.Timeout, frozen},
	{"stops-reading", "sends, but reads no more", reasons{server.PeerSlow}, config.WriteTimeout, stopsReading},
	{"kicked", "is replaced by the server", reasons{server.SessionReplaced}, 0, kicked},
	{"ignores-goodbye", "does not close when told to", reasons{server.ServerClosed}, config.CloseTimeout, ignoresGoodbye},
	{"handler-panics", "makes the handler panic", reasons{server.HandlerFailed}, 0, handlerPanics},
	{"app-reason", "surrenders (the game's 1007)", reasons{surrendered}, 0, errs("say surrender")},
	{"back-after-silence", "is stopped, thawed, closes", reasons{server.PeerClosed}, 0, backAfterSilence},
	{"full", "is one too many", reasons{server.ServerFull}, 0, full},
	{"shutdown", "is there when the server drains", reasons{server.ServerShutdown}, 0, shutdown},
}

// does has a client do one thing.
func does(order string) func(*play) {
	return func(p *play) {
		c := p.join()
		p.act(c, order)
		p.ended(c)
	}
}

// errs has a client do one thing for which the server ends it, and sees that the client is told why.
func errs(order string) func(*play) {
	return func(p *play) {
		c := p.join()
		p.act(c, order)
		end := p.ended(c)
		p.heardGoodbye(c, end.Reason)
	}
}

func kill9(p *play) {
	c := p.join()
	c.mayGo = true
	p.begin()
	p.must("SIGKILL", c.cmd.Process.Kill())
	p.ended(c)
}

// goodbye: the number and the text of the client's Goodbye are kept.
func goodbye(p *play) {
	c := p.join()
	p.act(c, "goodbye 1001 see you tomorrow")
	end := p.ended(c)
	p.check(end.PeerCode == 1001 && end.Detail == "see you tomorrow",
		"the Goodbye was kept as %d %q", uint16(end.PeerCode), end.Detail)
}

// saysNothing: such a client does not answer Pings either. One that did would be no stranger.
func saysNothing(p *play) {
	c := p.process()
	p.tell(c, "deaf")
	p.begin() // the deadline counts from OnOpen, which cannot come before this
	p.enter(c)
	p.ended(c)
}

// frozen: nothing but the heartbeat sees it, for the client's kernel goes on acknowledging. The client
// stops reading just before, so that the last it says is known: the deadlines count from there.
func frozen(p *play) {
	c := p.join()
	p.tell(c, "deaf")
	p.act(c, "say still here")
	p.await(c, "message")
	p.must("SIGSTOP", freeze(c.cmd.Process))
	after := p.await(c, "suspect").at.Sub(p.begun)
	interval := config.Policy.Interval
	p.result.SuspectMS = milliseconds(after)
	p.check(after >= interval, "it was suspect already after %v", after)
	p.check(after <= interval+2*config.Tick+slack+p.heldUpSince(), "it was suspect only after %v", after)
	p.ended(c)
	p.must("the client", isFrozen(c.cmd.Process.Pid))
}

// stopsReading: Pings keep coming, so that no heartbeat misses this client, but it takes nothing.
func stopsReading(p *play) {
	c := p.join()
	p.tell(c, "deaf")
	p.tell(c, "ping")
	p.act(c, "say stream")
	p.ended(c)
	// What the client's kernel takes at first moves the deadline, and the server looks at that eight
	// times in a WriteTimeout.
	p.result.LimitMS += milliseconds(config.WriteTimeout / 8)
}

func kicked(p *play) {
	c := p.join()
	const text = "you have logged in elsewhere"
	p.begin()
	p.must("Close", c.seat.session.Close(server.SessionReplaced, text))
	end := p.ended(c)
	p.check(p.heardGoodbye(c, server.SessionReplaced) == text, "the client heard another text than %q", text)
	p.closedFirst(end)
}

func ignoresGoodbye(p *play) {
	c := p.join()
	p.tell(c, "stay")
	p.begin()
	p.must("Close", c.seat.session.Close(server.ServerClosed, "go home"))
	end := p.ended(c)
	p.heardGoodbye(c, server.ServerClosed)
	p.check(end.Record.Reset, "the server did not reset it")
}

// handlerPanics: the others on the same server do not notice.
func handlerPanics(p *play) {
	c, bystander := p.join(), p.join()
	p.act(c, "say panic")
	end := p.ended(c)
	p.check(end.Err != nil && strings.Contains(end.Err.Error(), "the game has a bug"), "the panic is not the cause: %v", end.Err)
	p.heardGoodbye(c, server.HandlerFailed)
	p.echoes(bystander, "still here")
}

// backAfterSilence: SetPolicy gives one session more time, as for a scene that takes long to load.
func backAfterSilence(p *play) {
	c := p.join()
	patient := heartbeat.Policy{Interval: config.Policy.Interval, Timeout: 10 * time.Second}
	p.must("SetPolicy", c.seat.session.SetPolicy(patient))
	p.must("SIGSTOP", freeze(c.cmd.Process))
	p.await(c, "suspect")
	p.must("SIGCONT", thaw(c.cmd.Process))
	p.await(c, "recovered")
	p.act(c, "close")
	p.ended(c)
}

// full: who is turned away at the front door never becomes a session: no OnOpen, no OnClose.
func full(p *play) {
	cfg := config
	cfg.ConnsMax = 1
	p.host(cfg)
	p.join()
	c := p.process()
	p.act(c, "dial "+p.h.addr)
	p.heardGoodbye(c, server.ServerFull)
	p.ends(server.ServerFull, time.Now())
	n := p.h.Stats()
	p.check(n.Refused == 1, "Stats().Refused is %d", n.Refused)
	p.check(n.Opened == 1, "OnOpen was called %d times", n.Opened)
	p.check(n.Live == 1, "%d sessions are alive", n.Live)
}

// shutdown: all clients are told to go, and close first, so that TIME_WAIT is theirs.
func shutdown(p *play) {
	p.host(config)
	clients := []*process{p.join(), p.join(), p.join()}
	ctx, cancel := context.WithTimeout(p.ctx, 2*config.CloseTimeout)
	defer cancel()
	p.begin()
	p.must("Drain", p.h.Drain(ctx))
	for _, c := range clients {
		end := p.ended(c)
		p.heardGoodbye(c, server.ServerShutdown)
		p.closedFirst(end)
	}
	left, err := timeWait(p.h.addr) // once they have closed, it is decided who has TIME_WAIT
	p.must("TIME_WAIT", err)
	p.check(left == 0, "%d sockets of the server are in TIME_WAIT", left)
	p.result.Note = fmt.Sprintf("%d clients, %d sockets in TIME_WAIT", len(clients), left)
}
