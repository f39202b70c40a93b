package server

import (
	"fmt"
	"strings"
	atomic64 "sync/atomic" // its 64-bit values are aligned on 32-bit systems
	"time"
)

// LoopStats tells how an event loop keeps up. It is kept always: what it costs cannot be told from
// nothing beside the system calls of a turn.
type LoopStats struct {
	Loop     int // its number, from 0
	Sessions int // live
	Conns    int // connections: live, on their way in, and waiting for the peer's FIN

	// Lag is how long the latest measured round of epoll took: for so long a socket that has become
	// readable may wait. While one that takes longer is under way, it is how long that has taken.
	// It is measured at most once a Config.Tick, by a byte that is sent round, and only while the
	// loop has turns enough to lag: 0 if it has not been for two seconds. Rounds in which the
	// process itself was held up (stopped, suspended, without a processor) are left out.
	Lag      time.Duration
	LagWorst time.Duration // the longest since the start
	// Late is by how much the latest timers and deadlines were looked at later than planned, to the
	// grain of Config.Tick: the worst of the last one to two seconds, or what is overdue now if
	// that is more. Time for which the process was held up counts.
	Late      time.Duration
	LateWorst time.Duration // the worst since the start

	// Busy is the time spent in turns: decoding, the Handler's methods, writing, the wheel. Reading
	// the sockets and waiting for them is gnet's, and comes on top.
	Busy time.Duration
	// Sweeping is the part of it that went into looking at timers and deadlines, and SweepLongest
	// the longest piece of that without a turn in between. Both are exact.
	Sweeping     time.Duration
	SweepLongest time.Duration
	// Turns counts turns by how long they took, but for those in which the process was held up. A
	// turn longer than a Config.Tick is always counted, and so is every turn while there are no
	// more than 2,500 a second; of more than that one in 64 is measured, and stands for the others,
	// in Busy too; then the beginning of a long turn that was no sample is known to within 64 short
	// turns.
	Turns TurnHistogram
	// Lags counts the times that the loop lagged by more than Config.BlockWarning, as logged. It
	// does not count those for which a single turn was to blame: see Stats.Blocks.
	Lags    uint64
	Lagging bool // it does now
}

// TurnBounds are the upper bounds of the first classes of a TurnHistogram; the last one has none.
var TurnBounds = [...]time.Duration{
	100 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second,
}

// A TurnHistogram counts turns of a loop by duration: element i those that took no more than
// TurnBounds[i], and more than the bound before; the last element those that took longer than the
// last bound.
type TurnHistogram [len(TurnBounds) + 1]uint64

// String lists the classes that are not empty: "100µs:8123 1ms:17 more:1".
func (h TurnHistogram) String() string {
	var b strings.Builder
	for i, n := range h {
		if n == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if i < len(TurnBounds) {
			fmt.Fprintf(&b, "%v:%d", TurnBounds[i], n)
		} else {
			fmt.Fprintf(&b, "more:%d", n)
		}
	}
	return b.String()
}

// gauges are what other goroutines may read of a loop. Only the loop writes them, but for those of
// its warning.
type gauges struct {
	sessions, busy, sweeping, sweepLongest atomic64.Int64

	roundSince atomic64.Int64 // when the round under way was asked for; 0: none is
	lag        atomic64.Int64 // of the latest that was measured
	lagAt      atomic64.Int64 // when that was
	unknownAt  atomic64.Int64 // when the process was last found held up meanwhile
	lagWorst   atomic64.Int64
	lateWorst  atomic64.Int64
	late       [2]latePart

	blockEnd atomic64.Int64 // when the latest turn ended that was longer than Config.BlockWarning
	blockFor atomic64.Int64 // how long it was

	lags    atomic64.Uint64 // the ticker's
	lagging atomic64.Bool   // likewise

	turns [len(TurnBounds) + 1]atomic64.Uint64
}

// latePart is the worst lateness in one second; there are two, for even and for odd seconds.
type latePart struct {
	second atomic64.Int64
	worst  atomic64.Int64 // as LoopStats has it
	ours   atomic64.Int64 // without what is not the loop's fault
}

// turn counts turns of the duration d: one, or as many as it stands for.
func (g *gauges) turn(d time.Duration, turns uint64) {
	i := 0
	for i < len(TurnBounds) && d > TurnBounds[i] {
		i++
	}
	g.turns[i].Store(g.turns[i].Load() + turns)
	g.busy.Store(g.busy.Load() + int64(turns)*int64(d))
}

// sweep counts a sweep of the wheel.
func (g *gauges) sweep(d time.Duration) {
	g.sweeping.Store(g.sweeping.Load() + int64(d))
	atMost(&g.sweepLongest, d)
}

// atMost keeps the greatest value in v, which only one goroutine writes.
func atMost(v *atomic64.Int64, d time.Duration) {
	if int64(d) > v.Load() {
		v.Store(int64(d))
	}
}

// wasLate notes by how much looks came late.
func (g *gauges) wasLate(now, late, ours time.Duration) {
	second := int64(now / time.Second)
	p := &g.late[second%2]
	if p.second.Load() != second {
		p.worst.Store(0)
		p.ours.Store(0)
		p.second.Store(second)
	}
	atMost(&p.worst, late)
	atMost(&p.ours, ours)
	atMost(&g.lateWorst, late)
}

// lateness returns the worst of this second and the last.
func (g *gauges) lateness(now time.Duration) (late, ours time.Duration) {
	second := int64(now / time.Second)
	for i := range g.late {
		if p := &g.late[i]; second-p.second.Load() <= 1 {
			late, ours = max(late, time.Duration(p.worst.Load())), max(ours, time.Duration(p.ours.Load()))
		}
	}
	return late, ours
}

// Loops tells how the event loops keep up, by number: none before the first Serve. Any goroutine
// may call it. What it tells is of now, but not of one instant.
func (s *Server) Loops() []LoopStats {
	s.mu.Lock()
	loops := s.loops
	s.mu.Unlock()
	all := make([]LoopStats, len(loops))
	for i, l := range loops {
		all[i] = l.stats()
	}
	return all
}

func (l *loop) stats() LoopStats {
	g, now := &l.gauges, l.srv.elapsed()
	st := LoopStats{
		Loop: l.index, Sessions: int(g.sessions.Load()), Conns: int(l.load.Load()),
		Lag: l.lag(now), LagWorst: time.Duration(g.lagWorst.Load()), LateWorst: time.Duration(g.lateWorst.Load()),
		Busy: time.Duration(g.busy.Load()), Sweeping: time.Duration(g.sweeping.Load()), SweepLongest: time.Duration(g.sweepLongest.Load()),
		Lags: g.lags.Load(), Lagging: g.lagging.Load(),
	}
	st.Late, _ = g.lateness(now)
	st.Late = max(st.Late, l.overdue(l.srv.tickAt(now)))
	st.LagWorst, st.LateWorst = max(st.LagWorst, st.Lag), max(st.LateWorst, st.Late)
	for i := range g.turns {
		st.Turns[i] = g.turns[i].Load()
	}
	return st
}
