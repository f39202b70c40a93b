package server

import (
	"math"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A bucket is counted in millionths of a message or a byte: what a rate of so many a second adds in a microsecond is
// a whole number then, and half an hour's worth of the highest rate fits.
const (
	million = 1_000_000
	fillMax = 30 * time.Minute // a loop that was away for longer is taken to have been away for so long
)

// micros returns d in microseconds, rounded up.
func micros(d time.Duration) int64 { return int64((d + time.Microsecond - 1) / time.Microsecond) }

// meter measures what a peer sends against its limits. It is the loop's.
type meter struct {
	*limits
	at       heartbeat.Tick // up to which the buckets have been filled
	since    heartbeat.Tick // when they were last full
	messages bucket
	bytes    bucket
}

// bucket is one limit's. What has come is counted elsewhere; quota is the count that it may come to.
type bucket struct {
	left  int64  // what may still come, in millionths, when seen had come
	seen  uint64 // what had come when the bucket was last filled
	base  uint64 // what had come when it was last full
	quota uint64 // what may have come in all by now
}

// setLimits puts the session under l from now on. nil: no limit.
func (c *conn) setLimits(l *limits) {
	if l == nil {
		c.meter = nil
		return
	}
	now := c.loop.tick
	c.meter = &meter{limits: l, at: now, since: now,
		messages: fullBucket(&l.messages, c.framesIn), bytes: fullBucket(&l.bytes, c.bytesIn)}
}

func fullBucket(l *limit, come uint64) bucket {
	b := bucket{left: l.full, seen: come, base: come}
	b.allow(l)
	return b
}

// allow brings quota up to date.
func (b *bucket) allow(l *limit) {
	if b.quota = math.MaxUint64; l.rate != 0 {
		b.quota = b.seen + uint64(max(b.left, 0)/million)
	}
}

// fill adds what the rate gives for d; come is what has come in all.
func (b *bucket) fill(l *limit, come uint64, d time.Duration) {
	if l.rate == 0 {
		return
	}
	b.left += l.rate*micros(d) - int64(come-b.seen)*million
	b.seen = come
}

// spill takes what is beyond the brim, and tells whether the bucket is full.
func (b *bucket) spill(l *limit) bool {
	if b.left < l.full {
		return l.rate == 0
	}
	b.left = l.full
	return true
}

// fillTo fills the buckets up to tick now, before what is about to be read is counted. What came before is taken
// off. It may have come at any moment since the last time: a bucket spills only what it had too much of at a
// moment by which everything that had come was read.
func (m *meter) fillTo(now heartbeat.Tick, c *conn) {
	if dry := c.loop.dry; m.at.Before(dry) && !c.remains { // what remains has come and is not counted
		m.fill(dry, c)
		full := m.messages.spill(&m.limits.messages)
		if m.bytes.spill(&m.limits.bytes) && full {
			m.since, m.messages.base, m.bytes.base = dry, c.framesIn, c.bytesIn
		}
	}
	if m.at.Before(now) {
		m.fill(now, c)
	}
	m.messages.allow(&m.limits.messages)
	m.bytes.allow(&m.limits.bytes)
}

func (m *meter) fill(to heartbeat.Tick, c *conn) {
	d := min(time.Duration(to.Sub(m.at))*c.srv.cfg.Tick, fillMax)
	m.messages.fill(&m.limits.messages, c.framesIn, d)
	m.bytes.fill(&m.limits.bytes, c.bytesIn, d)
	m.at = to
}

// receive counts n bytes that have just been read on a session with limits. It ends it if they are too many.
func (c *conn) receive(n int) {
	m := c.meter
	if c.phase != open {
		c.bytesIn += uint64(n)
		return
	}
	if m.at.Before(c.loop.tick) {
		m.fillTo(c.loop.tick, c)
		c.loop.askArrivals()
	}
	if c.bytesIn += uint64(n); c.bytesIn <= m.bytes.quota {
		return
	}
	m.fillTo(c.srv.tickAt(c.srv.elapsed()), c) // the loop's clock may be old
	if c.bytesIn > m.bytes.quota {
		c.endFlood("bytes", c.bytesIn-m.bytes.base, m.Bytes, m.ByteBurst)
	}
}

// overQuota is called when f has come and is one frame more than the quota was. It returns
// what that is now, and ends the session if f is still too many.
func (c *conn) overQuota(f codec.Frame) uint64 {
	m := c.meter
	if f.Type == codec.Pong && c.answers(f.Payload) {
		return max(m.messages.quota, c.framesIn) // onPong gives it back
	}
	if c.framesIn > m.messages.quota {
		m.fillTo(c.srv.tickAt(c.srv.elapsed()), c) // the loop's clock may be old
	}
	if c.framesIn > m.messages.quota {
		c.endFlood("messages", c.framesIn-m.messages.base, m.Messages, m.MessageBurst)
	}
	return m.messages.quota
}

// endFlood says how much has come since the bucket was last full.
func (c *conn) endFlood(what string, come uint64, rate, burst int) {
	took := max(time.Duration(c.meter.at.Sub(c.meter.since)), 1) * c.srv.cfg.Tick
	c.endWith(PeerFlood, "%d %s in %v: the limit is %d a second, and %d at once", come, what, took, rate, burst)
}

// refund gives back the frame that has just come: it was an answer.
func (c *conn) refund() {
	if m := c.meter; m != nil && m.limits.messages.rate != 0 {
		m.messages.left += million
		m.messages.quota++
	}
}
