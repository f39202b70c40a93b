package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// patience is how long a case waits for what should have come already, so that a reason told late is
// seen, and told as late.
const patience = 5 * time.Second

// play is one case while it runs: the words in which the cases are written. A word that fails ends
// the play; the rest of the program goes on.
type play struct {
	ctx     context.Context
	h       *host
	own     bool // h is this play's own
	clients []*process
	begun   time.Time // no later than what brings the end about, or starts its deadline
	ending  ending
	result  result
	heldUp  *heldUp
	before  time.Duration // for which it was held up before begun
}

// failure is what a word panics with.
type failure struct{ problem string }

// run plays the ending on h and judges it. No client of it is left when it returns.
func (e ending) run(ctx context.Context, h *host) result {
	p := &play{ctx: ctx, h: h, ending: e, result: newResult(e), heldUp: watchHeldUp()}
	defer p.heldUp.stop()
	p.guarded(func() { e.play(p) })
	p.result.heldUp(p.heldUpSince())
	p.guarded(p.cleanup)
	p.result.judge()
	return p.result
}

// guarded runs f until it is done or fails.
func (p *play) guarded(f func()) {
	defer func() {
		switch x := recover().(type) {
		case nil:
		case failure:
			p.result.problem(x.problem)
		default:
			panic(x)
		}
	}()
	f()
}

func (p *play) fatal(format string, args ...any) { panic(failure{fmt.Sprintf(format, args...)}) }

// must ends the play if err is not nil.
func (p *play) must(what string, err error) {
	if err != nil {
		p.fatal("%s: %v", what, err)
	}
}

// check notes a problem unless ok.
func (p *play) check(ok bool, format string, args ...any) {
	if !ok {
		p.result.problem(fmt.Sprintf(format, args...))
	}
}

// host gives the play a server of its own.
func (p *play) host(cfg server.Config) {
	h, err := open(cfg)
	p.must("server", err)
	p.h, p.own = h, true
}

// process starts a client process that does nothing yet.
func (p *play) process() *process {
	c, err := start()
	p.must("a client process cannot be started", err)
	p.clients = append(p.clients, c)
	return c
}

// enter has c connect, and waits for its OnOpen.
func (p *play) enter(c *process) {
	local, err := netip.ParseAddrPort(p.tell(c, "dial "+p.h.addr))
	p.must("the client's address", err)
	timeout := time.After(patience)
	for c.seat == nil {
		select {
		case s := <-p.h.arena.opened:
			if s.session.RemoteAddr() == local {
				c.seat = s
			}
		case <-timeout:
			p.fatal("there was no OnOpen for the client at %v", local)
		case <-p.ctx.Done():
			p.fatal("interrupted")
		}
	}
}

// join starts a client process that connects, says hello and from then on answers Pings.
func (p *play) join() *process {
	c := p.process()
	p.enter(c)
	p.echoes(c, "hello")
	p.await(c, "message")
	return c
}

// echoes has c say something, and hears the echo.
func (p *play) echoes(c *process, text string) {
	p.tell(c, "say "+text)
	if got := p.hear(c, "message"); got != text {
		p.fatal("the echo of %q was %q", text, got)
	}
}

// begin starts the clock.
func (p *play) begin() { p.before, p.begun = p.heldUp.total(), time.Now() }

// heldUpSince is for how long the machine has held this process up since begin.
func (p *play) heldUpSince() time.Duration { return p.heldUp.total() - p.before }

// act starts the clock and gives c the order that brings the end about. What the client needs to wake
// up is counted too.
func (p *play) act(c *process, order string) {
	p.begin()
	p.must("order", c.order(order))
}

// tell gives c an order and waits until it is done.
func (p *play) tell(c *process, order string) string {
	p.must("order", c.order(order))
	verb, _, _ := strings.Cut(order, " ")
	answer, _ := strings.CutPrefix(p.hear(c, "done "+verb), " ")
	return answer
}

// hear waits until c reports something that begins with these words, and returns the rest.
func (p *play) hear(c *process, words string) string {
	timeout := time.After(p.ending.deadline + patience)
	for seen := 0; ; {
		for ; seen < len(c.heard); seen++ {
			line := c.heard[seen]
			if rest, ok := strings.CutPrefix(line, "failed "); ok {
				p.fatal("the client cannot %s", rest)
			}
			if rest, ok := strings.CutPrefix(line, words); ok {
				c.heard = slices.Delete(c.heard, seen, seen+1)
				return strings.TrimPrefix(rest, " ")
			}
		}
		select {
		case line, ok := <-c.reports:
			if !ok {
				p.fatal("%v, while it should report %q", c.obituary(), words)
			}
			c.heard = append(c.heard, line)
		case <-timeout:
			p.fatal("the client does not report %q", words)
		case <-p.ctx.Done():
			p.fatal("interrupted")
		}
	}
}

// heardGoodbye waits until c has received a Goodbye, and returns its text.
func (p *play) heardGoodbye(c *process, want server.Reason) string {
	number, text, _ := strings.Cut(p.hear(c, "goodbye"), " ")
	n, err := strconv.ParseUint(number, 10, 16)
	p.must("the number of the Goodbye", err)
	p.check(server.Reason(n) == want, "the client heard Goodbye %d, not %d", n, uint16(want))
	p.result.Heard = strings.TrimSpace(number + " " + text)
	return text
}

// await waits until the server tells the game something about c.
func (p *play) await(c *process, what string) event {
	timeout := time.After(p.ending.deadline + patience)
	gone := c.gone
	if c.mayGo {
		gone = nil
	}
	for {
		select {
		case e := <-c.seat.events:
			if e.what == what {
				return e
			}
			if e.what == "closed" {
				p.note(c, e)
				p.fatal("the session ended before the server told %q", what)
			}
		case <-gone:
			p.fatal("%v", c.obituary())
		case <-timeout:
			p.fatal("the server does not tell %q", what)
		case <-p.ctx.Done():
			p.fatal("interrupted")
		}
	}
}

// ended waits for c's OnClose and notes it. If several clients end in a play the last counts, or the
// first with an unexpected reason.
func (p *play) ended(c *process) *server.CloseError {
	e := p.await(c, "closed")
	p.note(c, e)
	return e.end
}

// note notes the event that c's session has ended.
func (p *play) note(c *process, e event) {
	c.over = true
	if !p.result.unexpected() {
		p.ends(e.end.Reason, e.at)
		p.result.note(e.end)
	}
}

// ends notes the reason that was told, and when.
func (p *play) ends(r server.Reason, at time.Time) {
	p.result.Got = r.String()
	if !p.begun.IsZero() {
		p.result.AfterMS = milliseconds(at.Sub(p.begun))
	}
}

// closedFirst checks that the server let the client close first: then the FIN had come when it ended.
func (p *play) closedFirst(end *server.CloseError) {
	p.check(!end.Record.Reset, "the server reset it")
	p.check(slices.Contains(closedFirstStates, end.Record.TCPState), "the client did not close first: the kernel said %v", end.Record.TCPState)
}

// cleanup ends what is left of the play: the clients, their sessions, and a server of its own.
func (p *play) cleanup() {
	for _, c := range p.clients {
		if byItself := c.kill(); byItself && !c.mayGo {
			p.result.problem(c.obituary())
		}
	}
	for _, c := range p.clients {
		for timeout := time.After(patience); c.seat != nil && !c.over; {
			select {
			case e := <-c.seat.events:
				c.over = e.what == "closed"
			case <-timeout:
				p.fatal("a client was killed, but its session has not ended")
			}
		}
	}
	if p.own {
		p.must("the server", p.h.close())
	}
}
