package server

import (
	"time"

	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// timer is one After of a session: an entry of its own in the loop's wheel, and a link in the
// session's list, so that it ends with the session.
type timer struct {
	s          *Session
	f          func()
	at         time.Duration // elapsed since the server's epoch
	id         uint32
	prev, next *timer
	armed      bool        // in the wheel and in the list; the loop's
	stopped    atomic.Bool // f must not run any more
}

const afterMax = 100 * 365 * 24 * time.Hour // longer is never

// After has f called on the session's event loop d from now, at most two ticks of Config.Tick late
// and never early. It is called at most once, and not after the session's OnClose. stop prevents
// that, if called before f is; it may be called from any goroutine, any number of times.
func (s *Session) After(d time.Duration, f func()) (stop func()) {
	srv := s.c.srv
	t := &timer{s: s, f: f, at: srv.elapsed() + min(max(d, 0), afterMax)}
	if s.c.ended() == nil {
		s.c.loop.arm(t)
	}
	return func() {
		if !t.stopped.Swap(true) {
			s.c.loop.post(nil, t.disarm)
		}
	}
}

// arm has t armed, at the end of the turn that the loop is in: it must not wait for the end of a long round, as what
// is posted does. Any goroutine may call it.
func (l *loop) arm(t *timer) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.unarmed = append(l.unarmed, t)
	l.arming.Store(true)
	due := l.wanted()
	l.mu.Unlock()
	if due {
		l.execute()
	}
}

// armAll arms those that have been waiting for it.
func (l *loop) armAll() {
	l.mu.Lock()
	ts := l.unarmed
	l.unarmed = nil
	l.arming.Store(false)
	l.mu.Unlock()
	for _, t := range ts {
		t.arm()
	}
}

func (t *timer) arm() {
	if t.stopped.Load() || t.s.c.told {
		return
	}
	l, s := t.s.c.loop, t.s
	t.armed = true
	t.id = l.add(t)
	if t.next = s.timers; t.next != nil {
		t.next.prev = t
	}
	s.timers = t
	l.lookIn(t.id, t.at-l.srv.elapsed())
}

func (t *timer) disarm() {
	if !t.armed {
		return
	}
	t.armed = false
	t.s.c.loop.remove(t.id)
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		t.s.timers = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
}

// onLook implements entry.
func (t *timer) onLook(heartbeat.Tick) heartbeat.Tick {
	srv := t.s.c.srv
	if now := srv.elapsed(); now < t.at { // beyond the wheel's horizon when it was armed
		return srv.dueTick(now, t.at)
	}
	t.disarm()
	if !t.stopped.Swap(true) {
		t.s.c.runPost(t.f)
	}
	return 0
}

// stopTimers ends what the session's end leaves pending.
func (s *Session) stopTimers() {
	for s.timers != nil {
		s.timers.stopped.Store(true)
		s.timers.disarm()
	}
}
