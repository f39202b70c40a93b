//go:build linux

package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// What the model's server is configured with. The deadlines lie apart, so that no act runs into two of them.
var modelConfig = server.Config{
	Policy:           heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second},
	HandshakeTimeout: 2 * time.Second,
	FrameTimeout:     1500 * time.Millisecond,
	CloseTimeout:     time.Second,
	Tick:             100 * time.Millisecond,
	BacklogMax:       256 << 10,
}

// patience is the policy of patient clients, which the longest freeze does not kill.
var patience = heartbeat.Policy{Interval: 4 * time.Second, Timeout: 12 * time.Second}

// An act is something that is done to a client, and what the server may say about it.
type act struct {
	name string
	told []server.Reason // the truth; empty: the client lives on
	why  string          // of more than one reason: why each may be the truth
	kind actKind
	// order is the client's word for it (see model_client_test.go), or the Data that it sends with "say".
	order string
	// weight is how often it is drawn, next to the others of its kind.
	weight int
	// limit is the time from the act to OnClose, when nothing holds the machine up.
	limit time.Duration

	exact   bool // every byte that was sent must have been received, both ways
	drop    bool // its client cannot learn of the end, and is told by the model to let go
	stays   bool // its socket outlives OnClose: the reset comes CloseTimeout later
	extra   bool // done to a connection of its own, which never becomes one of the crowd
	nimble  bool // not done where packets are slow: it has a time of its own
	streams int  // what the server streams to it meanwhile: see rates
	mayLive bool // it need not be told: the client may live as well

	words time.Duration // for how long the client may still be heard
}

type actKind int

const (
	byClient actKind = iota // one client does it
	byServer                // the model has the server do it
	toPack                  // done to a process and all its clients
	toLeg                   // done to a leg and all its clients
	toLoop                  // done to the server, and to nobody
	derived                 // what an act on a group is for some of the group
)

// Reasons and limits that several acts share. A limit is what is promised, and a quarter of a second for two
// cores that serve thousands; what the machine was held up comes on top.
var (
	actSlack    = 250 * time.Millisecond
	actLate     = 2*modelConfig.Tick + actSlack
	atOnce      = actSlack
	pastTimeout = modelConfig.Policy.Timeout + actLate
	pastGrace   = pastTimeout + modelConfig.Policy.Interval // of many at once: they may be given an Interval of grace
	appReason   = server.AppReason
)

var acts = []*act{
	{name: "fin", told: oneOf(server.PeerClosed), order: "fin", weight: 10, limit: atOnce, exact: true},
	{name: "close", told: oneOf(server.PeerClosed, server.PeerReset), order: "close", weight: 6, limit: atOnce,
		why: "a bare close(2): the client's kernel sends a FIN, or an RST if something lay unread"},
	{name: "close, unread", told: oneOf(server.PeerReset), order: "unread", weight: 6, limit: atOnce},
	{name: "rst", told: oneOf(server.PeerReset), order: "rst", weight: 8, limit: atOnce},
	{name: "goodbye, fin", told: oneOf(server.PeerGoodbye), order: "goodbye", weight: 8, limit: atOnce, exact: true},
	{name: "goodbye, close", told: oneOf(server.PeerGoodbye), order: "goodbye-close", weight: 6, limit: atOnce},
	{name: "goodbye, stays", told: oneOf(server.PeerGoodbye), order: "goodbye-stay", weight: 5, limit: atOnce, stays: true},
	{name: "garbage", told: oneOf(server.PeerProtocol), order: "garbage", weight: 5, limit: atOnce},
	{name: "oversize", told: oneOf(server.PeerProtocol), order: "oversize", weight: 4, limit: atOnce},
	{name: "half a frame", told: oneOf(server.PeerStalledFrame), order: "half", weight: 5, limit: modelConfig.FrameTimeout + actLate},
	// A byte that lies unread at the deadline is given time, in all at most the timeout again.
	{name: "trickle", told: oneOf(server.PeerStalledFrame), order: "trickle", weight: 4, limit: 2*modelConfig.FrameTimeout + actLate},
	{name: "trickle, first frame", told: oneOf(server.PeerStalledFrame), order: "dribble", weight: 3,
		limit: 2*modelConfig.FrameTimeout + actLate, extra: true},
	{name: "says nothing", told: oneOf(server.PeerUnready), order: "mute", weight: 5, limit: modelConfig.HandshakeTimeout + actLate, extra: true},
	{name: "deaf, streamed to", told: oneOf(server.PeerSlow), order: "deaf", weight: 3, limit: time.Second + pastTimeout, drop: true, streams: streamSome},
	{name: "deaf, flooded", told: oneOf(server.PeerSlow), order: "deaf", weight: 2, limit: time.Second + pastTimeout, drop: true, streams: streamMuch},
	{name: "deaf and silent, streamed to", told: oneOf(server.PeerSlow, server.PeerFrozen), order: "halt", weight: 3,
		limit: time.Second + pastTimeout, drop: true, streams: streamSome,
		why: "it neither reads nor speaks: its window closes (WriteTimeout runs) while its silence does too, and both are true"},
	{name: "nap", order: "nap", weight: 5, limit: 2 * time.Second, nimble: true},
	{name: "handler: app reason", told: oneOf(appReason + 7), order: "say c", weight: 4, limit: atOnce},
	{name: "handler: flood", told: oneOf(server.PeerFlood), order: "say f", weight: 3, limit: atOnce},
	{name: "handler: error", told: oneOf(server.HandlerFailed), order: "say x", weight: 3, limit: atOnce},
	{name: "handler: panic", told: oneOf(server.HandlerFailed), order: "say p", weight: 3, limit: atOnce},
	{name: "replaced", told: oneOf(server.SessionReplaced), kind: byServer, weight: 5, limit: atOnce},
	{name: "closed by the app", told: oneOf(appReason + 1), kind: byServer, weight: 6, limit: atOnce},
	{name: "closed, does not close", told: oneOf(appReason + 2), kind: byServer, order: "stubborn", weight: 3, limit: modelConfig.CloseTimeout + actLate},

	{name: "kill -9", told: oneOf(server.PeerClosed, server.PeerReset), kind: toPack, limit: atOnce, weight: 3,
		why: "the kernel closes for the process: a FIN, or an RST if something lay unread"},
	{name: "frozen", told: oneOf(server.PeerFrozen), kind: toPack, limit: pastGrace, weight: 3},
	{name: "frozen, patient", kind: derived, limit: 2 * time.Second},
	{name: "frozen, some flooded", told: oneOf(server.PeerFrozen), kind: toPack, limit: pastGrace, weight: 2},
	{name: "frozen, flooded", told: oneOf(server.PeerSlow, server.PeerFrozen), kind: derived, limit: pastGrace, streams: streamMuch,
		why: "a stopped process does not read either: its window closes and what waits passes BacklogMax, before its silence or after"},
	{name: "frozen briefly", kind: toPack, limit: 2 * time.Second, weight: 2},

	{name: "cut", told: oneOf(server.PathDead), kind: toLeg, limit: pastGrace, drop: true},
	{name: "cut, streamed to", told: oneOf(server.PathDead), kind: derived, limit: pastGrace, drop: true},
	{name: "cut, in mid-frame", told: oneOf(server.PathDead), kind: derived, order: "half", limit: pastGrace, drop: true},
	{name: "cut, late in a frame", told: oneOf(server.PathDead, server.PeerStalledFrame), kind: derived, limit: pastGrace, drop: true,
		why: "the machine held the cut up until the frame's deadline was near"},
	{name: "cut briefly", kind: toLeg, limit: 2 * time.Second},
	{name: cutAlmost, told: oneOf(server.PathDead), kind: toLeg, drop: true, mayLive: true,
		limit: 2*modelConfig.Policy.Timeout - modelConfig.Policy.Interval + actLate},
	{name: oneWay, told: oneOf(server.PathDead), kind: toLeg, limit: pastGrace + lastChat, drop: true, words: lastChat},
	{name: ownLinkDown, told: oneOf(server.PathDead, server.PathUnreachable), kind: toLeg, limit: pastGrace, drop: true,
		why: "what cannot be sent is not acknowledged; the kernel may say why"},
	{name: ownRouteGone, told: oneOf(server.PathDead, server.PathUnreachable), kind: toLeg, limit: pastGrace + lastChat, drop: true, words: lastChat,
		why: "what cannot be sent is not acknowledged; the kernel may say why"},
	{name: "stalled briefly", kind: toLeg, limit: 2 * time.Second},

	{name: "server: a loop blocked", kind: toLoop, limit: time.Second},

	{name: "drained", told: oneOf(server.ServerShutdown), kind: derived, limit: 10 * time.Second},
}

// What is done to a leg, other than that its cable is pulled for long or for a moment.
const (
	cutAlmost    = "cut for most of the timeout"
	oneWay       = "what the server sends is lost"
	ownLinkDown  = "the server's link down"
	ownRouteGone = "the server's route gone"
)

// lastChat is for how long after an act on one direction a client may still be heard: it says something after 1.4 s, and then its
// kernel, which is not acknowledged, only sends again.
const lastChat = 1800 * time.Millisecond

func oneOf(r ...server.Reason) []server.Reason { return r }

// actNamed returns an act of the table.
func actNamed(name string) *act {
	i := slices.IndexFunc(acts, func(a *act) bool { return a.name == name })
	return acts[i]
}

func (a *act) lives() bool { return len(a.told) == 0 }

// settles is how long it takes until clients can connect again: the kernel looks at links that come up once a second.
func (a *act) settles() time.Duration {
	if a.name == ownLinkDown {
		return 1200 * time.Millisecond
	}
	return 0
}

// truth names the act's set of reasons.
func (a *act) truth() string {
	if a.lives() {
		return "lives"
	}
	var names []string
	if a.mayLive {
		names = append(names, "lives")
	}
	for _, r := range a.told {
		names = append(names, fmt.Sprintf("%d %v", uint16(r), r))
	}
	return strings.Join(names, " or ")
}

// holds is how long a client that an act is done to is kept from others: until the truth is told, and
// a moment more for the client to be replaced.
func (a *act) holds() time.Duration {
	d := a.limit + 1500*time.Millisecond
	if a.stays {
		d += modelConfig.CloseTimeout
	}
	return d
}

// appliesTo returns what an act on a group is for one of its clients.
func (a *act) appliesTo(tr trait, flooded, inFrame bool) *act {
	switch a.name {
	case "frozen", "frozen, some flooded":
		if tr == patient {
			return actNamed("frozen, patient")
		}
		if flooded {
			return actNamed("frozen, flooded")
		}
		return actNamed("frozen")
	case "cut":
		switch {
		case inFrame:
			return actNamed("cut, in mid-frame")
		case tr == streamed:
			return actNamed("cut, streamed to")
		}
	}
	return a
}

// A trait is what a client does while nothing is done to it.
type trait int

const (
	quiet    trait = iota // answers Pings
	chatty                // sends messages and is answered
	streamed              // is sent messages all the time
	pinger                // sends Pings of its own
	lazy                  // takes its time before it reads
	patient               // has a long policy
	traits
)

var traitNames = [traits]string{"quiet", "chatty", "streamed", "pinger", "lazy", "patient"}

func (t trait) String() string { return traitNames[t] }

// rates are what the server streams to one session: every so many ticks so many messages of so many bytes.
var rates = [...]struct{ ticks, messages, bytes int }{
	streamLittle: {5, 1, 300}, streamSome: {1, 1, 16 << 10}, streamMuch: {1, 2, 60 << 10}}

const (
	streamNothing = iota
	streamLittle
	streamSome
	streamMuch
)
