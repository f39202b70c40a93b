package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const (
	roundTurns = 32              // a loop with fewer turns in a tick, and no long one, does not lag
	lagAge     = 2 * time.Second // a measurement is worth something for so long
	lagCalm    = time.Second     // a loop lags no more when it has not for so long
)

// round is the round of epoll that is being measured: from a byte sent through the loop's seed
// until it is read. A socket that becomes readable at the same moment waits for as long.
type round struct {
	at   time.Duration
	tick heartbeat.Tick // the coarse clock, then
}

// roundAsked is called when the byte is sent.
func (l *loop) roundAsked() {
	l.round = round{at: l.srv.elapsed(), tick: heartbeat.Tick(l.srv.now.Load())}
	l.turns.long = false
	l.gauges.roundSince.Store(int64(l.round.at))
}

// roundCame is called when the byte has come. If the process was held up meanwhile, that was no
// round.
func (l *loop) roundCame() {
	g, now := &l.gauges, l.srv.elapsed()
	g.roundSince.Store(0)
	if l.heldUp(l.round.tick, now) {
		g.unknownAt.Store(int64(now))
		return
	}
	lag := now - l.round.at
	g.lag.Store(int64(lag))
	g.lagAt.Store(int64(now))
	atMost(&g.lagWorst, lag)
}

// heldUp reports whether the process was held up at a moment between tick since of the coarse clock
// and now. The ticker says so; if it has not noticed yet, its clock stands still.
func (l *loop) heldUp(since heartbeat.Tick, now time.Duration) bool {
	resumed := heartbeat.Tick(l.srv.stalled.Load())
	return resumed != 0 && since.Before(resumed) || l.srv.tickAt(now).Sub(heartbeat.Tick(l.srv.now.Load())) > l.srv.late
}

// lag returns how long a round of epoll takes.
func (l *loop) lag(now time.Duration) time.Duration {
	g, lag := &l.gauges, l.measuredLag(now)
	if since := time.Duration(g.roundSince.Load()); since != 0 {
		lag = max(lag, now-since)
	}
	return lag
}

// measuredLag returns how long the latest round took that has been measured.
func (l *loop) measuredLag(now time.Duration) time.Duration {
	g := &l.gauges
	if at := time.Duration(g.lagAt.Load()); at != 0 && now-at < lagAge {
		return time.Duration(g.lag.Load())
	}
	return 0
}

// overdue returns by how much the wheel is overdue at tick now. It is due within the tick in which
// its own begins.
func (l *loop) overdue(now heartbeat.Tick) time.Duration {
	due := heartbeat.Tick(l.nextDue.Load())
	if due == 0 || !due.Before(now) {
		return 0
	}
	return time.Duration(now.Sub(due)-1) * l.srv.cfg.Tick
}

// wasLate notes that what was due at tick due has just been looked at.
func (l *loop) wasLate(due heartbeat.Tick, now time.Duration) {
	late := time.Duration(l.tick.Sub(due)) * l.srv.cfg.Tick
	ours := l.excused(min(late, l.ownLateness(due)), now)
	if turn := now - l.turnBegan(); turn >= l.srv.cfg.BlockWarning { // of which that holds too
		ours -= turn
	}
	l.gauges.wasLate(now, late, ours)
}

// ownLateness is by how much the loop lets wait what was due at tick due, without the time for
// which the process was held up. While the ticker has not noticed that, its clock stands still.
func (l *loop) ownLateness(due heartbeat.Tick) time.Duration {
	if resumed := heartbeat.Tick(l.srv.stalled.Load()); resumed != 0 && due.Before(resumed) {
		due = resumed
	}
	return time.Duration(max(heartbeat.Tick(l.srv.now.Load()).Sub(due), 0)) * l.srv.cfg.Tick
}

// excused takes off what one turn is to blame for, of which the watchdog has told.
func (l *loop) excused(d, now time.Duration) time.Duration {
	end, long := time.Duration(l.gauges.blockEnd.Load()), time.Duration(l.gauges.blockFor.Load())
	if end != 0 && now-end <= d+l.srv.cfg.Tick {
		d -= long
	}
	return d
}

// lagWatch is what the ticker knows of a loop that lags.
type lagWatch struct {
	since  time.Duration // of the round under way, as last seen
	waits  time.Duration // for how long the ticker has seen that
	begun  time.Duration // when the incident began; 0: there is none
	lastAt time.Duration // when the loop last lagged
	worst  time.Duration
	told   chan struct{} // closed when the log has its beginning
}

// watchLag looks at how a loop keeps up, as watchLoops does at its turns: it counts only time that
// the ticker has itself seen. A loop in a turn that is itself too long does not lag: that is told
// already.
func (s *Server) watchLag(l *loop, w *watch, seen, now time.Duration) {
	g, lw := &l.gauges, &w.lag
	if since := time.Duration(g.roundSince.Load()); since == 0 || since != lw.since {
		lw.since, lw.waits = since, -s.cfg.Tick
	} else {
		lw.waits += seen
	}
	lag := lw.waits
	if at := time.Duration(g.lagAt.Load()); at != 0 && now-at < lagCalm {
		lag = max(lag, time.Duration(g.lag.Load()))
	}
	lag = l.excused(lag, now)
	_, late := g.lateness(now)
	if due := heartbeat.Tick(l.nextDue.Load()); due != 0 {
		late = max(late, l.excused(l.ownLateness(due)-s.cfg.Tick, now))
	}
	if w.turn != 0 { // what the turn under way is to blame for is the watchdog's
		turn := time.Duration(heartbeat.Tick(s.now.Load()).Sub(heartbeat.Tick(w.turn))) * s.cfg.Tick
		lag, late = lag-turn, late-turn
	}
	if lag > s.cfg.BlockWarning || late > s.cfg.BlockWarning {
		lw.lastAt = now
		lw.worst = max(lw.worst, lag, late)
		if lw.begun == 0 {
			lw.begun, lw.told = now, make(chan struct{})
			g.lags.Add(1)
			g.lagging.Store(true)
			s.reports.Add(1)
			go s.reportLag(l, lw.told, max(lag, 0), max(late, 0))
		}
	} else if lw.begun != 0 && now-max(lw.lastAt, time.Duration(g.unknownAt.Load())) >= lagCalm {
		s.endLag(l, lw)
	}
}

// endLag ends an incident.
func (s *Server) endLag(l *loop, lw *lagWatch) {
	l.gauges.lagging.Store(false)
	s.reports.Add(1)
	go s.reportKeepsUp(l, *lw)
	*lw = lagWatch{since: lw.since, waits: lw.waits}
}

// reportLag writes that a loop lags. It has a goroutine of its own, as the watchdog's have.
func (s *Server) reportLag(l *loop, told chan<- struct{}, lag, late time.Duration) {
	defer s.reports.Done()
	defer close(told)
	s.log.Warn("pulsewheel: an event loop lags: it has more to do than it can",
		"loop", l.index, "lag", lag.Round(time.Millisecond), "late", late, "sessions", l.gauges.sessions.Load(), "conns", l.load.Load())
}

// reportKeepsUp writes that a loop does not lag any more.
func (s *Server) reportKeepsUp(l *loop, w lagWatch) {
	defer s.reports.Done()
	<-w.told
	s.log.Warn("pulsewheel: an event loop that lagged keeps up again",
		"loop", l.index, "after", (w.lastAt - w.begun).Round(time.Millisecond), "worst", w.worst.Round(time.Millisecond))
}
