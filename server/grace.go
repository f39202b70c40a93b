package server

import "time"

// graceMin is how many sessions of a loop must come due at once to be taken for a symptom of the server.
const graceMin = 256

// massTimeout is a loop's grace round: what is known of whether most of its sessions fail together.
type massTimeout struct {
	counted time.Duration // when they were last counted; 0: never
	began   time.Duration // when the last round did; 0: there was none
	due     bool          // they have come due together
	outage  bool          // nothing that most of them were sent arrives
}

// grantedGrace returns how much longer a session that the judge has found dead is kept, because most
// of its loop's sessions fail together with it: one Interval, once. 0: not at all.
func (c *conn) grantedGrace(now time.Duration) time.Duration {
	if c.spared != 0 {
		return max(c.spared-now, 0)
	}
	more := c.policy.Interval
	switch r := c.loop.countFailing(c, now); {
	case r.outage && c.undelivered():
		more += more / 4 // the kernel's next try may fall on the Interval's end, and wants an answer
	case !r.due:
		return 0
	}
	c.spared = now + more
	c.ping()
	return more
}

// undelivered reports whether the session has been asked, and nothing that was sent since has been
// acknowledged, as of its last look.
func (c *conn) undelivered() bool {
	return c.tcp && c.suspected && c.pings > 0 && c.pinged[0].arrived == 0 && c.delivered < c.pinged[0].end
}

// countFailing counts, because c is about to be convicted, what its loop's sessions have in common. It
// counts once for two ticks, and only if enough of them are suspect. Either of two things is a
// symptom of this side, if it is true of more than half of the sessions and of graceMin:
//   - they come due now or within two ticks: the loop was away, or they all spoke in one rhythm;
//   - nothing that they were sent is acknowledged, and they fell silent within an Interval of c: their
//     common link is away. Idle peers come due at moments of their own, as they were asked.
//
// An outage once found lasts an Interval: as the first are spared, the last fall due.
func (l *loop) countFailing(c *conn, now time.Duration) *massTimeout {
	r, tick := &l.mass, l.srv.cfg.Tick
	if r.counted != 0 && now-r.counted < 2*tick {
		return r
	}
	r.counted, r.due = now, false
	if r.outage = r.outage && now-r.began < c.policy.Interval; r.outage {
		return r
	}
	if l.suspects < graceMin && l.srv.cfg.Judge == nil { // another judge need not suspect first
		return r
	}
	sessions, due, undelivered := 0, 0, 0
	soon, first := l.srv.tickAt(now).Add(2), l.wheel.Last(c.id)
	l.conns(func(o *conn) {
		if o.phase != open {
			return
		}
		sessions++
		silent := l.wheel.Last(o.id)
		if o.undelivered() && time.Duration(silent.Sub(first))*tick <= c.policy.Interval {
			undelivered++
		}
		if o.spared != 0 && now-(o.spared-o.policy.Interval) > 2*tick {
			return // of an earlier round
		}
		if time.Duration(soon.Sub(silent))*tick >= o.policy.Timeout {
			due++
		}
	})
	r.due = due >= graceMin && 2*due > sessions
	r.outage = undelivered >= graceMin && 2*undelivered > sessions && (r.began == 0 || now-r.began > c.policy.Timeout)
	if r.due || r.outage {
		r.began = now
		l.srv.counters.graceRounds.Add(1)
		l.srv.log.Warn("pulsewheel: most sessions of a loop have come due at once, which is a symptom of this side: they are given one Interval more",
			"loop", l.index, "due", due, "undelivered", undelivered, "sessions", sessions)
	}
	return r
}
