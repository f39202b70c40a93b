package server

import "fmt"

// A Handler is the application. All its methods for one session are called on that session's event
// loop, one at a time; sessions of different loops run at the same time. A method that blocks holds
// up every session of its loop: move blocking work to a goroutine and come back with Session.Post.
//
// A panic in a method ends that session with HandlerFailed and is logged with its stack; the server
// goes on.
type Handler interface {
	// OnOpen is called once for each connection that becomes a session. An error refuses it: a
	// Reason that Session.Close would take is the reason (wrapped in another error, that one's text is
	// told to the peer), any other error but an *EndedError is HandlerFailed (and its text is not).
	// OnClose follows in either case.
	OnOpen(s *Session) error
	// OnMessage is called for each Data frame. payload is the library's: it is valid until OnMessage
	// returns, copy it to keep it. Returning an error ends the session, as in OnOpen.
	OnMessage(s *Session, payload []byte) error
	// OnSuspect is called when the peer may be gone, before that is certain. OnRecover or OnClose
	// follows.
	OnSuspect(s *Session, why Suspicion)
	// OnRecover is called when a suspect peer has been heard from; if the path was suspected
	// (SuspectPath), when something that it was sent has arrived, too.
	OnRecover(s *Session)
	// OnClose is called exactly once for each OnOpen, as the last call for the session. end is the
	// application's to keep. Sending is over; the session's ID and Value remain.
	OnClose(s *Session, end *CloseError)
}

// Base does nothing, so that a Handler that embeds it need only have the methods it cares for.
type Base struct{}

// OnOpen accepts.
func (Base) OnOpen(*Session) error { return nil }

// OnMessage ignores the message.
func (Base) OnMessage(*Session, []byte) error { return nil }

// OnSuspect does nothing.
func (Base) OnSuspect(*Session, Suspicion) {}

// OnRecover does nothing.
func (Base) OnRecover(*Session) {}

// OnClose does nothing.
func (Base) OnClose(*Session, *CloseError) {}

// A Suspicion says why a peer is suspect.
type Suspicion uint8

const (
	// SuspectSilence: nothing was heard for the policy's Interval, although the peer was asked.
	SuspectSilence Suspicion = 1
	// SuspectPath: what the application sends does not get through: the kernel sends it again and
	// hears nothing (Policy.Warning). Linux only.
	SuspectPath Suspicion = 2
)

// String returns the suspicion's name for logs and metrics; that of 0 is "none".
func (w Suspicion) String() string {
	switch w {
	case 0:
		return "none"
	case SuspectSilence:
		return "silence"
	case SuspectPath:
		return "path"
	}
	return fmt.Sprintf("suspicion(%d)", uint8(w))
}
