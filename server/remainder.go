package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

// One read of gnet's is 64 KiB, which may be 16,384 messages. So a turn decodes the input of one
// connection for half a tick at most. What is left of the read waits in gnet's inbound buffer, and
// is gone on with after the wheel and after the other sockets. gnet cannot be kept from reading
// more meanwhile: if more than one read waits, decoding goes on until no more than that is left,
// and the wheel is swept in between.

const (
	readSize   = 64 << 10 // of gnet, at most
	paceFirst  = 16       // messages before the clock is read for the first time
	paceMost   = 1024     // and, at most, between two readings
	paceChecks = 16       // readings in half a tick
)

// turnBudget is for how long a turn decodes the input of one connection.
func (s *Server) turnBudget() time.Duration { return s.cfg.Tick / 2 }

// pace tells when decoding has gone on for long enough. The clock is read only each so many
// messages, as many as should take a sixteenth of the budget; and when the coarse clock has gone
// on, for messages that take long.
type pace struct {
	begun  time.Duration // the budget is counted from here; 0: from the first reading
	last   time.Duration // the last reading; not valid before the first
	frames uint64        // framesIn of the conn then
}

// paced reads the clock while c is being decoded. It returns how many messages may come before it
// is read again, or 0 if the budget is used up; and the coarse clock.
func (l *loop) paced(c *conn) (messages int, tick uint32) {
	p, now := &l.pace, l.srv.elapsed()
	budget := l.srv.turnBudget()
	messages = paceFirst
	if n := c.framesIn - p.frames; p.begun != 0 && p.frames < c.framesIn && p.last >= p.begun {
		each := max((now-p.last)/time.Duration(n), 1)
		messages = int(min(max(budget/paceChecks/each, 1), paceMost))
	}
	if p.begun == 0 {
		p.begun = now
	}
	p.last, p.frames = now, c.framesIn
	if now-p.begun >= budget {
		messages = 0
	}
	return messages, l.srv.now.Load()
}

// restart begins a new budget: the time before was not spent on messages.
func (l *loop) restart(c *conn) int {
	now := l.srv.elapsed()
	l.pace = pace{begun: now, last: now, frames: c.framesIn}
	return paceFirst
}

// keeps returns how many undecoded bytes may be left for later.
func (c *conn) keeps() int { return readSize + codec.HeaderSize + c.srv.cfg.PayloadMax }

// none: no byte may be left for later.
const none = -1

// later has the rest of the input decoded after the other sockets have been read.
func (c *conn) later() {
	c.frameAt = 0 // whether a frame is unfinished will be seen then
	if !c.putOff {
		c.putOff = true
		c.loop.resumes = append(c.loop.resumes, c)
	}
	c.loop.askRound()
}

// resume goes on with the input that has been put off, for as long as a single connection may take:
// then it is the sockets' turn again.
func (l *loop) resume() {
	n, i := len(l.resumes), 0
	if n == 0 {
		return
	}
	for start := l.srv.elapsed(); i < n; {
		c := l.resumes[i]
		i++
		c.putOff = false
		if !c.remains || c.sock == nil {
			continue
		}
		l.enter()
		c.goOn()
		l.exit()
		if l.srv.elapsed()-start >= l.srv.turnBudget() {
			break
		}
	}
	rest := copy(l.resumes, l.resumes[i:])
	clear(l.resumes[rest:])
	if l.resumes = l.resumes[:rest]; rest > 0 {
		l.askRound()
	} else {
		l.resumes = nil
	}
}

// goOn is a turn that decodes what has been put off.
func (c *conn) goOn() {
	defer c.crashed("traffic")
	l := c.loop
	l.beginTurn()
	if c.phase == open && !c.sealed.Load() {
		c.decodeAndFlush()
	}
	c.finishIfEnded()
	if c.phase > open {
		c.discard()
	}
	l.endTurn()
}

// deliverRest delivers what has been put off, when the connection has just ended.
func (c *conn) deliverRest(sock socket) {
	if !c.remains || c.sealed.Load() {
		return
	}
	c.remains = false
	if kept, err := sock.Peek(none); err == nil {
		c.deliver(kept)
	}
}

// deliver decodes all of buf.
func (c *conn) deliver(buf []byte) {
	c.loop.pace.begun = 0
	if _, err := c.frames(buf, none); err != nil {
		c.endByHandler(err)
	}
}
