package server

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// lookPath asks the kernel, when it is time to, whether what the application sent gets through, and
// puts its answer into e. It returns the time to the next such look.
//
// Nothing is asked of a peer that was heard lately, or to which nothing is on its way; of one that is
// streamed to and acknowledges, lookProgress has found so. Only the application's bytes count: a
// Ping alone brings no warning, because the radio of an idle phone may need a second to wake.
func (c *conn) lookPath(now time.Duration, e *heartbeat.Evidence) time.Duration {
	quiet := c.policy.Warning
	if c.dataAt == 0 || c.suspected || quiet < 0 || !c.tcp {
		return forever
	}
	if left := quiet - min(now-c.dataAt, e.Silence); left > 0 {
		return left
	}
	ti := c.sample(c.fd)
	if !ti.Known() {
		return forever
	}
	e.Path = c.pathOf(ti, now)
	if left := quiet - e.Path.Quiet; left > 0 {
		return left
	}
	return max(c.srv.cfg.Tick, quiet/8) // it may still be sent again
}

// pathOf puts the kernel's counters into the judge's words.
func (c *conn) pathOf(ti TCPInfo, now time.Duration) heartbeat.Path {
	p := heartbeat.Path{Known: true, Unacked: ti.Unacked, Retransmits: ti.Retransmits, Window: ti.SndWnd, RTT: ti.RTT}
	if c.watching {
		since := c.dataAt
		if since == 0 {
			since = c.movedAt
		}
		p.Quiet = max(min(now-since, ti.LastAckRecv-jiffy, ti.LastDataRecv-jiffy), 0)
	}
	return p
}

// suspicion says what a suspect is suspected of.
func (c *conn) suspicion(e heartbeat.Evidence) Suspicion {
	if e.Silence < c.policy.Interval && e.Path.Stuck(max(c.policy.Warning, 0)) {
		return SuspectPath
	}
	return SuspectSilence
}
