package server

import (
	"fmt"
	"time"
)

// partingLeast is what a peer must take in each Config.WriteTimeout of what is left for it, if that is more: else one that
// takes a byte now and then would keep its place, and its memory here, for days after we closed.
const partingLeast = 32 << 10

// part begins to look at it.
func (c *conn) part(now time.Duration) time.Duration {
	if taken := c.acknowledged(); taken > c.delivered {
		c.delivered, c.movedAt = taken, now
	}
	return c.lookClosing(now)
}

// lookClosing looks at a session that we let go in good order: the Goodbye, and what is before it, must
// arrive, with progress, and then the peer's FIN must come.
func (c *conn) lookClosing(now time.Duration) time.Duration {
	if c.broken != nil {
		c.because(c.causeOf(int(c.fd), nil))
		c.abort(false)
		return 0
	}
	if c.goneAt == 0 {
		taken := c.acknowledged()
		if taken >= c.delivered+partingLeast {
			c.delivered, c.movedAt = taken, now
		}
		if taken < c.bytesOut {
			stuck := now - c.movedAt
			switch {
			case stuck < c.srv.cfg.WriteTimeout:
			case c.owes(c.outbound(), c.srv.cfg.WriteTimeout):
				c.delivered, c.movedAt, stuck = taken, now, 0
			default:
				c.because(c.stuck(taken, stuck))
				c.abort(false)
			}
			return max(c.srv.cfg.Tick, stuck/8)
		}
		c.goneAt, c.grace = now, nil
	}
	return c.lookGone(now)
}

// lookGone waits for the peer's FIN.
func (c *conn) lookGone(now time.Duration) time.Duration {
	left := c.goneAt + c.srv.cfg.CloseTimeout - now
	if left > 0 {
		return left
	}
	if again := c.excused(now, c.srv.cfg.CloseTimeout); again > 0 || c.phase == closed {
		return again
	}
	c.abort(false)
	return 0
}

// stuck says why a session that ends in good order is reset for want of progress.
func (c *conn) stuck(taken uint64, d time.Duration) *CloseError {
	d = d.Round(time.Millisecond)
	if some := taken - c.delivered; some > 0 {
		return &CloseError{Reason: PeerSlow, Detail: fmt.Sprintf("it has taken %d bytes of the last %d in %v", some, c.bytesOut-c.delivered, d)}
	}
	cause := &CloseError{Reason: slowReason(c.path(c.srv.elapsed()))}
	cause.Detail = fmt.Sprintf("it has taken none of the last %d bytes for %v", c.bytesOut-taken, d)
	return cause
}
