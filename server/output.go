package server

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// ErrBacklogFull is returned by Send when the message would put more than Config.BacklogMax bytes
// on the session's queue before its loop had a chance to write. The message was not queued; the
// session lives on.
var ErrBacklogFull = errors.New("server: backlog full")

// output is what is encoded and not flushed.
type output struct {
	b      []byte
	shared bool // with other sessions: b is not written to, nor used again
}

// outputs holds those of sessions that have nothing to send.
var outputs = sync.Pool{New: func() any { return new(output) }}

// bufferMax is the largest buffer worth keeping.
const bufferMax = 64 << 10

// send queues one frame and sees to it that it is flushed. Any goroutine may call it.
func (c *conn) send(f codec.Frame) error {
	if !c.ours {
		return c.sendGuarded(f)
	}
	c.mu.Lock() // no defer: this is called for every message, and nothing in between panics
	first, err := c.enqueue(f)
	c.mu.Unlock()
	if first {
		c.loop.markDirty([]*conn{c})
	}
	return err
}

// sendGuarded is send with a codec that may panic.
func (c *conn) sendGuarded(f codec.Frame) error {
	first, err := func() (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.enqueue(f)
	}()
	if first {
		c.loop.markDirty([]*conn{c})
	}
	return err
}

// enqueue queues f up to the backlog limit. first reports that nobody had a flush due yet. It is called
// with mu held.
func (c *conn) enqueue(f codec.Frame) (first bool, err error) {
	if c.end != nil {
		return false, c.endedError()
	}
	return c.encode(f, c.srv.cfg.BacklogMax)
}

// encode encodes f behind what is queued, up to limit bytes. It is called with mu held.
func (c *conn) encode(f codec.Frame, limit int) (first bool, err error) {
	out := c.output()
	before := len(out.b)
	buf, err := c.codec.AppendFrame(out.b, f)
	if err != nil {
		return false, err
	}
	if len(buf) > limit {
		out.b = buf[:before]
		return false, backlogFull(before, f.Type, len(buf)-before, limit)
	}
	out.b = buf
	return c.queued(f.Type), nil
}

func backlogFull(queued int, t codec.Type, more, limit int) error {
	return fmt.Errorf("%w: %d bytes are queued and a %v frame of %d more is over Config.BacklogMax, %d",
		ErrBacklogFull, queued, t, more, limit)
}

// queued notes that a frame has been queued, and tells whether nobody had a flush due yet. It is called
// with mu held.
func (c *conn) queued(t codec.Type) (first bool) {
	c.outData = c.outData || t == codec.Data
	c.framesOut++
	first = !c.dirty
	c.dirty = true
	return first
}

// ownOutput gives the session a queue of its own to add to. It is called with mu held.
func (c *conn) ownOutput() *output {
	own := outputs.Get().(*output)
	if c.out != nil {
		own.b = append(own.b, c.out.b...)
	}
	c.out = own
	return own
}

// output returns the queue to add to. It is called with mu held.
func (c *conn) output() *output {
	if c.out == nil || c.out.shared {
		return c.ownOutput()
	}
	return c.out
}

// takeOutput empties the queue, and tells whether there is anything of the application's in it. The
// caller gives the buffer back, if it is not nil.
func (c *conn) takeOutput() (out *output, data bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, data = c.out, c.outData
	c.out, c.outData, c.dirty = nil, false, false
	return out, data
}

// giveBack returns a buffer to the pool.
func giveBack(out *output) {
	if !out.shared && cap(out.b) <= bufferMax {
		out.b = out.b[:0]
		outputs.Put(out)
	}
}

// queue queues a frame of our own (Ping, Pong) on the loop, in a turn that flushes. It is not held
// to the backlog limit: one turn's input bounds it.
//
// It reports whether the codec has encoded anything: one without Pings refuses a Ping, or makes
// nothing of it.
func (c *conn) queue(f codec.Frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		return false
	}
	before := len(c.output().b)
	if _, err := c.encode(f, maxInt); err != nil {
		c.srv.log.Debug("pulsewheel: a frame of the library's own was refused by the codec", "frame", f.Type, "err", err)
	}
	return len(c.out.b) > before
}

const maxInt = int(^uint(0) >> 1)

// flush writes what is queued: one system call for all of it.
func (c *conn) flush() {
	if out, data := c.takeOutput(); out != nil {
		c.write(out.b, data)
		giveBack(out)
	}
}

// write hands b to the kernel, or to gnet what the kernel does not take. data: there are bytes of the
// application's in it. After it the conn may be gone.
func (c *conn) write(b []byte, data bool) {
	all := uint64(len(b))
	c.bytesOut += all
	if len(b) == 0 {
		return
	}
	if c.sock == nil || c.broken != nil {
		c.lost += len(b)
		return
	}
	if c.sock.OutboundBuffered() == 0 {
		n, err := sockstat.Send(int(c.fd), b)
		switch {
		case err == nil:
			b = b[n:]
		case err != error(syscall.EAGAIN) && err != sockstat.ErrUnknown:
			// Not the end yet: what the peer sent before, a Goodbye perhaps, is still to be read, and
			// gnet reads it and then the end in its next round.
			c.broken = &os.SyscallError{Syscall: "sendto", Err: err}
			c.lost += len(b)
			c.loop.lookIn(c.id, 2*c.srv.cfg.Tick)
			return
		}
	}
	if len(b) > 0 {
		c.lost += len(b) // should gnet's Write fail, it closes the connection before it returns
		if _, err := c.sock.Write(b); err != nil || c.sock == nil {
			return
		}
		c.lost -= len(b)
	}
	c.watch(all, data)
}

// flushDirty is flush, called by the loop.
func (c *conn) flushDirty() {
	defer c.crashed("flush")
	c.flush()
}

// progress is what is known of the peer's taking what is sent to it.
type progress struct {
	delivered   uint64        // bytes acknowledged, as of the last look
	movedAt     time.Duration // when that last grew, or when the oldest byte beyond it was written
	lost        int           // bytes that were to be sent when nothing could be any more
	grains      uint64        // when the application's bytes were written: bit i, i grains of time before newest
	newest      uint32        // grain
	watching    bool          // there was something on its way at the last look
	pathWatched bool          // bytes of the application's were on their way at the last look
	askedAt     uint16        // lower half of the tick in which lookProgress last asked the kernel, or the watch began
}

// watch begins to watch the n bytes just written, and ends a session that lets too much wait.
func (c *conn) watch(n uint64, data bool) {
	waiting := c.sock.OutboundBuffered()
	if c.waiting.Load() != uint32(waiting) {
		c.noteWaiting(waiting)
	}
	if waiting > c.srv.cfg.BacklogMax && !c.sealed.Load() {
		_ = c.sock.Flush() // the peer may have made room since gnet was last asked to write; an error has closed it
		if c.sock == nil {
			return
		}
		if waiting = c.outbound(); waiting > c.srv.cfg.BacklogMax {
			c.endBacklog(waiting)
			return
		}
	}
	if waiting > c.srv.cfg.BacklogHigh {
		if c.rise(); c.sock == nil || c.broken != nil {
			return
		}
	}
	if data {
		c.noteSent()
	}
	if !c.watching {
		c.standsFrom(n)
	}
	if c.beating && !data && !c.watching && waiting == 0 {
		return // the silence brings the next look
	}
	begin := data && !c.pathWatched
	if c.watching && !begin && waiting == 0 {
		return
	}
	if !c.watching {
		c.watching = true
		c.askedAt = uint16(c.srv.now.Load())
	}
	every := c.watchEvery(waiting)
	switch {
	case begin:
		c.pathWatched = true
		if c.policy.Warning >= 0 {
			every = min(every, c.policy.Warning)
		}
	case waiting == 0:
		every = c.srv.cfg.WriteTimeout // Pings and Pongs alone: the silence brings a look before
	}
	c.loop.lookIn(c.id, every)
}

// endBacklog ends a session for which more than BacklogMax waits.
func (c *conn) endBacklog(waiting int) {
	p := c.path(c.srv.elapsed())
	reason, why := slowReason(p), ""
	if reason != PeerSlow {
		why = fmt.Sprintf("; nothing has been acknowledged for %v", p.Still.Round(time.Millisecond))
	}
	c.endWith(reason, "%d bytes wait for it, more than Config.BacklogMax, %d%s", waiting, c.srv.cfg.BacklogMax, why)
	c.finish()
}

// watchEvery is how often progress is looked at: each tick while bytes wait for the kernel (nothing
// tells that they have drained), an eighth of the timeout while the kernel has them all.
func (c *conn) watchEvery(waiting int) time.Duration {
	if waiting > 0 {
		return c.srv.cfg.Tick
	}
	return max(c.srv.cfg.Tick, min(c.srv.cfg.WriteTimeout, c.policy.Timeout)/8)
}

// acknowledged returns how many bytes of bytesOut the peer's kernel has taken.
func (c *conn) acknowledged() uint64 {
	return c.bytesOut - min(c.bytesOut, uint64(c.outbound()+c.inKernel()))
}

// inKernel returns the bytes that the kernel has and the peer's kernel has not acknowledged. For a Unix
// socket there is no such thing: what SIOCOUTQ counts there is memory, of what the process has not read.
func (c *conn) inKernel() int {
	if !c.tcp {
		return 0
	}
	n, err := sockstat.Unacknowledged(int(c.fd))
	if err != nil {
		return 0
	}
	return n
}
