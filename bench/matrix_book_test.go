//go:build linux

package bench

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// A book is a Handler that writes down, for each peer, what it is told and when.
type book struct {
	held *heldUp

	mu      sync.Mutex
	entries map[netip.AddrPort]*entry
}

// An entry is what the book has on one session.
type entry struct {
	session chan *server.Session // the session, when it has opened
	over    chan struct{}        // closed when it has ended

	mu  sync.Mutex
	now verdict
}

// A verdict is what a session's handler was told.
type verdict struct {
	suspect moment // the first OnSuspect; 0: none
	why     server.Suspicion
	told    moment
	end     *server.CloseError // nil: not ended
}

// of returns the entry of a peer, which need not have come yet.
func (b *book) of(peer netip.AddrPort) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[peer]
	if e == nil {
		e = &entry{session: make(chan *server.Session, 1), over: make(chan struct{})}
		b.entries[peer] = e
	}
	return e
}

func (b *book) moment() moment { return moment{monotonic(), b.held.total()} }

func (b *book) OnOpen(s *server.Session) error {
	e := b.of(s.RemoteAddr())
	s.SetValue(e)
	e.session <- s
	return nil
}

func (b *book) OnMessage(*server.Session, []byte) error { return nil }

func (b *book) OnSuspect(s *server.Session, why server.Suspicion) {
	at, e := b.moment(), s.Value().(*entry)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now.suspect.at == 0 {
		e.now.suspect, e.now.why = at, why
	}
}

func (b *book) OnRecover(*server.Session) {}

func (b *book) OnClose(s *server.Session, end *server.CloseError) {
	at, e := b.moment(), s.Value().(*entry)
	b.mu.Lock()
	delete(b.entries, s.RemoteAddr()) // another may come by the same port
	b.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now.told, e.now.end = at, end
	close(e.over)
}

// opened waits for the session.
func (e *entry) opened() (*server.Session, error) {
	select {
	case s := <-e.session:
		e.session <- s
		return s, nil
	case <-time.After(10 * time.Second):
		return nil, fmt.Errorf("no OnOpen within 10 s")
	}
}

// ended waits for the end, up to so long, and reports whether it came.
func (e *entry) ended(within time.Duration) bool {
	select {
	case <-e.over:
		return true
	case <-time.After(within):
		return false
	}
}

// verdict is what is written down so far.
func (e *entry) verdict() verdict {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

// A stream has things sent at a steady pace: each of them every 100 ms, in 20 phases.
type stream struct {
	mu    sync.Mutex
	turns [streamPhases][]func()
	quit  chan struct{}
	done  sync.WaitGroup
}

const (
	streamPace   = 100 * time.Millisecond
	streamPhases = 20
)

func startStream() *stream {
	s := &stream{quit: make(chan struct{})}
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		tick := time.NewTicker(streamPace / streamPhases)
		defer tick.Stop()
		for i := 0; ; i = (i + 1) % streamPhases {
			select {
			case <-tick.C:
				s.mu.Lock()
				turn := s.turns[i]
				s.mu.Unlock()
				for _, send := range turn {
					send()
				}
			case <-s.quit:
				return
			}
		}
	}()
	return s
}

// add has send called from now on, in a phase that i stands for.
func (s *stream) add(i int, send func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turns[i%streamPhases] = append(s.turns[i%streamPhases], send)
}

func (s *stream) stop() {
	close(s.quit)
	s.done.Wait()
}
