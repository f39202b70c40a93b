package server

import (
	"errors"
	"net"
	"sync"
	atomic64 "sync/atomic" // its 64-bit values are aligned on 32-bit systems
	"time"
)

const (
	hallPlaces = 256 // connections that wait for one loop; beyond it the kernel's queue holds them
	inFlight   = 8   // of those, handed to gnet at a time: each is a goroutine there until OnOpen has run
	patience   = 10 * time.Millisecond
)

// hall is where accepted connections wait for their loop. gnet enrolls asynchronously, but keeps a
// goroutine for each until OnOpen has run; so only a few are handed to it at a time, and a loop that
// is blocked holds up its own newcomers alone.
type hall struct {
	srv     *Server
	loop    *loop
	queue   chan newcomer
	handed  chan handed
	settled chan struct{}  // closed when no more come, and all who have are on their loop
	since   atomic64.Int64 // when the oldest connection handed to gnet was; 0: none is
	waiting sync.WaitGroup
}

type newcomer struct {
	nc net.Conn
	c  *conn
}

// handed is a connection on its way through gnet; wait blocks until it has arrived, or failed.
type handed struct {
	c    *conn
	at   time.Duration
	wait func() error
}

func openHall(s *Server, l *loop) *hall {
	h := &hall{srv: s, loop: l, queue: make(chan newcomer, hallPlaces), handed: make(chan handed, inFlight), settled: make(chan struct{})}
	h.waiting.Add(2)
	go h.hand()
	go h.await()
	return h
}

// stuck tells whether a newcomer would have to wait: one has for longer than patience, or no place is free.
func (h *hall) stuck(now time.Duration) bool {
	since := time.Duration(h.since.Load())
	return since != 0 && now-since > patience || len(h.queue) == cap(h.queue)
}

// take waits for a place. false: every loop is stuck, and the server ends.
func (h *hall) take(n newcomer) bool {
	select {
	case h.queue <- n:
		return true
	default:
	}
	select {
	case h.queue <- n:
		return true
	case <-h.srv.stopping:
		return false
	}
}

// hand gives connections to gnet in the order in which they came.
func (h *hall) hand() {
	defer h.waiting.Done()
	defer close(h.handed)
	for n := range h.queue {
		at := h.srv.elapsed()
		wait, err := h.srv.engine.enroll(n.nc, n.c)
		if err != nil {
			h.failed(n.c, err)
			h.srv.entering.Add(-1)
			continue
		}
		h.since.CompareAndSwap(0, int64(at))
		h.handed <- handed{n.c, at, wait}
	}
}

// await sees each of them arrive.
func (h *hall) await() {
	defer h.waiting.Done()
	for p := range h.handed {
		h.since.Store(int64(p.at))
		if err := p.wait(); err != nil {
			h.failed(p.c, err)
		} else if !p.c.opened.Load() {
			h.failed(p.c, errors.New("the poller refused the descriptor"))
		}
		h.srv.entering.Add(-1)
		if len(h.handed) == 0 {
			h.since.Store(0)
		}
	}
}

// failed gives up a connection that could not be enrolled: it has been closed, with an RST. gnet needs a second descriptor
// for it, for a moment.
func (h *hall) failed(c *conn, err error) {
	h.srv.counters.acceptErrors.Add(1)
	h.srv.counters.failed.Add(1)
	h.srv.unchecked.Store(0)
	h.srv.log.Warn("pulsewheel: an accepted connection could not be enrolled", "err", err)
	h.srv.admission.leave(c.session.addr)
	h.srv.release(h.loop)
}

// close lets nobody in any more. Those who have come settle, when their loop lets them.
func (h *hall) close() {
	close(h.queue)
	go func() {
		h.waiting.Wait()
		close(h.settled)
	}()
}
