//go:build linux

package bench

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// telling is one thing that the server told its application.
type telling struct {
	kind tellingKind
	at   time.Time
	s    *server.Session
	why  server.Suspicion
	end  *server.CloseError
}

type tellingKind string

const (
	toldOpen    tellingKind = "OnOpen"
	toldSuspect tellingKind = "OnSuspect"
	toldRecover tellingKind = "OnRecover"
	toldClose   tellingKind = "OnClose"
)

// witness is the application: it serves its clients, and passes on what it is told.
type witness struct {
	ready chan struct{} // something has been told

	mu    sync.Mutex // guards the rest
	told  []telling
	users map[string]*server.Session
}

func newWitness() *witness {
	return &witness{ready: make(chan struct{}, 1), users: map[string]*server.Session{}}
}

func (w *witness) tell(t telling) {
	t.at = time.Now()
	w.mu.Lock()
	w.told = append(w.told, t)
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// take returns what was told since it was last asked.
func (w *witness) take() []telling {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.told
	w.told = nil
	return t
}

// seat is what the application keeps with a session.
type seat struct {
	rate   atomic.Int32 // of rates
	armed  bool         // the session's loop's
	buffer []byte
	user   string
}

func (w *witness) OnOpen(s *server.Session) error {
	s.SetValue(&seat{})
	w.tell(telling{kind: toldOpen, s: s})
	return nil
}

func (w *witness) OnSuspect(s *server.Session, why server.Suspicion) {
	w.tell(telling{kind: toldSuspect, s: s, why: why})
}

func (w *witness) OnRecover(s *server.Session) { w.tell(telling{kind: toldRecover, s: s}) }

func (w *witness) OnClose(s *server.Session, end *server.CloseError) {
	w.tell(telling{kind: toldClose, s: s, end: end})
	w.mu.Lock()
	defer w.mu.Unlock()
	if user := s.Value().(*seat).user; w.users[user] == s {
		delete(w.users, user)
	}
}

// OnMessage serves a client; the first byte says what it wants.
func (w *witness) OnMessage(s *server.Session, p []byte) error {
	switch p[0] {
	case 'h': // hello
		return w.welcome(s, strings.Fields(string(p)))
	case 'e':
		return s.Send(p)
	case 'b':
		return errors.Join(s.Send(make([]byte, 600)), s.Send(make([]byte, 600)))
	case 'c':
		return fmt.Errorf("surrender: %w", appReason+7)
	case 'f':
		return server.PeerFlood
	case 'x':
		return errors.New("the handler's error")
	case 'p':
		panic("the handler's panic")
	}
	return nil
}

// welcome logs a client in, in the place of whoever was there.
func (w *witness) welcome(s *server.Session, hello []string) error {
	seat := s.Value().(*seat)
	seat.user = hello[2]
	w.mu.Lock()
	before := w.users[seat.user]
	w.users[seat.user] = s
	w.mu.Unlock()
	if before != nil {
		_ = before.Close(server.SessionReplaced, "from elsewhere")
	}
	switch hello[1] {
	case streamed.String():
		seat.stream(s, streamLittle)
	case patient.String():
		if err := s.SetPolicy(patience); err != nil {
			return err
		}
	}
	return s.Send([]byte("w"))
}

// stream sets what is sent to s from now on, and has it sent. It is called on the session's loop.
func (seat *seat) stream(s *server.Session, rate int32) {
	seat.rate.Store(rate)
	if !seat.armed && rate != streamNothing {
		seat.armed = true
		seat.pour(s)
	}
}

// pour sends what is due at its rate, and comes back.
func (seat *seat) pour(s *server.Session) {
	r := rates[seat.rate.Load()]
	if len(seat.buffer) < r.bytes {
		seat.buffer = make([]byte, r.bytes)
	}
	for range r.messages {
		_ = s.Send(seat.buffer[:r.bytes]) // that it does not read is for the server to find out
	}
	s.After(time.Duration(r.ticks)*modelConfig.Tick, func() { seat.pour(s) })
}
