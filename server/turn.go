package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const (
	turnEvery  = 400 * time.Microsecond // with no more turns than one in so long, each is measured
	turnSample = 64                     // with more, one in so many of the rest
	turnLong   = time.Millisecond       // such a turn counts for itself, and is no sample, if it went on into another tick
)

// turns measures the turns of a loop. Reading the clock twice costs as much as most of a short
// turn, so only the first turns of each tick are measured, and a sample of those that follow. A
// turn that lasts for more than a tick shows by the coarse clock, and is never missed.
type turns struct {
	tick   uint32        // in which the latest turn began
	n      uint32        // turns begun in that tick
	exact  uint32        // of those the first so many are measured
	at     time.Duration // when the turn began; 0: it is not measured
	seenAt time.Duration // when a turn was last measured: one that is not began later
	long   bool          // one was long since the loop last asked for a round
}

// enter notes that a turn begins; it reports false if the loop is in one, which goes on. Every call
// from gnet is a turn, for the watchdog and for LoopStats.
func (l *loop) enter() bool {
	if l.turn.Load() != 0 {
		return false
	}
	now, t := l.srv.now.Load(), &l.turns
	l.turn.Store(now)
	if now != t.tick {
		l.newTick(now)
	}
	t.n++
	t.at = 0
	if t.n <= t.exact || t.n%turnSample == 0 {
		t.at = l.srv.elapsed()
	}
	return true
}

// exit notes that the turn has ended.
func (l *loop) exit() {
	if t := &l.turns; t.at != 0 || l.srv.now.Load() != t.tick {
		l.measured()
	}
	l.turn.Store(0)
}

// newTick is called with the first turn of a tick.
func (l *loop) newTick(now uint32) {
	t := &l.turns
	busy := t.n >= roundTurns || t.long
	t.tick, t.n = now, 0
	if busy && !l.asked {
		l.askRound()
	}
}

// measured counts the turn that ends now.
func (l *loop) measured() {
	t, now := &l.turns, l.srv.elapsed()
	crossed := l.srv.now.Load() != t.tick
	weight := uint64(1)
	if t.n > t.exact {
		weight = turnSample
	}
	d := max(now-l.turnBegan(), 0)
	switch {
	case crossed && d >= turnLong:
		weight = 1 // each such turn is counted
	case t.at == 0:
		return // the sample stands for it
	}
	t.seenAt = now
	if d >= turnLong {
		t.long = true
		if d >= l.srv.cfg.BlockWarning {
			l.gauges.blockEnd.Store(int64(now))
			l.gauges.blockFor.Store(int64(d))
		}
		if l.heldUp(heartbeat.Tick(t.tick), now) {
			return // not by this turn, or not alone
		}
	}
	l.gauges.turn(d, weight)
}

// turnBegan returns when the turn began. If that was not measured, it returns an instant shortly
// before: the clock was last read when one of the few turns before it ended, or the tick began
// then.
func (l *loop) turnBegan() time.Duration {
	if t := &l.turns; t.at == 0 {
		return max(t.seenAt, l.srv.startOf(t.tick))
	}
	return l.turns.at
}

// startOf returns when a tick of the coarse clock began.
func (s *Server) startOf(tick uint32) time.Duration {
	now := s.elapsed()
	return now - now%s.cfg.Tick - time.Duration(uint32(s.tickAt(now))-tick)*s.cfg.Tick
}
