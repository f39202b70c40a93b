package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Whoever is to be blamed for a silence, a stall or a backlog may be out of reach instead. So every
// place that ends or suspects a session asks first whether the path takes what we send: path, and
// heartbeat.Path.Delivery.

// path asks the kernel about the way to the peer. For a socket that is not TCP, and on systems other
// than Linux, Known is false.
func (c *conn) path(now time.Duration) heartbeat.Path {
	ti := c.sample(int(c.fd))
	if !ti.Known() {
		return heartbeat.Path{}
	}
	return c.pathOf(ti, now)
}

// pathOf puts the kernel's counters into the judge's words.
//
// The kernel does not tell for how long the oldest segment has been on its way. But what came last
// cannot have acknowledged what was written later than a round trip before it, and of that sentSince
// knows the first.
func (c *conn) pathOf(ti TCPInfo, now time.Duration) heartbeat.Path {
	p := pathIn(ti)
	taken := c.advance(now)
	if p.Outstanding = c.bytesOut - taken - min(c.bytesOut-taken, uint64(c.outbound())); p.Outstanding > 0 {
		p.Still = now - c.movedAt
	}
	if c.pathWatched {
		back := max(min(ti.LastAckRecv, ti.LastDataRecv)-jiffy, 0)
		if p.Delivery() == heartbeat.Undelivered && c.reallyLost(p, now, suspectRetransmits) {
			back = max(back, p.Still) // what a talking peer sends does not make it reachable
		}
		p.Quiet = min(back, c.sentSince(now, now-back-ti.RTTMin, ti.Retransmits > 0))
	}
	return p
}

// How many unanswered retransmissions it takes to suspect the path of a peer that talks, and to convict
// it. With two, 20 % of loss made three times as many false suspicions; with three, it ended live
// talkers at a Timeout of 3 s. Five take 6.4 s, so a shorter Timeout waits for them.
const (
	suspectRetransmits = 3
	convictRetransmits = 5
)

// reallyLost reports whether a path that is found Undelivered can be held against a peer that talks: it
// takes more unanswered retransmissions, and one of them made since the peer was last heard again. While
// a link was away the distance between two tries has grown to the length of the outage, so that after
// it nothing may have been tried yet.
func (c *conn) reallyLost(p heartbeat.Path, now time.Duration, retransmits uint32) bool {
	if p.Unacked == 0 {
		return true // it cannot even be sent
	}
	return p.Retransmits >= retransmits && now-p.LastSent > c.returnedAt && p.LastSent >= min(4*p.RTT, p.Patience())
}

// returnAfter is the silence after which a peer that is heard may have returned.
const returnAfter = 500 * time.Millisecond

// returned notes that a peer is heard again after a silence, if that may have been an outage: then what
// it was sent has stood still for about as long. One that speaks once a second has not been away.
func (c *conn) returned(silence time.Duration) {
	if now := c.srv.elapsed(); 2*silence >= now-c.movedAt {
		c.returnedAt = now
	}
}

// pathIn returns what the counters alone tell.
func pathIn(ti TCPInfo) heartbeat.Path {
	return heartbeat.Path{
		Known: ti.Known(), Unacked: ti.Unacked, NotSent: ti.NotSent, Retransmits: ti.Retransmits, Backoff: ti.Backoff,
		Probes: ti.Probes, Window: ti.SndWnd, WindowUnknown: !ti.SndWndKnown, MSS: ti.SndMSS,
		LastSent: ti.LastDataSent, LastAck: ti.LastAckRecv, RTT: ti.RTT, RTO: firstRTO(ti),
	}
}

// firstRTO is the retransmission timeout before any backoff. With nothing on its way the backoff
// belongs to the probes, and is not part of tcpi_rto.
func firstRTO(ti TCPInfo) time.Duration {
	if ti.Unacked == 0 {
		return ti.RTO
	}
	return ti.RTO >> min(ti.Backoff, 31)
}

// advance notes what has been acknowledged, and which Pings with it, and returns it.
func (c *conn) advance(now time.Duration) (taken uint64) {
	taken = c.acknowledged()
	stood := c.movedAt
	if taken > c.delivered {
		c.delivered, c.movedAt = taken, c.movedWhen(now)
		c.session.pathStuck = false
	}
	if c.asking != &nobodyAsked {
		for i := range c.pinged[:min(c.pings, len(c.pinged))] {
			p := &c.pinged[i]
			if p.arrived == 0 {
				p.stood = max(p.stood, c.movedAt-max(stood, p.at))
			}
			if p.arrived == 0 && taken >= p.end {
				p.arrived = max(p.at, c.movedAt)
			}
		}
	}
	return taken
}

// standsFrom notes that n bytes have just been written. If everything before them has been
// acknowledged, they are the oldest that has not been.
func (c *conn) standsFrom(n uint64) {
	before := c.bytesOut - n
	if c.delivered < before && c.acknowledged() < before {
		return
	}
	c.delivered, c.movedAt, c.session.pathStuck = before, c.srv.elapsed(), false
}

// underWay returns the time to the next look if the peer cannot have answered yet: what asks it is
// still on its way on a path that takes what we send, or may take it; or it has arrived late, and the
// answer may wait for a retransmission of the peer's own, whose timeout has been doubled for as long
// as the path was away. 0: it was asked, or this has gone on for long enough, or the path is dead.
func (c *conn) underWay(p heartbeat.Path, now, silence time.Duration) time.Duration {
	if c.pings == 0 && c.pingEnd == 0 {
		return 0
	}
	wait := max(c.srv.cfg.Tick, c.policy.Interval/8)
	if asked := c.decisive(); asked.arrived != 0 {
		inTime := c.inTime(silence - (now - asked.arrived))
		if c.answerMayCome(now, silence) && (inTime || c.maySpare(now, silence)) {
			return wait
		}
		return 0
	}
	if !c.maySpare(now, silence) {
		return 0
	}
	switch p.Delivery() {
	case heartbeat.Delivering:
		return wait
	case heartbeat.DeliveryUnknown:
		if p.Known {
			return wait
		}
	}
	return 0
}

// answerMayCome reports whether the answer to the decisive Ping, which has arrived, may still wait for a
// retransmission of the peer's own. Its tries are no further apart than the path was away: as long as
// the Ping needed to arrive, and if that was long, perhaps as long as the peer had been silent then.
// A Ping that arrives after Timeout, while other things did all the time, has met loss and no outage.
func (c *conn) answerMayCome(now, silence time.Duration) bool {
	asked, ti := c.decisive(), c.lastSample()
	if asked.arrived == 0 {
		return false
	}
	away, since := asked.arrived-asked.at, now-asked.arrived
	switch {
	case asked.stood < heartbeat.PatienceMax && !c.inTime(silence-since):
		away = min(away, pathIn(ti).Patience())
	case away >= heartbeat.PatienceMax:
		away = silence - since + 2*firstRTO(ti)
	}
	return since < away
}

// inTime reports whether a Ping that arrived at this silence had done so before Timeout, as far as is
// known: only a look tells, and it may be two ticks late.
func (c *conn) inTime(silence time.Duration) bool {
	return silence <= c.policy.Timeout+2*c.srv.cfg.Tick
}

// maySpare reports whether a path that held our Pings up still saves a silent peer: until it has been
// silent for Timeout - Interval beyond Timeout, or has been asked for twice that.
func (c *conn) maySpare(now, silence time.Duration) bool {
	more := c.policy.Timeout - c.policy.Interval
	return silence < c.policy.Timeout+more || c.pings > 0 && now-c.pinged[0].at < 2*more
}

// decisive is the Ping whose acknowledgement tells a frozen process from a dead path: the second, if
// there is one. The first proves less, because a path may die between the acknowledgement of it and
// the Pong.
func (c *conn) decisive() pinged {
	if c.pings == 0 {
		return pinged{}
	}
	return c.pinged[min(c.pings, len(c.pinged))-1]
}

// silentReason says which silence it is that has lasted for too long. arrived: the decisive Ping has
// been acknowledged; mayCome: but the answer to it may still be on its way.
func silentReason(p heartbeat.Path, arrived, mayCome bool) Reason {
	switch {
	case !p.Known:
		return HeartbeatLost
	case arrived && !mayCome:
		return PeerFrozen // its kernel took what its process has not answered
	}
	switch p.Delivery() {
	case heartbeat.Undelivered:
		return PathDead
	case heartbeat.WindowClosed:
		return PeerFrozen
	case heartbeat.Delivering:
		if p.Outstanding == 0 && !mayCome {
			return PeerFrozen
		}
	}
	return HeartbeatLost
}

// slowReason says why a peer takes too little of what is sent to it. Behind a slow link
// acknowledgements come all the time; if they have just stopped with the window open, it is too early
// to say what that is.
func slowReason(p heartbeat.Path) Reason {
	switch p.Delivery() {
	case heartbeat.Undelivered:
		return PathDead
	case heartbeat.Delivering:
		if p.Outstanding > 0 && p.LastAck > max(2*p.RTT, 2*jiffy) {
			return HeartbeatLost
		}
	case heartbeat.DeliveryUnknown:
		if p.Known {
			return HeartbeatLost
		}
	}
	return PeerSlow
}
