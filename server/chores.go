package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const (
	sweepBatch  = 4                      // looks between two readings of the clock
	sweepBudget = 100 * time.Microsecond // of a round of epoll, at least: one Ping takes 3 to 6 us, close(2) alone 16 to 20
	choreShare  = 4                      // one part in so many of the time is for the loop's own chores
	choreEvery  = 8                      // while there is more to do, they may go on after so many turns
	creditMax   = time.Millisecond       // what is not used is not saved up for longer than this; nor is more owed
)

// share is what of its time a loop may spend on what it has to do besides its turns. It accrues
// with time and not with rounds of epoll, because a round may take microseconds or seconds.
type share struct {
	credit time.Duration
	at     time.Duration // up to which it has accrued
}

func (s *share) accrue(now time.Duration) {
	s.credit = min(s.credit+(now-s.at)/choreShare, creditMax)
	s.at = now
}

func (s *share) charge(d time.Duration) { s.credit = max(s.credit-d, -creditMax) }

// chores is what a loop does besides its turns: it sweeps the wheel and tells the sessions in a
// Drain.
type chores struct {
	share   share
	telling *telling // that has more to tell now; nil: none
	passes  uint32   // turns that have ended while there was something to do
	cut     bool     // the share was used up, with more to do: the next round goes on at once
	busy    bool     // a chore is being done: none begins within it
}

// endTurn does chores if there are any.
func (l *loop) endTurn() {
	if l.arming.Load() {
		l.armAll()
	}
	if due := heartbeat.Tick(l.nextDue.Load()); due != 0 && !l.tick.Before(due) || l.chores.telling != nil {
		l.pass()
	}
	l.leave()
}

// pass does chores if they have not been cut short; if they have been, each choreEvery-th turn goes
// on with them as far as the share allows: in a round that is long they must not wait for its end.
func (l *loop) pass() {
	if l.chores.passes++; !l.chores.cut || l.chores.passes%choreEvery == 0 {
		l.work()
	}
}

// between is pass within a turn that does much, after the i-th thing that it does. The wheel is due
// by the coarse clock: the turn's own may be old by then.
func (l *loop) between(i int) {
	if i%choreEvery == choreEvery-1 {
		l.midTurn()
	}
}

// midTurn does chores within a turn.
func (l *loop) midTurn() {
	if l.arming.Load() {
		l.armAll()
	}
	now := heartbeat.Tick(l.srv.now.Load())
	if due := heartbeat.Tick(l.nextDue.Load()); due != 0 && !now.Before(due) || l.chores.telling != nil {
		l.work()
	}
}

// work does chores for as long as the share allows, or sweepBudget in each round: a loop that has
// nothing else to do goes round quickly. What is left waits for the share, or for the next round.
func (l *loop) work() {
	c := &l.chores
	if c.busy {
		return
	}
	start := l.srv.elapsed()
	c.share.accrue(start)
	if c.cut && c.share.credit < sweepBudget {
		return
	}
	c.busy = true
	budget := max(sweepBudget, c.share.credit)
	until := start + budget
	if c.telling != nil { // neither starves the other
		until = start + budget/2
	}
	l.tick = l.srv.tickAt(start)
	end, done := l.sweep(start, until)
	if c.telling != nil {
		var told bool
		end, told = c.telling.tell(end, start+budget)
		done = done && told
	}
	c.busy = false
	c.share.charge(end - start)
	if c.cut = !done; c.cut {
		l.askRound()
	}
}

// sweep looks at what is due, until the clock says until. It reports when it ended, and whether
// nothing is left.
func (l *loop) sweep(start, until time.Duration) (end time.Duration, done bool) {
	due := heartbeat.Tick(l.nextDue.Load())
	batch := sweepBatch
	for begun := start; ; begun = end {
		_, done = l.wheel.Advance(l.tick, batch, l.look)
		if end = l.srv.elapsed(); done || end >= until {
			break
		}
		if end-begun > sweepBudget {
			batch = 1 // a Handler's methods take long
		}
	}
	l.publish()
	if d := end - start; d < l.srv.cfg.Tick || !l.heldUp(l.tick, end) {
		l.gauges.sweep(d)
	}
	if due != 0 && due.Before(l.tick) {
		l.wasLate(due, end)
	}
	return end, done
}

// late is by how much the look that is under way comes later than it was to.
func (l *loop) late() time.Duration {
	return time.Duration(l.tick.Sub(l.wheel.Now())) * l.srv.cfg.Tick
}
