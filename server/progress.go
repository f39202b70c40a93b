package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// lookProgress looks whether the peer takes what is sent to it. It is slow if it has taken nothing for
// WriteTimeout although its kernel is reached. A path that loses what is sent is left to the silence,
// and so is, where the kernel does not tell, a peer that says nothing either; but a peer that talks is
// never silent, so of it the path is convicted here, at Policy.Timeout.
func (c *conn) lookProgress(now time.Duration) time.Duration {
	if !c.watching {
		return forever
	}
	if wait := c.cheapLook(now); wait > 0 {
		return wait
	}
	c.askedAt = uint16(c.srv.tickAt(now))
	waiting, taken := c.outbound(), c.advance(now)
	if taken == c.bytesOut {
		c.watching, c.pathWatched = false, false
		return forever
	}
	timeout := c.srv.cfg.WriteTimeout
	if left := c.movedAt + min(timeout, c.policy.Timeout) - now; left > 0 {
		return min(left, c.watchEvery(waiting))
	}
	if c.owes(waiting, timeout) {
		c.movedAt = now
		return c.watchEvery(waiting)
	}
	p := c.path(now)
	if c.kept != nil && c.kept.state == sockstat.Close {
		return c.srv.cfg.Tick // the kernel has ended it while our loop was away: gnet is about to read how
	}
	still, silent := now-c.movedAt, c.session.Idle() >= c.policy.Interval
	slow := still >= timeout
	switch p.Delivery() {
	case heartbeat.Delivering:
		slow = false
	case heartbeat.DeliveryUnknown:
		if p.Known && slow {
			return c.srv.cfg.Tick
		}
		slow = slow && !p.Known && !silent
	case heartbeat.Undelivered:
		if silent && c.srv.cfg.Judge != nil {
			return c.watchEvery(waiting) // silences are the Judge's
		}
		patience := c.policy.Timeout
		if silent {
			patience += c.policy.Interval // the silence tells, unless the peer is heard now and then
		}
		if still >= patience && now >= c.spared && c.reallyLost(p, now, convictRetransmits) {
			c.endWith(PathDead, "of %d bytes none has been acknowledged for %v", c.bytesOut-taken, still.Round(time.Millisecond))
			c.finish()
			return 0
		}
		slow = false
	}
	if !slow {
		return c.watchEvery(waiting)
	}
	c.endWith(PeerSlow, "it has taken none of %d bytes for %v", c.bytesOut-taken, still.Round(time.Millisecond))
	c.finish()
	return 0
}

// owes tells whether what is on its way to the peer waited for our own loop, which was away: the kernel has room for what
// gnet holds; or it had until gnet came to write, a moment ago, because this look is late by much of the timeout.
func (c *conn) owes(waiting int, timeout time.Duration) bool {
	return c.loop.late() >= timeout/4 || waiting > 0 && sockstat.Writable(int(c.fd))
}

// movedWhen says when, since the last look, the peer last took something; never too early. It was when the last
// acknowledgement came, if not before: probes of a closed window are acknowledged too, but carry no data. With nothing on its
// way it was a round trip after the last segment was sent.
func (c *conn) movedWhen(now time.Duration) time.Duration {
	ti := c.sample(int(c.fd))
	if !ti.Known() {
		return now
	}
	ago := ti.LastAckRecv - jiffy
	if ti.Unacked == 0 {
		ago = max(ago, ti.LastDataSent-jiffy-ti.RTT-4*ti.RTTVar)
	}
	return max(c.movedAt, now-max(ago, 0))
}
