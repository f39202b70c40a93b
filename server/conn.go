package server

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"reflect"
	"sync"
	atomic32 "sync/atomic" // its values are 4 bytes, of which there are many
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// phase is how far a conn has come.
type phase uint8

const (
	opening   phase = iota // placed on a loop, OnOpen has not run
	open                   // a session
	closing                // ended by us in good order: what is queued, then a Goodbye, then the peer's FIN
	lingering              // told to the application; the socket waits for the peer's FIN
	closed                 // the socket is gone
)

// conn is the socket's half of a session: descriptor, loop, wheel id, buffers, record. Unless said
// otherwise its fields belong to the loop's goroutine. There is one for every client, so what few of them
// need is behind a pointer; and what a turn needs comes first, in few cache lines.
type conn struct {
	sock       socket // nil before OnOpen and from OnClose on
	loop       *loop
	session    *Session
	srv        *Server
	codec      codec.Codec
	id         uint32 // in the loop's wheel
	need       int32  // bytes that must be there before decoding is worth while
	left       int32  // bytes that gnet keeps for us: an unfinished frame, or whatever remains
	fd         int32
	phase      phase
	tcp        bool
	comparable bool // codec can be compared with others
	ours       bool // it is codec.Binary, which does not panic
	told       bool // OnClose has been called
	beating    bool // a Ping is being written
	prepared   bool // it has inherited its options
	reset      bool // we end it with an RST
	bytesIn    uint64
	framesIn   uint64
	bytesOut   uint64
	frameAt    time.Duration // the unfinished frame's first byte; 0: there is none
	liveness
	progress

	sealed   atomic32.Bool // end is set: nothing more goes in or out
	opened   bool          // OnOpen has begun: the hall asks when gnet has said that the conn has arrived
	decoding bool          // its input is being decoded: nothing else is done about it meanwhile
	remains  bool          // whole frames may be in what gnet keeps for us: the turn had no time for them
	putOff   bool          // it is in loop.resumes

	mu        sync.Mutex      // guards what follows, up to dirty
	out       *output         // encoded and not flushed; nil: nothing
	framesOut uint64          //
	end       *CloseError     // the first cause
	outData   bool            // there is Data in out
	dirty     bool            // a flush is due
	suspected bool            // see liveness
	high      bool            // more than Config.BacklogHigh waited, and less than BacklogLow has not since
	waiting   atomic32.Uint32 // bytes that gnet holds for the peer, as of the last look; written by the loop

	policy *heartbeat.Policy // not written to: many share it
	meter  *meter            // nil: it may send as much as it likes
	grace  *grace            // nil: none was given
	broken *os.SyscallError  // a system call of ours found the connection broken; gnet's read will end it

	// Instants, as elapsed since the server's epoch.
	openedAt time.Duration
	goneAt   time.Duration // the Goodbye has left or has come: CloseTimeout runs; 0: not yet
}

// newConn makes the conn for an accepted connection; it has no loop yet.
func newConn(s *Server, remote netip.AddrPort, tcp bool) (c *conn, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in Config.NewCodec: %v", p)
		}
	}()
	c = &conn{srv: s, tcp: tcp, fd: -1, codec: s.cfg.NewCodec(), policy: &s.cfg.Policy}
	c.asking = &nobodyAsked
	c.comparable = reflect.ValueOf(c.codec).Comparable()
	_, c.ours = c.codec.(codec.Binary)
	c.session = &Session{c: c, addr: remote.Addr(), port: remote.Port()}
	return c, nil
}

// onOpen begins the session on its loop.
func (c *conn) onOpen(sock socket) {
	l, s := c.loop, c.srv
	l.beginTurn()
	defer c.crashed("open")
	c.sock, c.fd = sock, int32(sock.Fd())
	if c.tcp {
		_ = sock.SetLinger(-1) // it came with zero
	}
	c.id = l.add(c)
	c.phase = open
	c.opened = true
	c.openedAt = s.elapsed()
	c.heard(l.tick)
	if c.tcp && !c.prepared {
		c.applyOptions()
	}
	s.register(c.session)
	l.gauges.sessions.Add(1)
	c.setLimits(s.limits)
	c.mu.Lock()
	c.dirty = true // what OnOpen sends is flushed below
	c.mu.Unlock()
	l.lookIn(c.id, min(s.cfg.HandshakeTimeout/2, c.policy.Interval/2))
	if err := c.opens(); err != nil {
		c.endByHandler(err)
	}
	c.flush()
	c.finishIfEnded()
	l.tookIn(s.elapsed() - c.openedAt)
	l.endTurn()
}

// onTraffic decodes what has arrived, and flushes once what that brought about.
func (c *conn) onTraffic() {
	defer c.crashed("traffic")
	l := c.loop
	l.beginTurn()
	n := c.sock.InboundBuffered()
	if came := n - int(c.left); c.meter == nil {
		c.bytesIn += uint64(came)
	} else {
		c.receive(came)
	}
	c.left = int32(n)
	asked := c.asking != &nobodyAsked
	c.heard(l.tick)
	if c.phase == open && n >= int(c.need) {
		c.decodeAndFlush()
	}
	c.finishIfEnded()
	switch {
	case c.phase > open:
		c.discard()
	case asked:
		c.rest()
	}
	l.endTurn()
}

// discard drops all input: what comes after the end is nobody's.
func (c *conn) discard() {
	if c.sock != nil {
		_, _ = c.sock.Discard(-1)
		c.left, c.need, c.remains = 0, 0, false
	}
}

// decodeAndFlush decodes, and sends at once what that brought about.
func (c *conn) decodeAndFlush() {
	c.mu.Lock()
	c.dirty = true // one flush is due at the end of this turn, whoever sends meanwhile
	c.mu.Unlock()
	c.decode()
	c.flush()
}

// decode takes as many frames as are whole, or as there is time for.
func (c *conn) decode() {
	buf, err := c.sock.Peek(-1)
	if err != nil {
		c.setEnd(&CloseError{Reason: Internal, Detail: "peek", Err: err})
		return
	}
	c.remains, c.loop.pace.begun = false, c.loop.turns.at
	n, err := c.frames(buf, c.keeps())
	if err != nil {
		c.endByHandler(err)
	}
	if c.sealed.Load() { // buf may be gone
		return
	}
	c.need, c.left = 0, int32(len(buf)-n)
	switch {
	case c.remains:
		c.later()
	case c.left == 0:
		c.frameAt = 0
	case n > 0 || c.frameAt == 0: // a frame begins
		c.frameAt = c.srv.elapsed()
		c.loop.lookIn(c.id, c.srv.cfg.FrameTimeout)
	}
	if c.left > 0 && !c.remains {
		need := len(buf) - n + 1
		if needer, ok := c.codec.(codec.Needer); ok {
			need = max(need, needer.Need(buf[n:]))
		}
		c.need = int32(min(need, math.MaxInt32))
	}
	if n > 0 {
		c.grace = nil
		_, _ = c.sock.Discard(n) // gives buf back; and Discard(0) would drop everything
	}
}

// frames dispatches the whole frames at the start of buf and returns their length. It stops where
// the session ends, and, if no more than keep bytes are left then, when the turn has taken long enough: then
// c.remains is set. What panics, codec or Handler, is returned as an error.
//
// When the session has ended, buf may have been taken away.
func (c *conn) frames(buf []byte, keep int) (n int, err error) {
	in := calledDecode
	c.decoding = true
	defer c.caughtIn(&in, &err)
	left, tick := paceFirst, c.srv.now.Load() // until the clock is read
	quota := uint64(math.MaxUint64)
	if c.meter != nil {
		quota = c.meter.messages.quota
	}
	for n < len(buf) && !c.sealed.Load() {
		if left == 0 || c.srv.now.Load() != tick {
			if left, tick = c.loop.paced(c); left == 0 {
				if c.remains = len(buf)-n <= keep && n > 0; c.remains {
					return n, nil
				}
				c.loop.midTurn()
				left = c.loop.restart(c)
				continue
			}
		}
		left--
		f, size, err := c.codec.Decode(buf[n:])
		if err != nil {
			c.endProtocol(err)
			return n, nil
		}
		if size == 0 {
			return n, nil
		}
		if size < 0 || size > len(buf)-n {
			return n, fmt.Errorf("server: %T.Decode returned a length of %d for %d bytes", c.codec, size, len(buf)-n)
		}
		n += size
		if c.framesIn++; c.framesIn > quota {
			if quota = c.overQuota(f); c.framesIn > quota {
				return n, nil
			}
		}
		if f.Type != codec.Data {
			c.dispatch(f)
			continue
		}
		in = calledMessage
		if err := c.srv.handler.OnMessage(c.session, f.Payload); err != nil {
			c.endByHandler(err)
		}
		in = calledDecode
	}
	return n, nil
}

// dispatch acts on one frame that is not the application's.
func (c *conn) dispatch(f codec.Frame) {
	switch f.Type {
	case codec.Ping:
		c.queue(codec.Frame{Type: codec.Pong, Payload: f.Payload})
	case codec.Pong:
		c.onPong(f.Payload)
	case codec.Goodbye:
		code, text, err := codec.ParseGoodbye(f.Payload)
		if err != nil {
			c.endProtocol(err)
			return
		}
		c.setEnd(&CloseError{Reason: PeerGoodbye, Detail: text, PeerCode: Reason(code)})
	case codec.Raw:
		c.mu.Lock()
		out := c.output()
		out.b = append(out.b, f.Payload...)
		c.mu.Unlock()
	default:
		c.endProtocol(fmt.Errorf("server: a %v frame is not allowed now", f.Type))
	}
}

// applyOptions sets the socket options that follow from the policy. Linux's tcp(7): KEEPIDLE and
// KEEPINTVL are whole seconds; KEEPCNT counts for nothing once TCP_USER_TIMEOUT is set. The kernel's
// timeout is only the backstop for a loop that is itself stuck, so it is later than every verdict of
// ours: it would also end a live peer that does not read.
func (c *conn) applyOptions() {
	if err := sockstat.Apply(int(c.fd), kernelOptions(*c.policy, c.srv.cfg.WriteTimeout, c.srv.cfg.Tick)); err != nil {
		c.srv.log.Debug("pulsewheel: keepalive options", "err", err)
	}
}

// kernelOptions are those of a session without a policy of its own.
func (s *Server) kernelOptions() sockstat.Options {
	return kernelOptions(s.cfg.Policy, s.cfg.WriteTimeout, s.cfg.Tick)
}

// userTimeouts is how many timeouts the kernel is to wait for. Its clock runs for as long as an episode of
// loss lasts, also while some of it is acknowledged and the peer is heard.
const userTimeouts = 4

// kernelOptions derives the kernel's own watch from the heartbeat policy.
func kernelOptions(p heartbeat.Policy, writeTimeout, tick time.Duration) sockstat.Options {
	return sockstat.Options{
		KeepIdle:     p.Interval,
		KeepInterval: p.Interval,
		UserTimeout:  userTimeouts*max(p.Timeout, writeTimeout) + p.Interval + 2*tick,
	}
}

// remoteOf returns a connection's peer; for a Unix socket it is the zero AddrPort.
func remoteOf(nc net.Conn) netip.AddrPort {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok && a != nil {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
