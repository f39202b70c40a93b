package server

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// liveness is what is known of the peer's being there.
type liveness struct {
	*asking                  // nobodyAsked, or its own
	spared     time.Duration // a grace round keeps it until then; 0: it was given none since it was last heard
	returnedAt time.Duration // when it was last heard again after a silence of returnAfter; 0: never
	pingStamp  time.Duration // payload of the newest Ping
	kept       *sample       // the last look at the kernel's counters; nil: none was worth keeping
}

// asking is what is known of the Pings that a peer has not answered.
type asking struct {
	pings    int           // sent since the last inbound byte
	pinged   [2]pinged     // the first two of those
	lastPing time.Duration // when the last was
	pingEnd  uint64        // bytesOut behind the newest Ping, while much is on the way before it; else 0
	stuckAt  time.Duration // when that Ping was queued, or when enough of what is before it had been taken since
	stuckAs  uint64        // bytes acknowledged then
}

// nobodyAsked is what all share who have been heard since they were asked. It is never written to.
var nobodyAsked asking

// askings holds those that nobody needs.
var askings = sync.Pool{New: func() any { return new(asking) }}

// asks returns c's asking to write to.
func (c *conn) asks() *asking {
	if c.asking == &nobodyAsked {
		c.asking = askings.Get().(*asking)
	}
	return c.asking
}

// answered forgets the Pings.
func (c *conn) answered() {
	if c.asking != &nobodyAsked {
		*c.asking = asking{}
		askings.Put(c.asking)
		c.asking = &nobodyAsked
	}
}

// sample is a look at the kernel's counters.
type sample struct {
	TCPInfo
	at    time.Duration
	state sockstat.TCPState // then, or at a later look that found the counters gone
}

// pinged is a Ping that is on its way.
type pinged struct {
	at      time.Duration
	end     uint64        // bytesOut up to it
	arrived time.Duration // when it was acknowledged, as far as is known; 0: not yet
	stood   time.Duration // the longest time meanwhile in which nothing was acknowledged
}

// heard notes a sign of life in tick now. Only inbound bytes count.
func (c *conn) heard(now heartbeat.Tick) {
	s := c.session
	if before := s.heard.Load(); before != uint32(now) {
		if gap := now.Sub(heartbeat.Tick(before)); gap > c.srv.returnTicks {
			c.returned(time.Duration(gap) * c.srv.cfg.Tick)
		}
		s.heard.Store(uint32(now))
		c.loop.wheel.Touch(c.id, now)
	}
	c.answered()
	if c.suspected && !(c.session.pathStuck && c.acknowledged() <= c.delivered) {
		c.recovered()
	}
}

// rest puts the next look off until the peer, which has just answered, is to be asked again, if nothing
// else needs one before. A session that only beats is looked at once for each Ping.
func (c *conn) rest() {
	if c.phase != open || c.broken != nil || c.watching || c.frameAt != 0 || c.framesIn == 0 || c.srv.cfg.Judge != nil {
		return
	}
	e := heartbeat.Evidence{Policy: *c.policy, Grain: c.srv.cfg.Tick, Seed: uint32(c.session.id)}
	if verdict, wait := c.policy.Judge(e); verdict == heartbeat.Alive {
		c.loop.wheel.Cancel(c.id)
		c.loop.lookIn(c.id, wait)
	}
}

// recovered tells the application that a suspect peer is there.
func (c *conn) recovered() {
	if c.phase != open {
		return // the suspicion it ended with remains
	}
	c.unsuspect()
	if c.pathWatched { // from now on again
		c.loop.lookIn(c.id, max(c.policy.Warning, 0))
	}
	c.session.doubt.Store(0)
	c.srv.counters.recovered.Add(1)
	if err := c.recovers(); err != nil {
		c.endByHandler(err)
	}
}

// unsuspect takes a session off the count of the suspect: it has recovered, or has ended.
func (c *conn) unsuspect() {
	if c.suspected {
		c.suspected, c.spared = false, 0
		c.loop.suspects--
		c.srv.counters.suspect.Add(-1)
	}
}

// onLook is the session's turn in the wheel: every deadline it has is looked at, and the nearest that
// remains is returned.
func (c *conn) onLook(last heartbeat.Tick) (next heartbeat.Tick) {
	defer c.crashed("look")
	if c.decoding { // the wheel is swept between two of its messages
		return c.loop.tick.Add(1)
	}
	now := c.srv.elapsed()
	var wait time.Duration
	switch c.phase {
	case open:
		wait = c.lookOpen(now, last)
	case closing:
		wait = c.lookClosing(now)
	case lingering:
		wait = c.lookGone(now)
	}
	if c.phase == closed {
		return 0
	}
	return c.srv.dueTick(now, now+min(max(wait, time.Millisecond), forever))
}

// lookOpen looks at the deadlines of a living session.
func (c *conn) lookOpen(now time.Duration, last heartbeat.Tick) time.Duration {
	if c.broken != nil { // gnet should have met the end by now
		c.salvage(c.sock, int(c.fd))
		c.setEnd(c.causeOf(int(c.fd), nil))
		c.finish()
		return 0
	}
	wait := c.lookProgress(now)
	if c.phase == open {
		if c.pingEnd != 0 && c.acknowledged()+near >= c.pingEnd {
			c.pingSent(now)
		}
		wait = min(wait, c.lookInput(now))
	}
	if c.phase == open {
		wait = min(wait, c.lookSilence(now, last))
	}
	return wait
}

const forever = time.Duration(1<<62 - 1)

// jiffy is by how much the kernel's stamps may be too old: one tick of its own clock.
var jiffy = sockstat.Jiffy()

// lookSilence asks the judge, and before a suspicion or a conviction the kernel.
func (c *conn) lookSilence(now time.Duration, last heartbeat.Tick) time.Duration {
	if c.suspected || c.pings > 0 {
		c.advance(now)
	}
	e := c.evidence(now, last)
	pathLook := c.lookPath(now, &e)
	verdict, wait := c.judgement(e)
	if verdict == heartbeat.Suspect || verdict == heartbeat.Dead {
		if c.unread() {
			return c.srv.cfg.Tick
		}
		if c.phase != open {
			return 0
		}
		if c.pingEnd != 0 && c.owes(c.outbound(), c.policy.Timeout) {
			c.movedAt = now
			return c.srv.cfg.Tick
		}
		if ti := c.sample(int(c.fd)); ti.Known() {
			e.Path = c.pathOf(ti, now) // the kernel has been asked just now
			if ti.LastDataRecv-jiffy < e.Silence {
				e.Silence, e.Grain = max(ti.LastDataRecv-jiffy, 0), jiffy
			}
			verdict, wait = c.judgement(e)
		}
	}
	switch verdict {
	case heartbeat.Ask:
		c.ping()
	case heartbeat.Suspect:
		c.suspect(c.suspicion(e))
		if c.phase == open {
			c.ping()
		}
	case heartbeat.Dead:
		if wait = c.underWay(e.Path, now, e.Silence); wait > 0 {
			break
		}
		left := c.grantedGrace(now)
		if left == 0 {
			c.convict(e)
			return 0
		}
		wait = left
	}
	if c.pingEnd != 0 { // its way is followed tick by tick
		wait = min(wait, c.srv.cfg.Tick)
	}
	return min(wait, pathLook)
}

// evidence is what the loop knows of the session's silence.
func (c *conn) evidence(now time.Duration, last heartbeat.Tick) heartbeat.Evidence {
	e := heartbeat.Evidence{
		Policy: *c.policy, Silence: c.since(last, now), Grain: c.srv.cfg.Tick,
		Pings: c.pings, PingAge: now - c.pinged[0].at, LastPing: now - c.lastPing,
		Suspected: c.suspected, RTT: c.session.RTT(), Seed: uint32(c.session.id),
	}
	if c.suspected && c.pings > 0 && c.pinged[0].arrived != 0 && c.maySpare(now, e.Silence) {
		e.PingAge = now - c.pinged[0].arrived // it may have come sooner than that; only a conviction waits
	}
	if c.pingEnd != 0 {
		// The Ping is behind output that the peer has yet to take. If it takes none, that asks it just as
		// well, from when it last took something; if it reads on, slowly, it cannot answer yet.
		e.LastPing = now - max(c.stuckAt, c.movedAt)
		if c.pings == 0 {
			e.PingAge = e.LastPing
		}
		e.Pings = max(c.pings, 2)
	}
	return e
}

func (c *conn) judgement(e heartbeat.Evidence) (heartbeat.Verdict, time.Duration) {
	if judge := c.srv.cfg.Judge; judge != nil {
		return judge.Judge(e)
	}
	return c.policy.Judge(e)
}

// suspect tells the application, once for each silence.
func (c *conn) suspect(why Suspicion) {
	if c.suspected {
		return
	}
	c.suspected = true
	c.loop.suspects++
	c.session.doubt.Store(uint32(why))
	c.srv.counters.suspect.Add(1)
	c.srv.counters.suspected.Add(1)
	if why == SuspectPath {
		c.srv.counters.warned.Add(1)
	}
	if err := c.suspects(why); err != nil {
		c.endByHandler(err)
	}
	c.flush()
	c.finishIfEnded()
}

// convict ends a session that has been silent past its timeout, and says which silence it is.
func (c *conn) convict(e heartbeat.Evidence) {
	if err := sockstat.PendingError(int(c.fd)); err != nil { // an ICMP error waits to be told
		c.endBroken("getsockopt", err)
		c.finish()
		return
	}
	asked := fmt.Sprintf("%d Pings unanswered", c.pings)
	if c.pingEnd != 0 {
		asked += ", one held up behind output that it does not take"
	}
	now, sent := c.srv.elapsed(), c.decisive()
	p := c.path(now)
	reason := silentReason(p, sent.arrived != 0, c.answerMayCome(now, e.Silence))
	if reason == PeerFrozen && !c.session.ponged {
		asked += "; it has never answered a Ping"
	}
	c.endWith(reason, "silent for %v, %s", e.Silence.Round(time.Millisecond), asked)
	c.finish()
}

// sample takes and keeps the kernel's counters. If the kernel has cleared them with the connection,
// the sample taken while it lived stays.
func (c *conn) sample(fd int) TCPInfo {
	if !c.tcp {
		return TCPInfo{}
	}
	if ti, err := sockstat.ReadTCPInfo(fd); err == nil {
		if c.kept == nil {
			c.kept = &sample{}
		}
		if ti.State != sockstat.Close || !c.kept.Known() {
			c.kept.TCPInfo, c.kept.at = ti, c.srv.elapsed()
		}
		c.kept.state = ti.State
	}
	return c.lastSample()
}

// lastSample returns what is kept of the kernel's counters.
func (c *conn) lastSample() TCPInfo {
	if c.kept == nil {
		return TCPInfo{}
	}
	return c.kept.TCPInfo
}

// near is how much may be on the way before a Ping that counts as sent. Behind more than that it cannot
// be answered yet, however alive the peer is: it counts when what is before it has been acknowledged.
const near = 16 << 10

// ping sends a Ping, unless the one before is still held up. Its time is that of its sending: a method
// of the Handler may have taken long meanwhile.
func (c *conn) ping() {
	if c.pingEnd != 0 {
		return
	}
	now := c.srv.elapsed()
	if !c.queue(codec.Frame{Type: codec.Ping, Payload: binary.BigEndian.AppendUint64(nil, uint64(now))}) {
		return // nobody is asked
	}
	c.pingStamp = now
	c.beating = true
	c.flush()
	c.beating = false
	if c.phase != open || c.broken != nil {
		return
	}
	// What was acknowledged at the last look is usually enough to know, and costs no system call.
	if c.sock.OutboundBuffered() == 0 && (c.delivered+near >= c.bytesOut || c.acknowledged()+near >= c.bytesOut) {
		c.pingSent(now)
	} else {
		a := c.asks()
		a.pingEnd, a.stuckAt, a.stuckAs = c.bytesOut, now, c.delivered
	}
}

// pingSent notes that the newest Ping is on its way to the peer.
func (c *conn) pingSent(now time.Duration) {
	a := c.asks()
	if a.pings < len(a.pinged) {
		a.pinged[a.pings] = pinged{at: now, end: c.bytesOut}
		if a.pingEnd != 0 {
			a.pinged[a.pings].end = a.pingEnd
		}
	}
	a.pings++
	a.lastPing, a.pingEnd = now, 0
}

// answers tells whether that is the payload of the newest Ping, which has not been answered yet.
func (c *conn) answers(pong []byte) bool {
	return c.pingStamp != 0 && len(pong) == 8 && binary.BigEndian.Uint64(pong) == uint64(c.pingStamp)
}

// onPong measures the round trip if the Pong echoes the newest Ping.
func (c *conn) onPong(payload []byte) {
	c.session.ponged = true
	if !c.answers(payload) {
		return
	}
	if !c.watching { // nothing but Pings has been written, and this one was the last
		c.delivered = c.bytesOut
	}
	c.refund()
	rtt, old := c.srv.elapsed()-c.pingStamp, c.session.RTT()
	c.pingStamp = 0
	if rtt > 2*old && c.tcp {
		// A loop that was elsewhere is no long way: the kernel knows when the Pong, or what came after
		// it, arrived.
		if ti, err := sockstat.ReadTCPInfo(int(c.fd)); err == nil {
			rtt -= max(ti.LastDataRecv-jiffy, 0)
		}
	}
	rtt = max(rtt, 1)
	if old > 0 {
		rtt = old + (rtt-old)/8 // as TCP smooths it (RFC 6298)
	}
	c.session.rtt.Store(int64(rtt))
}
