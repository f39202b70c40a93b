package server

import (
	"math/bits"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// lookPath asks the kernel, when it is time to, whether what the application sent gets through, and
// puts its answer into e. It returns the time to the next such look.
//
// Nothing is asked about a peer that was heard lately and acknowledges what it is sent, as
// lookProgress has found, or to which nothing has been on its way for long enough. Only the
// application's bytes count: a Ping alone brings no warning, because the radio of an idle phone may
// need a second to wake.
func (c *conn) lookPath(now time.Duration, e *heartbeat.Evidence) time.Duration {
	warning := c.policy.Warning
	if !c.pathWatched || c.suspected || warning < 0 || !c.tcp {
		return forever
	}
	if left := warning - min(max(e.Silence, c.stood(now)), c.sentSince(now, 0, false)); left > 0 {
		return left
	}
	e.Path = c.path(now)
	if !e.Path.Known {
		return forever
	}
	if left := warning - e.Path.Quiet; left > 0 {
		return left
	}
	if e.Path.Delivery() == heartbeat.WindowClosed {
		return max(c.srv.cfg.Tick, warning)
	}
	return max(c.srv.cfg.Tick, warning/8)
}

// suspicion says what a suspect is suspected of.
func (c *conn) suspicion(e heartbeat.Evidence) Suspicion {
	c.session.pathStuck = false
	if e.Silence < c.policy.Interval && e.Path.Stuck(max(c.policy.Warning, 0)) {
		c.session.pathStuck = true
		return SuspectPath
	}
	return SuspectSilence
}

// grainMin is the least length of a grain, some ticks (Server.grain): 64 of them are longer than anything that Path.Stuck waits for.
const grainMin = 50 * time.Millisecond

// noteSent notes that bytes of the application's have just been written. The clock is the ticker's,
// which is right also in a turn that has lasted for long.
func (c *conn) noteSent() {
	now := c.srv.now.Load() >> c.srv.grain
	if d := now - c.newest; d != 0 {
		c.grains <<= d // 0, if that is 64 or more
		c.newest = now
	}
	c.grains |= 1
}

// sentSince returns how long ago, at least, bytes of the application's were first written after from;
// 0: they were not. Those of from's own grain may have been written before it: they count only if
// nothing was later and they are known to be on their way. What was written when the ticker was itself
// held up, and its clock stood still, counts from when it went on.
func (c *conn) sentSince(now, from time.Duration, known bool) time.Duration {
	tick, grain := c.srv.cfg.Tick, c.srv.grain
	since := c.grains
	switch after := int32(c.newest - uint32(c.srv.tickAt(max(from, 0)))>>grain); {
	case after < 0, after == 0 && !known:
		return 0
	case after == 0:
		since &= 1
	case after < 64:
		since &= 1<<after - 1
	}
	if since == 0 {
		return 0
	}
	g := c.newest - uint32(bits.Len64(since)-1)
	end := heartbeat.Tick((g+1)<<grain - 1) // the last tick of the grain
	stalled := c.srv.stalled.Load()
	if resumed := heartbeat.Tick(stalled); g == uint32(stalled>>32)>>grain && end.Before(resumed) {
		end = resumed
	}
	return max(time.Duration(c.srv.tickAt(now).Sub(end)-1)*tick+now%tick, 0)
}
