package server

import (
	"net"
	"strconv"
)

// A Reason says why a session ended. It is a number with a stable name, part of the wire format
// (in a Goodbye) and of this API, and it is an error: a Handler returns one to end the session with
// it, and errors.Is finds it in the *CloseError that OnClose is given.
//
// The range says who ended it: 1xx the peer, 2xx silence or the network, 3xx the server, 1000 and
// up the application, which may use those numbers as it likes.
type Reason uint16

// The reasons. README.md has the table with a sentence on each.
const (
	PeerClosed       Reason = 100 // FIN, in good order
	PeerGoodbye      Reason = 101 // the peer's Goodbye frame came first
	PeerReset        Reason = 102 // RST
	PeerProtocol     Reason = 103 // bytes that are no frame, or a frame that is not allowed now
	PeerSlow         Reason = 104 // it does not read what is sent to it
	PeerFlood        Reason = 105 // above its message or byte rate
	PeerUnready      Reason = 106 // no complete first frame before the handshake deadline
	PeerStalledFrame Reason = 107 // a frame begun and not finished before the frame deadline

	HeartbeatLost   Reason = 200 // silent past the timeout, and nothing tells frozen from dead
	PeerFrozen      Reason = 201 // silent past the timeout, but its kernel still acknowledges
	PathDead        Reason = 202 // silent past the timeout and not acknowledging
	PathUnreachable Reason = 203 // the network says that there is no way to it

	ServerClosed    Reason = 300 // the application closed it
	ServerShutdown  Reason = 301 // drain or shutdown
	SessionReplaced Reason = 302 // the same user came back on a new connection
	HandlerFailed   Reason = 303 // the handler returned another error, or panicked
	ServerFull      Reason = 304 // refused at the front door: no session, no OnOpen, no OnClose
	Internal        Reason = 399 // an errno that no rule names: a bug report, never a default

	// AppReason is the first of the application's own reasons.
	AppReason Reason = 1000
)

var reasonNames = map[Reason]string{
	PeerClosed: "peer_closed", PeerGoodbye: "peer_goodbye", PeerReset: "peer_reset", PeerProtocol: "peer_protocol",
	PeerSlow: "peer_slow", PeerFlood: "peer_flood", PeerUnready: "peer_unready", PeerStalledFrame: "peer_stalled_frame",
	HeartbeatLost: "heartbeat_lost", PeerFrozen: "peer_frozen", PathDead: "path_dead", PathUnreachable: "path_unreachable",
	ServerClosed: "server_closed", ServerShutdown: "server_shutdown", SessionReplaced: "session_replaced",
	HandlerFailed: "handler_failed", ServerFull: "server_full", Internal: "internal",
}

// String returns the stable snake_case name for logs and metrics: "peer_closed", and "app_1007" for
// a reason of the application's.
func (r Reason) String() string {
	if name, ok := reasonNames[r]; ok {
		return name
	}
	if r >= AppReason {
		return "app_" + strconv.Itoa(int(r))
	}
	return "reason_" + strconv.Itoa(int(r))
}

// Error implements error; it is the name.
func (r Reason) Error() string { return r.String() }

// Is makes every Reason, and so every CloseError, an error that is net.ErrClosed.
func (r Reason) Is(target error) bool { return target == net.ErrClosed }

// MarshalText makes a reason its name in JSON and logs.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Known tells whether r is one of the numbers above or the application's own.
func (r Reason) Known() bool {
	_, ok := reasonNames[r]
	return ok || r >= AppReason
}

// given tells whether an application may end a session with r: what only the library can know, a FIN or
// a silence, is not the application's to say.
func (r Reason) given() bool {
	switch r {
	case PeerProtocol, PeerSlow, PeerFlood, PeerUnready, PeerStalledFrame,
		ServerClosed, ServerShutdown, SessionReplaced, HandlerFailed:
		return true
	}
	return r >= AppReason
}

// abrupt tells whether a session with this end is reset at once, after a Goodbye if one can be sent
// without waiting. The others are let go in good order: flush, Goodbye, the peer's FIN.
func (r Reason) abrupt() bool { return r < ServerClosed || r == ServerFull || r == Internal }

// told tells whether the peer is there to hear a Goodbye that explains the reset.
func (r Reason) told() bool {
	switch r {
	case PeerProtocol, PeerSlow, PeerFlood, PeerUnready, PeerStalledFrame, PeerFrozen, ServerFull:
		return true
	}
	return !r.abrupt()
}
