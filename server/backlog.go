package server

import (
	"math"
	"time"
)

// A BacklogHandler is a Handler that is told when more is sent to a peer than it takes, so that the application can
// send it less, or coarser, or nothing for a while, before Config.BacklogMax ends the session. New finds out whether its
// Handler is one.
//
// The two methods are called in turn, on the session's loop as all others; after the end neither is. What counts is
// what waits on this side of the kernel, whoever sent it, once the loop has tried to write it. High is
// told in the turn that writes. Low is told within 2 ms and a turn of the loop while the peer reads on, and within
// a Config.Tick more if it had taken nothing for a while: nothing tells that the kernel has room again, so it is asked.
type BacklogHandler interface {
	Handler
	// OnBacklogHigh is called when more than Config.BacklogHigh bytes wait for the peer.
	OnBacklogHigh(s *Session)
	// OnBacklogLow is called when, after that, no more than Config.BacklogLow do. What it sends leaves
	// when it returns.
	OnBacklogLow(s *Session)
}

// Backlog returns how many bytes wait for the peer on this side of the kernel: exactly, as far as they have not
// been given to gnet yet, and of those that have been as many as there were at the loop's last look, at most two
// ticks of Config.Tick ago. After the end it is 0.
func (s *Session) Backlog() int {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	n := int(c.waiting.Load())
	if c.out != nil {
		n += len(c.out.b)
	}
	return n
}

// outbound returns the bytes that gnet holds for the peer, and notes them for Backlog.
func (c *conn) outbound() int {
	n := c.sock.OutboundBuffered()
	c.noteWaiting(n)
	return n
}

func (c *conn) noteWaiting(n int) { c.waiting.Store(uint32(min(n, math.MaxInt32))) }

// highs are a loop's sessions that have been told to be high.
type highs struct {
	conns []*conn
	every time.Duration // between two looks
	timer *time.Timer   // nil: never needed yet
}

// highEvery is how often they are looked at while they move; when nothing has moved the pause is doubled, up to a tick.
const highEvery = 2 * time.Millisecond

// rise tells that too much waits for the peer.
func (c *conn) rise() {
	if c.high || c.srv.backlog == nil || c.phase != open || c.sealed.Load() {
		return
	}
	c.high = true
	h := &c.loop.highs
	h.conns = append(h.conns, c)
	c.loop.lookHighsIn(highEvery)
	if err := c.backsUp(); err != nil {
		c.endByHandler(err)
	}
	c.finishIfEnded()
}

// lookHighsIn has the sessions that are high looked at in d, or in a tick if that is sooner.
func (l *loop) lookHighsIn(d time.Duration) {
	h := &l.highs
	h.every = min(d, l.srv.cfg.Tick)
	if h.timer == nil {
		h.timer = time.AfterFunc(h.every, func() { l.post(nil, l.lookHighs) })
	} else {
		h.timer.Reset(h.every)
	}
}

// lookHighs tells of those that are low again.
func (l *loop) lookHighs() {
	h := &l.highs
	moved := false
	for i := len(h.conns) - 1; i >= 0; i-- {
		c := h.conns[i]
		if c.phase == open && !c.sealed.Load() {
			before := int(c.waiting.Load())
			now := c.outbound()
			moved = moved || now < before
			if now > c.srv.cfg.BacklogLow {
				continue
			}
			c.fall()
		}
		last := len(h.conns) - 1
		h.conns[i], h.conns[last] = h.conns[last], nil
		h.conns = h.conns[:last]
	}
	switch {
	case len(h.conns) == 0:
		h.conns = nil
	case moved:
		l.lookHighsIn(highEvery)
	default:
		l.lookHighsIn(2 * h.every)
	}
}

// fall tells that the peer has taken what had waited for it.
func (c *conn) fall() {
	defer c.crashed("flush")
	c.high = false
	if err := c.drains(); err != nil {
		c.endByHandler(err)
	}
	c.flush()
	c.finishIfEnded()
}

// backsUp calls OnBacklogHigh.
func (c *conn) backsUp() (err error) {
	defer c.caught("OnBacklogHigh", &err)
	c.srv.backlog.OnBacklogHigh(c.session)
	return nil
}

// drains calls OnBacklogLow.
func (c *conn) drains() (err error) {
	defer c.caught("OnBacklogLow", &err)
	c.srv.backlog.OnBacklogLow(c.session)
	return nil
}
