package main

import (
	"errors"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// surrendered is a reason of this game's own. An application has all numbers from server.AppReason up.
const surrendered = server.AppReason + 7

// arena is the game. Its methods run on the event loops of the server: none of them blocks, and those
// of one session never run at the same time. It embeds server.Base, which does nothing, so that a game
// needs only the methods it cares for; this one cares for all five.
type arena struct {
	server.Base
	opened chan *seat // players that have come
}

// seat is what the arena keeps for a player; it travels with the session as its Value.
type seat struct {
	session *server.Session
	events  chan event
}

// event is something that the server has told the game about a player.
type event struct {
	what string // "message", "suspect", "recovered" or "closed"
	at   time.Time
	text string             // of a message
	end  *server.CloseError // of closed
}

func newArena() *arena { return &arena{opened: make(chan *seat, 64)} }

// OnOpen gives the player a seat. An error would refuse it.
func (a *arena) OnOpen(s *server.Session) error {
	p := &seat{session: s, events: make(chan event, 64)}
	s.SetValue(p)
	select {
	case a.opened <- p:
		return nil
	default:
		return errors.New("nobody is watching")
	}
}

// OnMessage plays. What it returns ends the session: a Reason is told as it is, and so the player
// learns its number; any other error, and a panic, is server.HandlerFailed, for this session alone.
func (a *arena) OnMessage(s *server.Session, payload []byte) error {
	text := string(payload) // a copy: payload is the library's, and valid only until OnMessage returns
	seatOf(s).tell(event{what: "message", text: text})
	switch text {
	case "surrender":
		return surrendered
	case "panic":
		panic("the game has a bug")
	case "stream":
		for range 8 {
			if err := s.Send(landscape); err != nil {
				return err
			}
		}
		stream(s)
		return nil
	default:
		return s.Send(payload)
	}
}

// OnSuspect is the moment to freeze the avatar, or to let the computer play: the player may be gone.
func (a *arena) OnSuspect(s *server.Session, why server.Suspicion) {
	seatOf(s).tell(event{what: "suspect", text: why.String()})
}

// OnRecover gives the avatar back: it was only a hiccup.
func (a *arena) OnRecover(s *server.Session) {
	seatOf(s).tell(event{what: "recovered"})
}

// OnClose is called once for each OnOpen, with the reason. end is the game's to keep.
func (a *arena) OnClose(s *server.Session, end *server.CloseError) {
	seatOf(s).tell(event{what: "closed", end: end})
}

func seatOf(s *server.Session) *seat { return s.Value().(*seat) }

// tell passes an event on to whoever watches the seat; it must not block the event loop.
func (p *seat) tell(e event) {
	e.at = time.Now()
	select {
	case p.events <- e:
	default:
	}
}

var landscape = make([]byte, 60<<10)

// stream sends the player a piece of landscape every 20 ms, for as long as the session lives. After calls back on the session's own event loop: nothing here needs a goroutine or a lock.
func stream(s *server.Session) {
	if err := s.Send(landscape); err == nil {
		s.After(20*time.Millisecond, func() { stream(s) })
	}
}
