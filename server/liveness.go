package server

import (
	"encoding/binary"
	"os"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// liveness is what is known of the peer's being there.
type liveness struct {
	suspected bool
	pings     int           // handed to the kernel since the last inbound byte
	firstPing time.Duration // when the first of those was
	lastPing  time.Duration // when the last was
	pingEnd   uint64        // bytesOut behind the newest Ping, while gnet still has a part of it; else 0
	pingStamp time.Duration // payload of the newest Ping

	sampled   TCPInfo // the last look at the kernel's counters
	sampledAt time.Duration
	state     sockstat.TCPState // at that look or a later one
}

// heard notes a sign of life in tick now. Only inbound bytes count.
func (c *conn) heard(now heartbeat.Tick) {
	s := c.session
	if s.heard.Load() != uint32(now) {
		s.heard.Store(uint32(now))
		c.loop.wheel.Touch(c.id, now)
	}
	c.pings, c.pingEnd = 0, 0
	if c.suspected {
		c.suspected = false
		if c.phase == open {
			c.srv.counters.recovered.Inc()
			if err := c.deliver(calledRecover, nil, 0); err != nil {
				c.endByHandler(err)
			}
		}
	}
}

// onLook is the session's turn in the wheel: every deadline it has is looked at, and the nearest that
// remains is returned.
func (c *conn) onLook(last heartbeat.Tick) heartbeat.Tick {
	now := c.srv.elapsed()
	var wait time.Duration
	switch c.phase {
	case open:
		wait = c.lookOpen(now, last)
	case closing:
		wait = c.lookClosing(now)
	case lingering:
		if wait = c.goneAt + c.srv.cfg.CloseTimeout - now; wait <= 0 {
			c.abort(false)
		}
	}
	if c.phase == closed {
		return 0
	}
	return c.srv.dueTick(now + max(wait, time.Millisecond))
}

// lookOpen looks at the deadlines of a living session.
func (c *conn) lookOpen(now time.Duration, last heartbeat.Tick) time.Duration {
	if c.broken != nil { // gnet should have met the end by now
		c.setEnd(c.causeOf(c.fd, c.broken))
		c.finish()
		return 0
	}
	wait := c.lookProgress(now)
	if c.phase == open {
		wait = min(wait, c.lookInput(now))
	}
	if c.phase == open {
		wait = min(wait, c.lookSilence(now, last))
	}
	return wait
}

// lookProgress looks whether the peer takes what is sent to it. It is slow if it has taken nothing for
// WriteTimeout although the path works; a path that retransmits is for the silence to judge.
func (c *conn) lookProgress(now time.Duration) time.Duration {
	if !c.watching {
		return forever
	}
	waiting, taken := c.sock.OutboundBuffered(), c.acknowledged()
	if taken != c.delivered {
		c.delivered, c.movedAt = taken, now
	}
	if taken == c.bytesOut {
		c.watching = false
		return forever
	}
	left := c.movedAt + c.srv.cfg.WriteTimeout - now
	if left > 0 {
		return min(left, c.watchEvery(waiting))
	}
	if ti := c.sample(c.fd); ti.Retransmits > 0 && ti.SndWnd > 0 {
		return c.watchEvery(waiting)
	}
	c.endWith(PeerSlow, "it has taken none of %d bytes for %v", c.bytesOut-taken, (now - c.movedAt).Round(time.Millisecond))
	c.finish()
	return 0
}

const forever = time.Duration(1<<62 - 1)

// lookInput looks at the handshake and frame deadlines. A frame that has begun is the frame
// deadline's alone: a trickle is told as what it is.
func (c *conn) lookInput(now time.Duration) time.Duration {
	var left time.Duration
	switch {
	case c.frameAt != 0:
		left = c.frameAt + c.srv.cfg.FrameTimeout - now
	case c.framesIn == 0:
		left = c.openedAt + c.srv.cfg.HandshakeTimeout - now
	default:
		return forever
	}
	if left > 0 {
		if c.framesIn == 0 && c.pings == 0 && c.pingEnd == 0 {
			// A client that only receives has something to answer before its handshake deadline.
			if half := c.openedAt + c.srv.cfg.HandshakeTimeout/2 - now; half > 0 {
				left = min(left, half)
			} else if c.frameAt == 0 {
				c.ping(now)
			}
		}
		return left
	}
	if c.unread() && !c.acquit {
		c.acquit = true // bytes wait for us, not we for them; once is enough, the loop reads before the next look
		return c.srv.cfg.Tick
	}
	if c.phase != open {
		return 0
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

// unread asks the kernel what waits to be read. true: bytes, or the peer's FIN, wait: the loop's next
// read will tell. An errno ends the session here, and then unread is false.
func (c *conn) unread() bool {
	_, err := sockstat.Waiting(c.fd)
	if err == nil {
		return true
	}
	if err == sockstat.ErrUnknown || err == error(syscall.EAGAIN) {
		return false
	}
	c.broken = os.NewSyscallError("recvfrom", err)
	c.setEnd(c.causeOf(c.fd, nil))
	c.finish()
	return false
}

// lookSilence asks the judge, and before a suspicion or a conviction the kernel.
func (c *conn) lookSilence(now time.Duration, last heartbeat.Tick) time.Duration {
	if c.pingEnd != 0 && c.bytesOut-uint64(c.sock.OutboundBuffered()) >= c.pingEnd {
		c.pingHanded(now)
	}
	e := c.evidence(now, last)
	verdict, wait := c.judgement(e)
	if verdict == heartbeat.Suspect || verdict == heartbeat.Dead {
		if c.unread() {
			return c.srv.cfg.Tick
		}
		if c.phase != open {
			return 0
		}
		if ti := c.sample(c.fd); ti.Known() && ti.LastDataRecv < e.Silence {
			e.Silence, e.Grain = ti.LastDataRecv, time.Millisecond
			verdict, wait = c.judgement(e)
		}
	}
	switch verdict {
	case heartbeat.Ask:
		c.ping(now)
	case heartbeat.Suspect:
		c.suspect(SuspectSilence)
		if c.phase == open {
			c.ping(now)
		}
	case heartbeat.Dead:
		c.convict(e.Silence)
		return 0
	}
	return wait
}

// evidence is what the loop knows of the session's silence.
func (c *conn) evidence(now time.Duration, last heartbeat.Tick) heartbeat.Evidence {
	tick := c.srv.cfg.Tick
	silence := now%tick + time.Duration(c.srv.tickAt(now).Sub(last)-1)*tick
	return heartbeat.Evidence{
		Policy: c.policy, Silence: max(silence, 0), Grain: tick,
		Pings: c.pings, PingAge: now - c.firstPing, LastPing: now - c.lastPing,
		Suspected: c.suspected, RTT: c.session.RTT(), Seed: uint32(c.session.id),
	}
}

func (c *conn) judgement(e heartbeat.Evidence) (heartbeat.Verdict, time.Duration) {
	if c.judge != nil {
		return c.judge.Judge(e)
	}
	return c.policy.Judge(e)
}

// suspect tells the application, once for each silence.
func (c *conn) suspect(why Suspicion) {
	if c.suspected {
		return
	}
	c.suspected = true
	c.srv.counters.suspected.Inc()
	if err := c.deliver(calledSuspect, nil, why); err != nil {
		c.endByHandler(err)
	}
	c.flush()
	c.finishIfEnded()
}

// convict ends a session that has been silent past its timeout, and says which silence it is.
func (c *conn) convict(silence time.Duration) {
	if err := sockstat.PendingError(c.fd); err != nil { // an ICMP error waits to be told
		c.broken = os.NewSyscallError("getsockopt", err)
		c.setEnd(c.causeOf(c.fd, nil))
	} else {
		c.endWith(silentReason(c.sampled), "silent for %v, %d Pings unanswered", silence.Round(time.Millisecond), c.pings)
	}
	c.finish()
}

// silentReason tells the frozen process, whose kernel has acknowledged every Ping, from the dead
// path, on which they are sent again and again. last_ack_recv alone proves nothing, nor do backoff
// and probes while the peer's window is closed.
func silentReason(ti TCPInfo) Reason {
	switch {
	case !ti.Known():
		return HeartbeatLost
	case ti.Unacked == 0 || ti.SndWnd == 0:
		return PeerFrozen
	case ti.Retransmits > 0:
		return PathDead
	}
	return HeartbeatLost
}

// sample takes and keeps the kernel's counters. If the kernel has cleared them with the connection,
// the sample taken while it lived stays.
func (c *conn) sample(fd int) TCPInfo {
	if !c.tcp {
		return TCPInfo{}
	}
	ti, err := sockstat.ReadTCPInfo(fd)
	if err == nil {
		c.state = ti.State
	}
	if err == nil && (ti.State != sockstat.Close || !c.sampled.Known()) {
		c.sampled, c.sampledAt = ti, c.srv.elapsed()
	}
	return c.sampled
}

// ping sends a Ping, unless the one before is still waiting for the kernel.
func (c *conn) ping(now time.Duration) {
	if c.pingEnd != 0 {
		return
	}
	c.pingStamp = now
	c.queue(codec.Frame{Type: codec.Ping, Payload: binary.BigEndian.AppendUint64(nil, uint64(now))})
	c.flush()
	if c.phase != open || c.broken != nil {
		return
	}
	if c.sock.OutboundBuffered() == 0 {
		c.pingHanded(now)
	} else {
		c.pingEnd = c.bytesOut
	}
}

// pingHanded notes that the newest Ping has been handed to the kernel.
func (c *conn) pingHanded(now time.Duration) {
	if c.pings == 0 {
		c.firstPing = now
	}
	c.pings++
	c.lastPing, c.pingEnd = now, 0
}

// onPong measures the round trip if the Pong echoes the newest Ping.
func (c *conn) onPong(payload []byte) {
	if c.pingStamp == 0 || len(payload) != 8 || binary.BigEndian.Uint64(payload) != uint64(c.pingStamp) {
		return
	}
	rtt := max(c.srv.elapsed()-c.pingStamp, 1)
	c.pingStamp = 0
	if old := c.session.RTT(); old > 0 {
		rtt = old + (rtt-old)/8 // as TCP smooths it (RFC 6298)
	}
	c.session.rtt.Store(int64(rtt))
}

// lookClosing looks at a session that we let go in good order: the Goodbye must leave, with progress,
// and then the peer's FIN must come.
func (c *conn) lookClosing(now time.Duration) time.Duration {
	waiting := c.sock.OutboundBuffered()
	if waiting == 0 && c.goneAt == 0 {
		c.goneAt = now
	}
	if c.broken != nil {
		c.abort(false)
		return 0
	}
	if c.goneAt != 0 {
		left := c.goneAt + c.srv.cfg.CloseTimeout - now
		if left <= 0 {
			c.abort(false)
		}
		return left
	}
	if taken := c.acknowledged(); taken != c.delivered {
		c.delivered, c.movedAt = taken, now
	}
	if now-c.movedAt >= c.srv.cfg.WriteTimeout {
		c.abort(false)
	}
	return c.srv.cfg.Tick
}
