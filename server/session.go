package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	atomic64 "sync/atomic" // its 64-bit values are aligned on 32-bit systems, and the others are 4 bytes
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A Session is one client, from OnOpen to OnClose. Any goroutine may call its methods at any time,
// also after the session has ended.
type Session struct {
	id        uint64
	rtt       atomic64.Int64 // nanoseconds, smoothed
	c         *conn
	heard     atomic64.Uint32 // the tick of the last inbound byte
	doubt     atomic64.Uint32 // a Suspicion
	addr      netip.Addr
	port      uint16
	left      bool   // it joins no group any more; guarded by mu, and so is over
	over      bool   // OnClose has returned
	timers    *timer // of After; the loop's, and so is what follows it
	ponged    bool   // the peer has answered a Ping, ever
	pathStuck bool   // it is suspect of the path: only an acknowledgement makes up for that

	mu    sync.Mutex
	value any
	more  *more // nil: nothing of it
}

// more is what few sessions need. It is guarded by Session.mu.
type more struct {
	groups []*Group
	done   chan struct{} // made when first asked for
}

// extra returns s.more. It is called with mu held.
func (s *Session) extra() *more {
	if s.more == nil {
		s.more = &more{}
	}
	return s.more
}

// ID returns the session's number: unique in this Server, counted from 1.
func (s *Session) ID() uint64 { return s.id }

// RemoteAddr returns the peer's address; for a Unix socket it is the zero AddrPort.
func (s *Session) RemoteAddr() netip.AddrPort { return netip.AddrPortFrom(s.addr, s.port) }

// Value returns what SetValue stored last, or nil.
func (s *Session) Value() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value
}

// SetValue stores v with the session. It stays there after the end.
func (s *Session) SetValue(v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = v
}

// RTT returns the smoothed round trip of Ping and Pong, 0 before the first.
func (s *Session) RTT() time.Duration { return time.Duration(s.rtt.Load()) }

// Suspicion tells why the peer is suspect now; 0 if it is not. It is set before OnSuspect is called and
// cleared before OnRecover is; a session that ends while suspect stays so.
func (s *Session) Suspicion() Suspicion { return Suspicion(s.doubt.Load()) }

// Idle returns the time since the last inbound byte, to the grain of Config.Tick.
func (s *Session) Idle() time.Duration {
	srv := s.c.srv
	ticks := srv.tickAt(srv.elapsed()).Sub(heartbeat.Tick(s.heard.Load()))
	return time.Duration(max(ticks, 0)) * srv.cfg.Tick
}

// Send queues p as one Data frame; it is copied, p remains the caller's. Everything that is sent
// during one call of OnMessage, and by other goroutines meanwhile, leaves in one write.
//
// nil means queued, not delivered. A payload that the codec refuses is the codec's error; beyond
// Config.BacklogMax it is ErrBacklogFull; after the end it is an *EndedError, which is net.ErrClosed and
// the Reason to errors.Is. In all three cases nothing of p was queued.
func (s *Session) Send(p []byte) error {
	return s.c.send(codec.Frame{Type: codec.Data, Payload: p})
}

// ErrText is returned by Close when its text had to be cut to fit a Goodbye, 123 bytes of UTF-8. The
// session is closed all the same.
var ErrText = errors.New("server: the text of Close was cut to 123 bytes of UTF-8")

// Close ends the session: what is queued is flushed, a Goodbye with r and text follows, and then the
// server waits up to Config.CloseTimeout for the peer to close first. OnClose is called when it has,
// or when the server has reset it. It does so before everything has arrived only if the peer takes less than
// 32 KiB, or nothing, in a Config.WriteTimeout: then, or if the peer goes meanwhile, the end says so in Err. A reason below 200 (the application found the peer's protocol
// wrong, say) resets the peer at once instead, after a Goodbye if one can be sent without waiting.
//
// If the session has ended already, Close returns an *EndedError. r is PeerProtocol, PeerSlow,
// PeerFlood, PeerUnready, PeerStalledFrame, ServerClosed, ServerShutdown, SessionReplaced,
// HandlerFailed, or 1000 and up; what only the library can know, as PeerClosed or PathDead, is refused
// with an error, and the session stays open.
func (s *Session) Close(r Reason, text string) error {
	if !r.given() {
		return fmt.Errorf("server: Close: %d is no reason that an application can give (%v)", uint16(r), r)
	}
	text, cut := codec.CutGoodbyeText(text)
	if !s.c.setEnd(&CloseError{Reason: r, Detail: text}) {
		return s.c.ended()
	}
	s.c.loop.post(s.c, func() {}) // the post's turn finishes what has ended
	if cut {
		return ErrText
	}
	return nil
}

// SetPolicy gives the session a policy of its own, from now on: a scene that takes 30 s to load, a
// phone in the background. Zero fields are the defaults of heartbeat.Policy. The kernel's keepalive
// follows. After the end it returns an *EndedError.
func (s *Session) SetPolicy(p heartbeat.Policy) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("server: SetPolicy: %w", err)
	}
	p = p.OrDefault()
	if err := checkPolicy("SetPolicy", p, s.c.srv.cfg.Tick); err != nil {
		return err
	}
	return s.Post(func() {
		c := s.c
		if c.phase != open {
			return
		}
		c.policy = &p
		if c.tcp {
			c.applyOptions()
		}
		c.loop.lookIn(c.id, 0)
	})
}

// Post has f called on the session's event loop, after what was posted before: the way back for a
// goroutine that has done blocking work. If Post returns nil, f is called once, also if the session
// has ended meanwhile. Once the session has ended, Post returns an *EndedError and f is not called.
func (s *Session) Post(f func()) error {
	if err := s.c.ended(); err != nil {
		return err
	}
	if !s.c.loop.post(s.c, f) {
		return &EndedError{Session: s.id, Reason: ServerShutdown}
	}
	return nil
}

// Done returns a channel that is closed when OnClose has returned.
func (s *Session) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.extra()
	if m.done == nil {
		m.done = make(chan struct{})
		if s.over {
			close(m.done)
		}
	}
	return m.done
}

// finished closes Done.
func (s *Session) finished() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.more != nil && s.more.done != nil {
		close(s.more.done)
	}
}

// An EndedError is returned by the methods of a Session that has ended. errors.Is finds in it
// net.ErrClosed and the Reason. It is the one error that a Handler may return without ending its
// session: that somebody else has gone (a message cannot be relayed, an old session cannot be kicked
// once more) is no fault of the one who is being served.
type EndedError struct {
	Session uint64
	Reason  Reason
}

// Error names the session and the reason.
func (e *EndedError) Error() string {
	return fmt.Sprintf("server: session %d has ended: %v", e.Session, e.Reason)
}

// Is makes an EndedError its Reason and net.ErrClosed.
func (e *EndedError) Is(target error) bool { return target == e.Reason || target == net.ErrClosed }

// ended returns an *EndedError if the session has ended.
func (c *conn) ended() error {
	if !c.sealed.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endedError()
}

// endedError is called with mu held and end set.
func (c *conn) endedError() error { return &EndedError{Session: c.session.id, Reason: c.end.Reason} }
