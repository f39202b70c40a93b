//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// soakConfig has every deadline pass often while a soak lasts, and every limit met.
var soakConfig = server.Config{
	Policy:           heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second},
	HandshakeTimeout: time.Second,
	FrameTimeout:     time.Second,
	WriteTimeout:     2 * time.Second,
	CloseTimeout:     500 * time.Millisecond,
	Tick:             20 * time.Millisecond,
	BlockWarning:     250 * time.Millisecond,
	Loops:            2,
	ConnsMax:         600,
	PayloadMax:       soakPayloadMax,
	BacklogMax:       256 << 10,
}

const soakPayloadMax = 16 << 10

// arena is the application under a soak. To the honest, who are known by their address, it is an echo; all others
// can make it do whatever an application might, by the first byte of a message.
type arena struct {
	opens, closes, thrown atomic.Int64
	honest                atomic.Int64 // sessions of those, now
	doubted               atomic.Int64 // suspicions of those
	leaving               atomic.Bool  // the honest may go now
	crowd                 server.Group
	remotes               atomic.Pointer[remotes] // those whose paths break; nil: there are none
	spoken                atomic.Int64            // when somebody last spoke to all, in nanoseconds

	mu    sync.Mutex
	wrong map[string]int // what must not be, and how often it was
}

// post is what the arena keeps with a session.
type post struct {
	honest bool
	remote *remote // nil: it is none of those
	closes atomic.Int32
	timers int // pending; the session's loop's
}

func (a *arena) fail(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrong[fmt.Sprintf(format, args...)]++
}

func (a *arena) OnOpen(s *server.Session) error {
	a.opens.Add(1)
	p := &post{honest: s.RemoteAddr().Addr().As4()[2] == honestNet, remote: a.remotes.Load().of(s.RemoteAddr().Addr())}
	s.SetValue(p)
	if p.honest {
		a.honest.Add(1)
	}
	return nil
}

func (a *arena) OnSuspect(s *server.Session, why server.Suspicion) {
	if s.Value().(*post).honest {
		a.doubted.Add(1)
	}
}

func (a *arena) OnRecover(*server.Session) {}

func (a *arena) OnClose(s *server.Session, end *server.CloseError) {
	a.closes.Add(1)
	p := s.Value().(*post)
	if n := p.closes.Add(1); n != 1 {
		a.fail("OnClose was called %d times", n)
	}
	if p.honest {
		a.honest.Add(-1)
		if !a.leaving.Load() {
			a.fail("an honest session was ended: %v", end)
		}
	}
	if p.remote != nil {
		p.remote.judge(end)
	}
	r := end.Record
	switch {
	case end.Reason == server.Internal:
		a.fail("%v", end)
	case r.Age < 0, r.Idle < 0, r.Idle > r.Age, r.Unsent < 0, uint64(r.Unsent) > r.BytesOut, 4*r.FramesIn > r.BytesIn, 4*r.FramesOut > r.BytesOut:
		a.fail("a record that cannot be: %v: %v", end.Reason, r)
	}
}

// OnMessage serves the honest, and does to the others what they ask for.
func (a *arena) OnMessage(s *server.Session, p []byte) error {
	if s.Value().(*post).closes.Load() != 0 {
		a.fail("a message after OnClose")
	}
	if to := s.Value().(*post); to.honest || to.remote != nil {
		return s.Send(p)
	}
	if len(p) == 0 {
		return nil
	}
	arg := 0
	if len(p) > 1 {
		arg = int(p[1])
	}
	switch p[0] % 16 {
	case 0, 1:
		_ = s.Send(p) // it may not read: that is for the server to find out
	case 2: // stream
		b := make([]byte, 1+arg*8)
		for range 64 {
			if s.Send(b) != nil {
				break
			}
		}
	case 3:
		_ = a.crowd.Join(s)
	case 4:
		a.crowd.Leave(s)
	case 5: // at most 100 times a second, likewise
		now := time.Now().UnixNano()
		if last := a.spoken.Load(); now-last > int64(10*time.Millisecond) && a.spoken.CompareAndSwap(last, now) {
			_ = a.crowd.Broadcast(p[:min(len(p), 512)])
		}
	case 6:
		_ = s.SetPolicy(heartbeat.Policy{Interval: time.Duration(arg) * 10 * time.Millisecond})
	case 7:
		if p := s.Value().(*post); p.timers < 2 { // what an application does for a client it must bound
			p.timers++
			s.After(time.Duration(arg)*10*time.Millisecond, func() { p.timers--; _ = s.Send([]byte("later")) })
		}
	case 8:
		_ = s.Post(func() { _ = s.Close(server.AppReason+server.Reason(arg), "as asked") })
	case 9:
		return server.AppReason + server.Reason(arg)
	case 10:
		return s.Close(server.PeerFlood, "as asked")
	case 11:
		a.thrown.Add(1)
		return errors.New("the handler's error")
	case 12:
		a.thrown.Add(1)
		panic("the handler's panic")
	case 13:
		return s.Close(server.SessionReplaced, "as asked")
	}
	return nil
}

// lineCount counts what is logged, and keeps nothing of it.
type lineCount struct {
	mu    sync.Mutex
	lines map[string]int
}

func (c *lineCount) Enabled(context.Context, slog.Level) bool { return true }
func (c *lineCount) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *lineCount) WithGroup(string) slog.Handler            { return c }

func (c *lineCount) Handle(_ context.Context, r slog.Record) error {
	if r.Level > slog.LevelDebug {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lines[r.Level.String()+" "+r.Message]++
	}
	return nil
}
