//go:build linux

package bench

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

func init() { rig.Role("deadlines", serveDeadlines) }

// promises are the deadlines of the server under TestDeadlines. They travel as JSON.
type promises struct {
	Tick, Interval, Timeout, Handshake, Frame, Write time.Duration

	Defaults bool          // they are those of a zero Config
	Work     time.Duration // for which the Handler is busy with each message of the load
}

// promised returns the promises that follow from one timeout.
func promised(timeout time.Duration) promises {
	return promises{
		Tick: 50 * time.Millisecond, Interval: timeout / 3, Timeout: timeout,
		Handshake: timeout * 2 / 3, Frame: timeout * 2 / 3, Write: timeout * 2 / 3,
	}
}

// byDefault returns those of a zero Config.
func byDefault() promises {
	return promises{
		Tick: 100 * time.Millisecond, Interval: heartbeat.DefaultInterval, Timeout: 3 * heartbeat.DefaultInterval,
		Handshake: 10 * time.Second, Frame: 10 * time.Second, Write: 3 * heartbeat.DefaultInterval, Defaults: true,
	}
}

func (p promises) config() server.Config {
	cfg := server.Config{Loops: 1, Logger: slog.New(slog.DiscardHandler)}
	if !p.Defaults {
		cfg.Tick, cfg.Policy = p.Tick, heartbeat.Policy{Interval: p.Interval, Timeout: p.Timeout}
		cfg.HandshakeTimeout, cfg.FrameTimeout, cfg.WriteTimeout = p.Handshake, p.Frame, p.Write
	}
	return cfg
}

// timers returns the durations of the timers that are set beside the load.
func (p promises) timers() []time.Duration {
	return []time.Duration{100 * time.Millisecond, time.Second, p.Timeout / 2}
}

// What the first byte of a message asks of the server. A message of the load begins with a zero.
const (
	askEcho   = 'e' // it comes back
	askStream = 's' // more is sent than the peer's kernel takes, and more all the time
	askTimers = 't' // timers run until the session ends
)

// streamBurst is how many bytes are sent at once to who asks for a stream: less than BacklogMax.
const streamBurst = 480 << 10

// An observed is what the server knows of one connection, in nanoseconds since 1970; 0: it has not been.
type observed struct {
	Opened, Heard, Closed int64

	Reason uint16
	Detail string
}

// A deadlinesAnswer is what the role answers to "told" and a list of clients' addresses.
type deadlinesAnswer struct {
	Probes  map[netip.AddrPort]observed // by address, of those in the list
	Others  map[string]int              // ends of all others, by what was told
	Timers  map[time.Duration][]time.Duration
	Pending map[time.Duration][]time.Duration // timers that have not fired and are late, and by how much so far
	Loop    loopFigures
}

// deadlines is the Handler: an echo that takes its time, and what the probes ask for.
type deadlines struct {
	promises

	mu      sync.Mutex // guards the rest
	seen    map[netip.AddrPort]*observed
	late    map[time.Duration][]time.Duration
	pending map[*pendingTimer]struct{}
}

type pendingTimer struct {
	after time.Duration
	due   time.Time
}

func (h *deadlines) note(s *server.Session, f func(*observed)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	addr := s.RemoteAddr()
	if h.seen[addr] == nil {
		h.seen[addr] = &observed{}
	}
	f(h.seen[addr])
}

func (h *deadlines) OnOpen(s *server.Session) error {
	now := time.Now().UnixNano()
	h.note(s, func(g *observed) { g.Opened = now })
	return nil
}

func (h *deadlines) OnMessage(s *server.Session, p []byte) error {
	if len(p) == 0 {
		return nil // a flood: it is not echoed
	}
	if p[0] == 0 {
		if h.Work > 0 {
			for begun := time.Now(); time.Since(begun) < h.Work; {
			}
		}
		return s.Send(p)
	}
	now := time.Now().UnixNano()
	h.note(s, func(g *observed) { g.Heard = now })
	switch p[0] {
	case askStream:
		for range streamBurst / (60 << 10) {
			if err := s.Send(make([]byte, 60<<10)); err != nil {
				return err
			}
		}
		h.stream(s)
		return nil
	case askTimers:
		for _, d := range h.timers() {
			h.timer(s, d)
		}
	}
	return s.Send(p)
}

func (*deadlines) OnSuspect(*server.Session, server.Suspicion) {}
func (*deadlines) OnRecover(*server.Session)                   {}

func (h *deadlines) OnClose(s *server.Session, end *server.CloseError) {
	now := time.Now().UnixNano()
	h.note(s, func(g *observed) { g.Closed, g.Reason, g.Detail = now, uint16(end.Reason), end.Error() })
}

// stream sends a little now and then until the session ends.
func (h *deadlines) stream(s *server.Session) {
	s.After(h.Interval/4, func() {
		if s.Send(make([]byte, 100)) == nil {
			h.stream(s)
		}
	})
}

// timer sets a timer again and again, and notes by how much it is late.
func (h *deadlines) timer(s *server.Session, d time.Duration) {
	p := &pendingTimer{d, time.Now().Add(d)}
	h.mu.Lock()
	h.pending[p] = struct{}{}
	h.mu.Unlock()
	s.After(d, func() {
		late := time.Since(p.due)
		h.mu.Lock()
		delete(h.pending, p)
		h.late[d] = append(h.late[d], late)
		h.mu.Unlock()
		h.timer(s, d)
	})
}

func (h *deadlines) answer(srv *server.Server, arg string) string {
	var probes []netip.AddrPort
	fatal(json.Unmarshal([]byte(arg), &probes))
	h.mu.Lock()
	defer h.mu.Unlock()
	a := deadlinesAnswer{
		Probes: map[netip.AddrPort]observed{}, Others: map[string]int{},
		Timers: h.late, Pending: map[time.Duration][]time.Duration{}, Loop: figuresOf(srv),
	}
	for _, addr := range probes {
		if g := h.seen[addr]; g != nil {
			a.Probes[addr] = *g
		}
	}
	for addr, g := range h.seen {
		if _, probe := a.Probes[addr]; !probe && g.Closed != 0 {
			a.Others[g.Detail]++
		}
	}
	for p := range h.pending {
		if late := time.Since(p.due); late > 0 {
			a.Pending[p.after] = append(a.Pending[p.after], late)
		}
	}
	b, err := json.Marshal(a)
	fatal(err)
	return string(b)
}

func serveDeadlines(args []string) {
	h := &deadlines{
		seen:    map[netip.AddrPort]*observed{},
		late:    map[time.Duration][]time.Duration{},
		pending: map[*pendingTimer]struct{}{},
	}
	fatal(json.Unmarshal([]byte(args[0]), &h.promises))
	srv, err := server.New(h, h.config())
	fatal(err)
	ln, err := server.Listen("127.0.0.1:0")
	fatal(err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln)
	}()
	rig.Serving(ln.Addr().String(), map[string]func(string) string{
		"told": func(arg string) string { return h.answer(srv, arg) },
	})
	_ = srv.Close()
	<-served
}
