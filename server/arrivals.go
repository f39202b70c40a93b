package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// arrivals is what a loop knows of when what it reads has come. What is read in one turn may have come just now,
// or have lain in the kernel for as long as the loop was busy with others.
//
// dry is a tick by which the kernel held nothing that is still unread, but for who is read in every round of
// epoll. It is not far behind the clock: where the loop has nothing to do, because a gap between turns is spent in epoll; where it is
// busy, because a byte is sent round through the loop's seed.
type arrivals struct {
	dry     heartbeat.Tick
	leftAt  heartbeat.Tick    // when the last turn ended
	askedAt heartbeat.Tick    // when the byte that is under way was sent
	cameAt  [2]heartbeat.Tick // when the last two were that have come round
}

// roundsApart is how often, at most, a byte is sent round: two system calls each.
const roundsApart = 10 * time.Millisecond

// askArrivals has a byte sent round, for a session that is metered.
func (l *loop) askArrivals() {
	if !l.asked && time.Duration(l.tick.Sub(l.askedAt))*l.srv.cfg.Tick >= roundsApart {
		l.askRound()
	}
}

// cameRound is called when the byte has come round, in one round of epoll or in the next. Sockets that
// were readable when it was sent may be behind it in epoll's list, but they are before the
// next but one: those that have been reported go to the end.
func (l *loop) cameRound() {
	if l.dry.Before(l.cameAt[1]) {
		l.dry = l.cameAt[1]
	}
	l.cameAt[1], l.cameAt[0] = l.cameAt[0], l.askedAt
}

// idled is called when the clock has gone on, at the beginning of a turn. Since the last one the loop waited in epoll, unless
// the process was held up: of that the ticker knows, if it was for long.
func (l *loop) idled() {
	since := l.leftAt
	if resumed := heartbeat.Tick(l.srv.stalled.Load()); since.Before(resumed) {
		since = resumed
	}
	late := l.srv.late
	if l.tick.Sub(since) > late && l.dry.Before(l.tick-heartbeat.Tick(late)) {
		l.dry = l.tick - heartbeat.Tick(late)
	}
}

// leave notes that a turn has ended.
func (l *loop) leave() {
	if now := heartbeat.Tick(l.srv.now.Load()); l.leftAt != now {
		l.leftAt = now
	}
}
