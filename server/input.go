package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// lookInput looks at the handshake and frame deadlines. A frame that has begun is the frame
// deadline's alone: a trickle is told as what it is.
func (c *conn) lookInput(now time.Duration) time.Duration {
	left, timeout := forever, c.srv.cfg.HandshakeTimeout
	switch {
	case c.frameAt != 0:
		timeout = c.srv.cfg.FrameTimeout
		left = c.askAhead(now, c.frameAt+timeout-now, timeout)
	case c.framesIn == 0:
		left = c.askReady(now)
	}
	if left > 0 || c.phase != open {
		return left
	}
	if again := c.excused(now, timeout); again > 0 || c.phase != open {
		return again
	}
	if again := c.unproven(now, -left, timeout); again > 0 || c.phase != open {
		return again
	}
	if c.frameAt != 0 {
		c.endWith(PeerStalledFrame, "a frame of which %d bytes came is unfinished after %v",
			c.left, (now - c.frameAt).Round(time.Millisecond))
	} else {
		c.endWith(PeerUnready, "no complete frame within %v", (now - c.openedAt).Round(time.Millisecond))
	}
	c.finish()
	return 0
}

// unproven asks, at a handshake or frame deadline that has passed late ago, whether the path takes what
// we send: else the peer may have done all it could. It returns the time to the next look, or 0: the
// peer is to blame. It ends the session itself if the path stays in doubt for too long.
func (c *conn) unproven(now, late, timeout time.Duration) time.Duration {
	p := c.path(now)
	if !p.Known {
		return 0
	}
	d := p.Delivery()
	spare := late < timeout+c.policy.Timeout
	switch {
	case d == heartbeat.Undelivered && spare:
		return c.watchEvery(0) // the silence tells, or the standstill of what is sent to a talker
	case d == heartbeat.Undelivered:
		c.endWith(PathDead, "nothing has been acknowledged for %v", p.Still.Round(time.Millisecond))
		c.finish()
		return 0
	case d == heartbeat.DeliveryUnknown && spare:
		return c.srv.cfg.Tick
	case d == heartbeat.DeliveryUnknown:
		c.endWith(HeartbeatLost, "nothing has been acknowledged for %v", p.Still.Round(time.Millisecond))
		c.finish()
		return 0
	case d == heartbeat.Delivering && p.Outstanding > 0 && spare:
		if c.pingStamp != 0 && now-c.pingStamp < p.RTO {
			return c.srv.cfg.Tick // it was written just now, so that it is on its way proves nothing
		}
		if c.frameAt == 0 && c.pings > 0 && c.pinged[0].arrived == 0 {
			return c.srv.cfg.Tick // the first Ping is behind a download, and nobody was asked
		}
	}
	return 0
}

// askAhead has a Ping asked shortly before a deadline that is left away, so that at the deadline its
// acknowledgement tells whether the path still takes what we send. It returns the time to the next
// look.
func (c *conn) askAhead(now, left, timeout time.Duration) time.Duration {
	if !c.tcp || left <= 0 {
		return left
	}
	ahead := min(pathIn(c.lastSample()).Patience()+3*c.srv.cfg.Tick, timeout/2)
	if left > ahead {
		return left - ahead
	}
	if c.pingStamp == 0 || now-c.pingStamp >= ahead {
		c.ping()
	}
	return left
}

// askReady returns what is left of the handshake deadline. A client that only receives is given
// something to answer, a Ping, at half of it at the latest, and a quarter of it to answer in: also
// when the loop was away meanwhile. While a Ping is held up behind output, the end waits for at most one and
// a half times the deadline from the last time that the peer had taken 32 KiB of it.
func (c *conn) askReady(now time.Duration) time.Duration {
	timeout := c.srv.cfg.HandshakeTimeout
	left := c.openedAt + timeout - now
	if half := left - timeout/2; half > 0 && c.pings == 0 {
		return half
	}
	if c.pings == 0 {
		c.ping()
	}
	switch {
	case c.phase != open:
		return left
	case c.pings > 0: // nothing has come that would have answered it
		asked := max(c.pinged[0].at, c.pinged[0].arrived)
		return c.askAhead(now, max(left, asked+timeout/4-now), timeout)
	case c.pingEnd == 0: // the codec has no Pings: there is no answer to wait for
		return left
	}
	if taken := c.advance(now); c.owes(c.outbound(), timeout) || taken >= c.stuckAs+partingLeast {
		a := c.asks()
		a.stuckAt, a.stuckAs = now, taken // it is being given what is before the Ping
	}
	return min(max(left, timeout/4), max(c.openedAt+timeout/2, c.stuckAt)+timeout+timeout/2-now)
}
