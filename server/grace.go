package server

import "time"

// graceMin is how many sessions of a loop must come due at once to be taken for a symptom of the server.
const graceMin = 256

// grantedGrace returns how much longer a session that the judge has found dead is kept, because most
// of its loop's sessions have come due together: one Interval, once. 0: not at all.
func (c *conn) grantedGrace(now time.Duration) time.Duration {
	if c.spared != 0 {
		return max(c.spared-now, 0)
	}
	if !c.loop.mostAreDue(now) {
		return 0
	}
	c.spared = now + c.policy.Interval
	c.ping()
	return c.policy.Interval
}

// mostAreDue tells whether more than half of the loop's sessions, and at least graceMin, are due now or
// within two ticks. It counts them once for those two ticks, and only if as many are suspect.
func (l *loop) mostAreDue(now time.Duration) bool {
	tick := l.srv.cfg.Tick
	if l.countedAt != 0 && now-l.countedAt < 2*tick {
		return l.most
	}
	l.countedAt, l.most = now, false
	if l.suspects < graceMin && l.srv.cfg.Judge == nil { // another judge need not suspect first
		return false
	}
	sessions, due := 0, 0
	soon := l.srv.tickAt(now).Add(2)
	l.conns(func(c *conn) {
		if c.phase != open {
			return
		}
		sessions++
		if c.spared != 0 && now-(c.spared-c.policy.Interval) > 2*tick {
			return // of an earlier round
		}
		if time.Duration(soon.Sub(l.wheel.Last(c.id)))*tick >= c.policy.Timeout {
			due++
		}
	})
	l.most = due >= graceMin && 2*due > sessions
	if l.most {
		l.srv.counters.graceRounds.Add(1)
		l.srv.log.Warn("pulsewheel: most sessions of a loop have come due at once, which is a symptom of this side: they are given one Interval more",
			"loop", l.index, "due", due, "sessions", sessions)
	}
	return l.most
}
