package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	atomic32 "sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

// ErrServerClosed is what Serve and ListenAndServe return after Drain or Close.
var ErrServerClosed = fmt.Errorf("server: closed: %w", net.ErrClosed)

// shutdownText is what peers are told with ServerShutdown, behind the time after which to come back.
const shutdownText = "the server is shutting down"

const (
	tellRate  = 1000                  // sessions a second that each loop tells in a Drain, if there is time for so few
	tellShare = 4                     // a quarter of the time to the deadline is for telling, the rest for the peers to go
	tellEvery = 10 * time.Millisecond // between two batches
	tellFirst = 16                    // told at once, whatever the rate
)

// Ready tells whether the server accepts connections: true while a Serve runs, and false from the first
// moment of Drain or Close on, before anything else is done. It is the answer to a load balancer's readiness
// probe, not to one that asks whether the process lives: one that drains does. Since Drain also closes the
// listeners at once, who is behind a balancer that asks every few seconds says no for that long before
// calling Drain.
func (s *Server) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closing && len(s.listeners) > 0
}

// Drain ends the server in good order. It stops accepting: Ready is false, the listeners are closed, and
// who had been accepted by then becomes a session like all others. Then it tells every session
// ServerShutdown, with a time to come back in the Goodbye's text (see Config.RetrySpread); and it waits
// until each peer has closed, or has let Config.CloseTimeout pass and is reset, or until ctx is done: then
// those that remain are reset. Every OnClose has been called when it returns; but once ctx is done it does not wait for
// a loop that a Handler holds up (see Config.BlockWarning): the error says so, and the end of that loop's sessions follows if it goes on.
//
// The sessions are told in batches, between which a loop serves those whose turn has not come: each loop
// tells 1,000 a second, or as many more as ctx's deadline asks for, so that all are told in the first quarter
// of the time to it.
//
// The error is nil, or tells how many were reset because ctx was done, and wraps ctx's. A second Drain
// waits for the first, or for its own ctx.
//
// What lies in the kernel's queue and was not accepted is left there: whoever else holds the listening
// socket serves it, as in examples/hotrestart; if nobody does, the kernel resets it.
func (s *Server) Drain(ctx context.Context) error {
	if !s.beginEnd(false) {
		select {
		case <-s.done:
			return s.drained
		case <-ctx.Done():
			return fmt.Errorf("server: Drain: another Drain is still under way: %w", ctx.Err())
		}
	}
	s.tellAll(ctx)
	s.drained = s.awaitEmpty(ctx)
	go s.end()
	return s.awaitEnd(ctx)
}

// Close ends the server now: it stops accepting and resets every session with ServerShutdown, after
// a Goodbye where one can be sent without waiting. No message is delivered any more, but for one on each loop
// that a Handler may be at, for which it waits. A Drain under way is cut short. Every OnClose has been called when it returns.
func (s *Server) Close() error {
	if !s.beginEnd(true) {
		<-s.done
		return nil
	}
	s.end()
	return nil
}

// beginEnd shuts the front door. Who has come through it is on a loop, with OnOpen called, when the loop's hall has
// settled. It is true for one caller; done is closed when that one is through.
func (s *Server) beginEnd(hurry bool) bool {
	s.mu.Lock()
	if hurry && !s.hurried {
		s.hurried = true
		close(s.hurry)
	}
	if s.closing {
		s.mu.Unlock()
		return false
	}
	s.closing = true
	close(s.stopping)
	for ln := range s.listeners {
		_ = (*ln).Close()
	}
	s.mu.Unlock()
	s.accepting.Wait()
	if s.porch != nil {
		close(s.porch)
		<-s.swept
	}
	for _, h := range s.halls {
		h.close()
	}
	if s.retrySpread = s.cfg.RetrySpread; s.retrySpread == 0 {
		s.retrySpread = time.Duration(s.held.Load()) * time.Millisecond
	}
	return true
}

// farewellText is what one session is told at the end of the server.
func (s *Server) farewellText() string {
	if s.retrySpread < 0 {
		return shutdownText
	}
	wait := time.Duration(0)
	if s.retrySpread > 0 {
		wait = rand.N(s.retrySpread)
	}
	return codec.AddRetryAfter(int(wait.Milliseconds()), shutdownText)
}

// tellAll has every session told to go, and returns when all have been, or ctx is done.
func (s *Server) tellAll(ctx context.Context) {
	left := time.Duration(0)
	if deadline, ok := ctx.Deadline(); ok {
		left = max(time.Until(deadline), 1)
	}
	done := make(chan struct{}, len(s.loops))
	settled := make(chan *telling, len(s.loops))
	for i, l := range s.loops {
		t := &telling{loop: l, begun: s.elapsed(), rate: rateOfTelling(int(l.load.Load()), left), done: done}
		go func() {
			<-s.halls[i].settled
			settled <- t
		}()
	}
	beat := time.NewTicker(tellEvery)
	defer beat.Stop()
	var all []*telling
	for under := len(s.loops); under > 0; {
		select {
		case t := <-settled: // a loop that is held up has newcomers waiting, and holds up nobody else
			all = append(all, t)
			t.ask()
		case <-done:
			under--
		case <-beat.C:
			for _, t := range all {
				t.ask()
			}
		case <-ctx.Done():
			return
		case <-s.hurry:
			return
		}
	}
}

// rateOfTelling is how many sessions a second a loop that has so many tells, when left is the time to the
// deadline; zero if there is none.
func rateOfTelling(sessions int, left time.Duration) float64 {
	if left == 0 {
		return tellRate
	}
	return max(tellRate, tellShare*float64(sessions)/left.Seconds())
}

// telling is a loop's part of a Drain: once through the loop's connections, of which no new ones come.
type telling struct {
	loop  *loop
	begun time.Duration
	rate  float64       // sessions a second
	asked atomic32.Bool // it has more to tell now, or all have been told
	done  chan<- struct{}

	// The loop's.
	next int // in its entries
	told int
}

// ask has the loop go on with it, once.
func (t *telling) ask() {
	if !t.asked.Swap(true) {
		t.loop.post(nil, func() { t.loop.chores.telling = t }) // the turn's end does the chores
	}
}

// tell tells those who are due by now, until the clock says until. It is one of the loop's chores: while there
// is more to tell it is gone on with as those are. It reports when it ended, and whether nothing is left for now.
func (t *telling) tell(start, until time.Duration) (end time.Duration, done bool) {
	l := t.loop
	due := tellFirst + int(min((start-t.begun).Seconds()*t.rate, 1<<30))
	for n := 0; t.next < len(l.entries); t.next++ {
		c, ok := l.entries[t.next].(*conn)
		if !ok || c.phase != open {
			continue
		}
		if t.told >= due {
			l.chores.telling = nil
			t.asked.Store(false)
			return l.srv.elapsed(), true
		}
		if n++; n%sweepBatch == 0 {
			if end = l.srv.elapsed(); end > until {
				return end, false
			}
		}
		t.told++
		c.shutDown()
	}
	l.chores.telling = nil
	t.done <- struct{}{}
	return l.srv.elapsed(), true
}

// shutDown lets the session go in good order.
func (c *conn) shutDown() {
	defer c.crashed("shutdown")
	c.setEnd(&CloseError{Reason: ServerShutdown, Detail: c.srv.farewellText()})
	c.finish()
}

// awaitEmpty waits until no connection is left, or ctx is done.
func (s *Server) awaitEmpty(ctx context.Context) error {
	for s.held.Load() > 0 {
		select {
		case <-s.empty:
		case <-ctx.Done():
			return fmt.Errorf("server: Drain: %d connections were still open and are reset: %w", s.held.Load(), ctx.Err())
		case <-s.hurry:
			return fmt.Errorf("server: Drain: %d connections were still open and are reset by Close: %w", s.held.Load(), ErrServerClosed)
		}
	}
	return nil
}

// awaitEnd waits until the server has ended, but when ctx is done not for loops that are held up.
func (s *Server) awaitEnd(ctx context.Context) error {
	select {
	case <-s.done:
		return s.drained
	case <-ctx.Done():
	}
	look := time.NewTicker(patience)
	defer look.Stop()
	for {
		select {
		case <-s.done:
			return s.drained
		case <-look.C:
		}
		loops, conns := int64(0), int32(0)
		for _, l := range s.loops {
			if n := l.load.Load(); n > 0 {
				loops, conns = loops+1, conns+n
			}
		}
		if n := s.counters.blocked.Load(); n > 0 && loops <= n { // all others are through
			return fmt.Errorf("server: Drain: %d loops are held up by the Handler; their %d connections end if they go on: %w", n, conns, ctx.Err())
		}
	}
}

// end resets what is left, runs what has been posted, and stops the loops.
func (s *Server) end() {
	defer close(s.done)
	for session := range s.registry.all() { // else a loop that has much to read for a slow Handler would deliver all that first
		session.c.setEnd(&CloseError{Reason: ServerShutdown, Detail: s.farewellText()})
	}
	var all sync.WaitGroup
	for i, l := range s.loops {
		all.Go(func() {
			<-s.halls[i].settled
			l.post(nil, func() {
				l.conns(func(c *conn) {
					defer c.crashed("close")
					c.setEnd(&CloseError{Reason: ServerShutdown, Detail: s.farewellText()})
					c.abort(c.phase == open)
				})
			})
		})
	}
	all.Wait()
	for s.held.Load() > 0 {
		<-s.empty
	}
	for _, l := range s.loops {
		for !l.finished() {
			ran := make(chan struct{})
			if !l.post(nil, func() { close(ran) }) {
				break
			}
			<-ran
		}
	}
	if s.engine != nil {
		s.engine.stop()
		s.watchLoops(0, 0) // the ticker has ended, and so has every turn
		s.reports.Wait()
	}
	s.lines.close()
}
