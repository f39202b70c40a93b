package server

import (
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// grace is what is left to a peer whose deadline has passed while its bytes lay unread in our own
// kernel: it was our loop that was late, or our receive buffer that was full.
type grace struct {
	until time.Duration // not beyond this
	round uint64        // loop.rounds when it was given
	seen  uint64        // bytesIn when it was given, or given again
}

// excused asks, at a deadline, whether bytes of the peer wait to be read. While they do, or have come
// since it was last asked, the peer is given more time, in all at most the timeout again; more only
// if the loop has not come to read them since. It returns the time to the next look, or 0: no excuse.
// An errno ends the session.
func (c *conn) excused(now, timeout time.Duration) time.Duration {
	waits := c.unread()
	switch g := c.grace; {
	case c.phase == closed:
		return 0
	case g == nil && waits:
		c.grace = &grace{until: now + timeout, round: c.loop.rounds}
	case g == nil, !waits && g.seen == c.bytesIn:
		return 0
	case g.until <= now && c.loop.rounds >= g.round+2:
		return 0
	}
	c.grace.seen = c.bytesIn
	c.loop.askRound()
	return max(c.srv.cfg.Tick, timeout/8)
}

// unread asks the kernel what waits to be read. true: bytes, or the peer's FIN, wait: the loop's next
// read will tell. So it is if some has been read and not decoded. An errno ends the session here, and then
// unread is false.
func (c *conn) unread() bool {
	if c.remains {
		return true
	}
	_, err := sockstat.Waiting(int(c.fd))
	if err == nil {
		return true
	}
	if err == sockstat.ErrUnknown || err == error(syscall.EAGAIN) {
		return false
	}
	c.endBroken("recvfrom", err)
	if c.phase == open {
		c.finish()
	} else {
		c.abort(false)
	}
	return false
}
