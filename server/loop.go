package server

import (
	"context"
	"sync"
	"time"

	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// loop is our half of one event loop: its wheel, and what other goroutines want done on it. Unless
// said otherwise its fields belong to the loop's goroutine.
type loop struct {
	srv   *Server
	index int

	tick     heartbeat.Tick // the clock as this loop has last seen it
	wheel    *heartbeat.Wheel
	entries  []entry  // by wheel id
	free     []uint32 // wheel ids to be used again
	look     func(id uint32, last heartbeat.Tick) heartbeat.Tick
	suspects int // sessions that are suspect
	mass     massTimeout

	rounds uint64 // how often the loop's seed was readable: since the one before last, every socket that was has been read
	asked  bool   // for one more
	arrivals
	highs   highs
	turns   turns
	chores  chores
	round   round
	intake  intake
	pace    pace
	resumes []*conn // have undecoded input, in the order in which they go on

	mu      sync.Mutex // guards the rest
	dirty   []*conn    // have something to flush
	posts   []post
	unarmed []*timer
	spare   []*conn // dirty's other half
	woken   bool    // Run has been asked for and has not begun
	running bool    // Run has begun and has not ended
	last    bool    // no more after what is posted now
	closed  bool

	_       [64]byte      // what the ticker reads stays off the loop's cache lines
	turn    atomic.Uint32 // the tick at which the turn that the loop is in began; 0: in none
	nextDue atomic.Uint32 // the tick at which the wheel wants to be swept; 0: nothing pending
	load    atomic.Int32  // connections placed here, open or on their way
	arming  atomic.Bool   // there is something in unarmed
	_       [64]byte
	gauges  gauges // what other goroutines read of it
}

// entry is what a wheel id stands for: a conn or a timer. onLook does what is due and returns the
// tick of the next look, or 0.
type entry interface {
	onLook(last heartbeat.Tick) heartbeat.Tick
}

// post is work brought to the loop, on behalf of a conn if c is not nil.
type post struct {
	c *conn
	f func()
}

func newLoop(s *Server, index int) *loop {
	now := s.tickAt(s.elapsed())
	l := &loop{srv: s, index: index, tick: now, wheel: heartbeat.NewWheel(now)}
	l.turns.exact = max(uint32(s.cfg.Tick/turnEvery), 1)
	l.chores.share.at = s.elapsed()
	l.arrivals = arrivals{dry: now, leftAt: now, askedAt: now, cameAt: [2]heartbeat.Tick{now, now}}
	l.look = func(id uint32, last heartbeat.Tick) heartbeat.Tick {
		if e := l.entries[id]; e != nil {
			return e.onLook(last)
		}
		return 0
	}
	return l
}

// add gives e a wheel id.
func (l *loop) add(e entry) uint32 {
	if n := len(l.free); n > 0 {
		id := l.free[n-1]
		l.free = l.free[:n-1]
		l.entries[id] = e
		return id
	}
	l.entries = append(l.entries, e)
	return uint32(len(l.entries) - 1)
}

// remove takes a wheel id back.
func (l *loop) remove(id uint32) {
	l.wheel.Cancel(id)
	l.entries[id] = nil
	l.free = append(l.free, id)
}

// lookIn has id looked at in d from now, or sooner.
func (l *loop) lookIn(id uint32, d time.Duration) {
	now := l.srv.elapsed()
	l.wheel.Schedule(id, l.srv.dueTick(now, now+max(d, 0)))
	l.publish()
}

// publish tells the ticker when this loop wants to be woken.
func (l *loop) publish() {
	if next := uint32(l.wheel.Next()); next != l.nextDue.Load() {
		l.nextDue.Store(next)
	}
}

// beginTurn brings the loop's clock up to date with the coarse clock that the ticker publishes.
func (l *loop) beginTurn() {
	if now := heartbeat.Tick(l.srv.now.Load()); l.tick.Before(now) {
		l.tick = now
		l.idled()
	}
}

// wake has Run called. Any goroutine may call it; while a wake is under way it costs nothing.
func (l *loop) wake() {
	l.mu.Lock()
	due := l.wanted()
	l.mu.Unlock()
	if due {
		l.execute()
	}
}

// wanted notes that Run is wanted, and tells whether the caller has to execute it. It is called with mu
// held.
func (l *loop) wanted() (due bool) {
	if l.woken || l.closed {
		return false
	}
	l.woken = true
	return !l.running // else Run sees to it when it ends
}

func (l *loop) execute() {
	l.srv.counters.wakes.Add(1)
	l.srv.engine.execute(l)
}

// markDirty puts conns on the list of those to be flushed. Any goroutine may call it.
func (l *loop) markDirty(conns []*conn) {
	if len(conns) == 0 {
		return
	}
	l.mu.Lock()
	l.dirty = append(l.dirty, conns...)
	due := l.wanted()
	l.mu.Unlock()
	if due {
		l.execute()
	}
}

// post brings f to the loop; it reports false if the loop has ended, and f will not run. A panic in f
// ends c's session, if c is not nil. Any goroutine may call it.
func (l *loop) post(c *conn, f func()) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.posts = append(l.posts, post{c, f})
	due := l.wanted()
	l.mu.Unlock()
	if due {
		l.execute()
	}
	return true
}

// askRound has rounds counted up when the loop has asked epoll again.
func (l *loop) askRound() {
	if !l.asked {
		l.asked, l.askedAt = true, l.tick
		l.roundAsked()
		l.srv.engine.again(l)
	}
}

// onSeed is called when the loop's seed was readable.
func (l *loop) onSeed() {
	l.rounds++
	l.chores.cut = false
	if l.asked {
		l.asked = false
		l.cameRound()
		l.roundCame()
	}
	l.takesIn()
	_ = l.Run(context.Background())
	l.resume()
}

// Run is one turn on behalf of other goroutines: flush the dirty, run the posts, sweep. gnet calls it
// on the loop.
func (l *loop) Run(context.Context) error {
	l.enter()
	l.mu.Lock()
	dirty, posts := l.dirty, l.posts
	l.dirty, l.posts, l.spare = l.spare[:0], nil, nil
	l.woken, l.running = false, true
	l.mu.Unlock()
	l.beginTurn()
	for i, c := range dirty {
		c.flushDirty()
		l.between(i)
	}
	for i, p := range posts {
		if p.c == nil {
			p.f()
		} else {
			p.c.runPost(p.f)
		}
		l.between(i)
	}
	l.endTurn()
	if l.tick.Sub(l.wheel.Now()) >= l.srv.nudge/2 {
		l.work() // nothing was due, but ticks that are too far apart cannot be compared
	}

	clear(dirty)
	l.mu.Lock()
	l.spare = dirty
	l.running = false
	if l.last && len(l.posts) == 0 && len(l.dirty) == 0 && len(l.unarmed) == 0 {
		l.closed = true
	}
	again := l.woken && !l.closed
	l.mu.Unlock()
	if again {
		l.srv.counters.wakes.Add(1)
		l.srv.engine.again(l)
	}
	l.exit()
	return nil
}

// finished asks the loop to take no more after its next turn, and tells whether it has come so far.
func (l *loop) finished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = true
	return l.closed
}

// conns calls f for each of the loop's connections.
func (l *loop) conns(f func(*conn)) {
	for _, e := range l.entries {
		if c, ok := e.(*conn); ok {
			f(c)
		}
	}
}
