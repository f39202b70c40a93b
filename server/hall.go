package server

import (
	"errors"
	"net"
	"sync"
	atomic64 "sync/atomic" // its 64-bit values are aligned on 32-bit systems
	"time"
)

const (
	hallPlaces  = 256 // connections that wait for one loop; beyond it the kernel's queue holds them
	inFlight    = 8   // of those, handed to gnet at a time: each is a goroutine there until OnOpen has run
	inFlightMax = 256 // where a round of epoll is long
	patience    = 10 * time.Millisecond
)

// hall is where accepted connections wait for their loop. gnet enrolls asynchronously, but keeps a
// goroutine for each until OnOpen has run; so only a few are handed to it at a time, and a loop that
// is blocked holds up its own newcomers alone. gnet opens them at the end of a round of epoll: the longer that
// is, the more are handed to it, so that opening them may take the share of the loop's time that its chores have.
type hall struct {
	srv     *Server
	loop    *loop
	queue   chan newcomer
	handed  chan handed
	settled chan struct{}  // closed when no more come, and all who have are on their loop
	since   atomic64.Int64 // when the oldest connection handed to gnet was; 0: none is
	waiting sync.WaitGroup

	mu     sync.Mutex // guards the rest
	room   *sync.Cond // there may be
	flight int        // connections handed to gnet that have not arrived
	most   int        // of them
	paused bool       // no more before the loop has looked at its sockets
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
	h := &hall{srv: s, loop: l, queue: make(chan newcomer, hallPlaces), handed: make(chan handed, inFlightMax), settled: make(chan struct{}), most: inFlight}
	h.room = sync.NewCond(&h.mu)
	l.intake.hall = h
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
		h.depart()
		at := h.srv.elapsed()
		wait, err := h.srv.engine.enroll(n.nc, n.c)
		if err != nil {
			h.arrived()
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
		err := p.wait()
		h.arrived()
		if err != nil {
			h.failed(p.c, err)
		} else if !p.c.opened {
			h.failed(p.c, errors.New("the poller refused the descriptor"))
		}
		h.srv.entering.Add(-1)
		if len(h.handed) == 0 {
			h.since.Store(0)
		}
	}
}

// depart waits until one more connection may be handed to gnet.
func (h *hall) depart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.flight >= h.most || h.paused {
		h.room.Wait()
	}
	h.flight++
}

// arrived notes that one of them is on its loop, or never will be.
func (h *hall) arrived() {
	h.mu.Lock()
	h.flight--
	h.mu.Unlock()
	h.room.Signal()
}

// allow says how many may be on their way, and whether none is to set out now.
func (h *hall) allow(most int, paused bool) {
	h.mu.Lock()
	h.most, h.paused = most, paused
	h.mu.Unlock()
	h.room.Signal()
}

// intake is what opening connections costs a loop.
type intake struct {
	hall   *hall
	each   time.Duration // on average
	spent  time.Duration // since the loop has last looked at its sockets
	most   int           // as the hall has it
	paused bool
}

// enrolCost is what gnet does for each connection on the loop, besides calling OnOpen.
const enrolCost = 10 * time.Microsecond

// tookIn notes that a connection has been opened, which took d. When that has taken the loop's share of a round, no more
// come until its sockets have had their turn: gnet opens all that have come before it looks at those.
func (l *loop) tookIn(d time.Duration) {
	o := &l.intake
	d += enrolCost
	if o.each == 0 {
		o.each = d
	}
	o.each += (d - o.each) / 8
	if o.spent += d; o.spent >= l.intakeBudget() && !o.paused && o.hall != nil {
		o.paused = true
		o.hall.allow(l.intakeMost(), true)
		l.askRound()
	}
}

// intakeBudget is how long opening connections may take in a round.
func (l *loop) intakeBudget() time.Duration {
	return max(l.measuredLag(l.srv.elapsed())/choreShare, creditMax)
}

// intakeMost is how many that are.
func (l *loop) intakeMost() int {
	return min(max(int(l.intakeBudget()/max(l.intake.each, 1)), inFlight), inFlightMax)
}

// takesIn is called when the loop has looked at its sockets.
func (l *loop) takesIn() {
	o := &l.intake
	o.spent = 0
	if o.each == 0 {
		return // none has come yet
	}
	if most := l.intakeMost(); o.paused || most != o.most {
		o.paused, o.most = false, most
		o.hall.allow(most, false)
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
