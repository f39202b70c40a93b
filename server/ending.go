package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// setEnd records why the session ends. The first cause wins: it reports whether this was the first.
// From then on nothing more is queued and nothing more is delivered. Any goroutine may call it.
func (c *conn) setEnd(end *CloseError) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		return false
	}
	c.end = end
	c.sealed.Store(true)
	return true
}

// because records what kept the end from being one in good order: not all that was queued has arrived.
func (c *conn) because(cause *CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end.Err == nil {
		c.end.Err = cause
	}
}

// endWith records an end that has no error behind it.
func (c *conn) endWith(r Reason, detail string, args ...any) bool {
	return c.setEnd(&CloseError{Reason: r, Detail: fmt.Sprintf(detail, args...)})
}

// endProtocol ends a session whose peer does not keep to the protocol.
func (c *conn) endProtocol(err error) {
	c.setEnd(&CloseError{Reason: PeerProtocol, Detail: err.Error(), Err: err})
}

// endBroken ends a session whose connection a system call of ours has found broken.
func (c *conn) endBroken(call string, err error) {
	c.broken = &os.SyscallError{Syscall: call, Err: err}
	c.setEnd(c.causeOf(int(c.fd), nil))
}

// endByHandler ends the session with what a method of the Handler returned.
func (c *conn) endByHandler(err error) {
	var other *EndedError
	if errors.As(err, &other) {
		return // what ended another session ends nothing here, and this one's own end is known
	}
	var r Reason
	if errors.As(err, &r) && r.given() {
		end := &CloseError{Reason: r}
		if err != error(r) {
			end.Detail = err.Error()
		}
		c.setEnd(end)
		return
	}
	c.setEnd(&CloseError{Reason: HandlerFailed, Err: err})
}

// finishIfEnded begins the end if something in this turn has brought it about.
func (c *conn) finishIfEnded() {
	if c.sealed.Load() && !c.decoding {
		c.finish()
	}
}

// finish does, on the loop, what the recorded end asks for: reset, or the polite dance. Calling it
// again changes nothing. After it the conn may be gone.
func (c *conn) finish() {
	if c.phase != open {
		return
	}
	switch r := c.end.Reason; {
	case r == PeerGoodbye:
		c.linger()
	case r.abrupt():
		c.abort(r.told())
	default:
		c.phase = closing
		c.queueGoodbye()
		c.flush()
		if c.phase == closing {
			c.discard()
			if wait := c.part(c.srv.elapsed()); c.phase == closing {
				c.loop.lookIn(c.id, wait)
			}
		}
	}
}

// queueGoodbye queues the frame that explains the recorded end.
func (c *conn) queueGoodbye() {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, _ := codec.CutGoodbyeText(c.end.Detail)
	payload, _ := codec.AppendGoodbye(nil, uint16(c.end.Reason), text)
	if _, err := c.encode(codec.Frame{Type: codec.Goodbye, Payload: payload}, maxInt); err != nil {
		c.srv.log.Debug("pulsewheel: the codec refused a Goodbye", "err", err)
	}
}

// linger tells the end at once and lets the socket wait for the peer's FIN, which keeps TIME_WAIT
// with the peer.
func (c *conn) linger() {
	c.flush()
	if c.phase != open {
		return
	}
	c.phase = lingering
	c.goneAt, c.grace = c.srv.elapsed(), nil
	c.loop.lookIn(c.id, c.srv.cfg.CloseTimeout)
	c.tell(int(c.fd))
	c.discard()
}

// abort resets the connection now, after a Goodbye if one is wanted and can be sent without waiting:
// Linux lets a peer read what came before an RST.
func (c *conn) abort(tell bool) {
	if c.sock == nil {
		return
	}
	c.sample(int(c.fd))
	tell = tell && c.broken == nil
	if tell {
		c.flush()
		if c.sock == nil {
			return
		}
	}
	c.lost += c.inKernel()
	if tell && c.sock.OutboundBuffered() == 0 {
		c.queueGoodbye()
		c.flush()
		if c.sock == nil {
			return
		}
	}
	c.reset = true
	_ = c.sock.SetLinger(0)
	c.srv.engine.close(c)
}

// onClose is gnet's word that the socket is being closed; its descriptor is open until onClose
// returns. err is nil if we closed it.
func (c *conn) onClose(err error) {
	sock, fd := c.sock, int(c.fd)
	c.sock, c.fd = nil, -1
	c.phase = closed
	c.lost += sock.OutboundBuffered()
	if !c.told {
		if err != nil && !errors.Is(err, io.EOF) {
			c.salvage(sock, fd)
		}
		if err != nil {
			c.deliverRest(sock)
		}
		if cause := c.causeOf(fd, err); !c.setEnd(cause) && err != nil && c.lost > 0 {
			c.because(cause)
		}
		c.tell(fd)
	}
	c.answered()
	c.waiting.Store(0)
	c.loop.remove(c.id)
	c.srv.admission.leave(c.session.addr)
	c.srv.release(c.loop)
	c.loop.leave()
}

// salvage takes what the peer had sent before a write of gnet's found the connection broken: gnet
// writes what is queued before it reads, and closes without reading. The kernel keeps those bytes;
// a Goodbye among them is the truer reason, and the messages are nobody's to lose.
func (c *conn) salvage(sock socket, fd int) {
	const most = 1 << 20 // more than a receive buffer is worth reading at an end
	kept, err := sock.Peek(-1)
	if err != nil || c.sealed.Load() {
		return
	}
	if n, _ := sockstat.Waiting(fd); n == 0 {
		c.deliverRest(sock)
		return // nothing more: a crowd that resets must not cost a buffer each
	}
	buf := append([]byte(nil), kept...)
	for len(buf) < most {
		buf = slices.Grow(buf, 64<<10)
		n, err := sockstat.Receive(fd, buf[len(buf):cap(buf)])
		if n <= 0 || err != nil {
			break
		}
		c.bytesIn += uint64(n)
		buf = buf[:len(buf)+n]
	}
	if len(buf) > len(kept) || c.remains {
		c.remains = false
		c.deliver(buf)
	}
}

// causeOf translates gnet's word for a close that we did not ask for. An errno that a system call of
// ours has met comes first: asking took it from the socket, and what is read afterwards is only EOF.
func (c *conn) causeOf(fd int, err error) *CloseError {
	switch {
	case c.broken != nil:
		err = c.broken
	case err == nil: // the engine stops
		return &CloseError{Reason: ServerShutdown}
	case err == io.EOF: // gnet's bare EOF: an event without data, whatever the truth
		if pending := sockstat.PendingError(fd); pending != nil {
			err = pending
		}
	}
	if errors.Is(err, io.EOF) {
		return &CloseError{Reason: PeerClosed}
	}
	end := &CloseError{Reason: Internal, Detail: "an error that no rule names", Err: err}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if r, ok := errnoReasons[errno]; ok {
			end.Reason, end.Detail = r, ""
		} else if errno == errTimedOut {
			end.Reason, end.Detail = c.timedOut(fd)
		}
	}
	return end
}

// timedOut says what the kernel's ETIMEDOUT is: TCP_USER_TIMEOUT also ends a live peer that does not
// read. After it the kernel has cleared the counters, but last_data_recv, last_ack_recv and snd_wnd
// still tell, counted from now, however late our loop comes to ask. Their difference does not depend on
// that: for how long the peer had been silent when its kernel last answered.
//
// What an open window had room for, the kernel has sent again and again: the path is dead, however
// lately something was heard. A closed window was probed at distances that double, so its last
// answered probe is at most about half the timeout older than the end; that nothing came for longer
// may also be our loop's lateness.
func (c *conn) timedOut(fd int) (Reason, string) {
	ti, err := sockstat.ReadTCPInfo(fd)
	if err != nil || ti.SndWndKnown && ti.SndWnd >= max(ti.SndMSS, 1) {
		return PathDead, ""
	}
	if last := pathIn(c.lastSample()); last.Known {
		if last.Outstanding = uint64(last.Unacked + last.NotSent); last.Delivery() == heartbeat.Undelivered {
			return PathDead, ""
		}
	}
	timeout := kernelOptions(*c.policy, c.srv.cfg.WriteTimeout, c.srv.cfg.Tick).UserTimeout
	answered := ti.SndWndKnown && ti.LastAckRecv < timeout*3/4
	switch {
	case ti.LastDataRecv < c.policy.Timeout, answered && ti.LastDataRecv-ti.LastAckRecv < c.policy.Timeout:
		return PeerSlow, "it sends, but does not read"
	case answered:
		return PeerFrozen, "its kernel answers, but it does not read"
	}
	return HeartbeatLost, "the kernel gave up, and does not tell whether the peer's kernel answered"
}

// tell completes the record, fd being still open, and calls OnClose, once.
func (c *conn) tell(fd int) {
	c.told = true
	if !c.reset { // else that was done before the Goodbye, to which the peer may have answered already
		c.sample(fd)
	}
	s := c.session
	end := c.end
	now := c.srv.elapsed()
	queued := 0
	if out, _ := c.takeOutput(); out != nil {
		queued = len(out.b)
		giveBack(out)
	}
	r := Record{
		Age: now - c.openedAt, Idle: min(s.Idle(), now-c.openedAt),
		BytesIn: c.bytesIn, BytesOut: c.bytesOut + uint64(queued), FramesIn: c.framesIn, FramesOut: c.framesOut,
		RTT: s.RTT(), Pings: c.pings, Unsent: c.lost + queued, Reset: c.reset,
	}
	if k := c.kept; k != nil {
		r.TCPState, r.TCP, r.TCPAge = k.state, k.TCPInfo, now-k.at
		if c.bytesIn > 0 { // the kernel's stamp is finer than ours
			r.Idle = min(r.Idle, k.LastDataRecv+r.TCPAge)
		}
	}
	end.Record = r
	s.stopTimers()
	c.unsuspect()
	s.leaveGroups()
	c.srv.unregister(s, end.Reason)
	c.loop.gauges.sessions.Add(-1)
	if probe := c.bytesIn == 0 && end.Reason == PeerClosed; !probe {
		c.srv.recent.put(Ended{ID: s.id, RemoteAddr: s.RemoteAddr(), At: time.Now(), End: *end})
	}
	c.closes()
	s.finished()
}

// called names what calls application code.
type called string

const (
	calledDecode  called = "codec"
	calledMessage called = "OnMessage"
	calledPost    called = "Post"
)

// opens calls OnOpen. Here and below, a panic is returned as an error.
func (c *conn) opens() (err error) {
	defer c.caught("OnOpen", &err)
	return c.srv.handler.OnOpen(c.session)
}

// suspects calls OnSuspect.
func (c *conn) suspects(why Suspicion) (err error) {
	defer c.caught("OnSuspect", &err)
	c.srv.handler.OnSuspect(c.session, why)
	return nil
}

// recovers calls OnRecover.
func (c *conn) recovers() (err error) {
	defer c.caught("OnRecover", &err)
	c.srv.handler.OnRecover(c.session)
	return nil
}

// closes calls OnClose, after which there is nobody to give an error to.
func (c *conn) closes() {
	var err error
	defer c.caught("OnClose", &err)
	c.srv.handler.OnClose(c.session, c.end)
}

// caught, deferred, turns a panic in application code into an error and logs it with its stack.
func (c *conn) caught(in called, err *error) {
	if p := recover(); p != nil {
		*err = c.panicked(in, p)
	}
}

// caughtIn is caught for frames, which calls several.
func (c *conn) caughtIn(in *called, err *error) {
	c.decoding = false
	if p := recover(); p != nil {
		*err = c.panicked(*in, p)
	}
}

// crashed, deferred wherever gnet or the wheel calls in for one conn, catches what application code
// other than a Handler (a codec, a judge) throws: that session is reset, the server goes on.
func (c *conn) crashed(in called) {
	if p := recover(); p != nil {
		c.setEnd(&CloseError{Reason: HandlerFailed, Err: c.panicked(in, p)})
		c.abort(false)
	}
}

func (c *conn) panicked(in called, p any) error {
	c.srv.log.Error("pulsewheel: panic", "in", string(in), "session", c.session.id, "panic", p, "stack", string(debug.Stack()))
	return fmt.Errorf("panic in %s: %v", in, p)
}

// runPost runs what Session.Post or a timer brought; a panic in it ends the session.
func (c *conn) runPost(f func()) {
	defer c.crashed(calledPost)
	err := c.guarded(f)
	if err != nil {
		c.endByHandler(err)
	}
	c.finishIfEnded()
}

func (c *conn) guarded(f func()) (err error) {
	defer c.caught(calledPost, &err)
	f()
	return nil
}
