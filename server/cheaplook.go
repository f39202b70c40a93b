package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// askedMost is after how many ticks the kernel is asked again at the latest: askedAt is half a tick's
// number.
const askedMost = 1 << 14

// cheapLook returns the time to the next look at a session for which the kernel need not be asked
// now, else 0. Each write begins a watch over the path, so a session that is busy is looked at once
// in Policy.Warning; and asking for what is unacknowledged is most of what a look costs. But while
// the peer is heard there is nothing to be warned of, and progress is looked at each eighth of
// WriteTimeout only.
func (c *conn) cheapLook(now time.Duration) time.Duration {
	warning := c.policy.Warning
	if warning <= 0 || c.pingEnd != 0 || c.suspected || c.sock.OutboundBuffered() != 0 || c.stood(now) >= warning/2 {
		return 0
	}
	wait := warning - c.since(heartbeat.Tick(c.session.heard.Load()), now)
	asked := c.asked(now)
	wait = min(wait, c.watchEvery(0)-c.srv.cfg.Tick-asked, askedMost*c.srv.cfg.Tick-asked)
	return max(min(wait, c.movedAt+c.srv.cfg.WriteTimeout-now), 0)
}

// stood returns for how long nothing had been acknowledged when the kernel was last asked.
func (c *conn) stood(now time.Duration) time.Duration {
	return max(now-c.movedAt-c.asked(now), 0)
}

// asked returns how long ago that was, to within a tick.
func (c *conn) asked(now time.Duration) time.Duration {
	return time.Duration(uint16(c.srv.tickAt(now))-c.askedAt) * c.srv.cfg.Tick
}

// since returns how long ago a tick was at least: it may have been at its end.
func (c *conn) since(then heartbeat.Tick, now time.Duration) time.Duration {
	tick := c.srv.cfg.Tick
	return max(now%tick+time.Duration(c.srv.tickAt(now).Sub(then)-1)*tick, 0)
}
