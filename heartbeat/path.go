package heartbeat

import (
	"fmt"
	"time"
)

// A Path is what the kernel knows of the way to the peer, from Linux's TCP_INFO and SIOCOUTQ. It is
// asked for when nothing has come back for about Policy.Warning from a peer that the application is
// sending to, and again before a suspicion, a conviction or any other blame; otherwise Known is false
// and the rest is zero.
type Path struct {
	Known         bool
	Outstanding   uint64        // bytes that the kernel has been given and the peer has not acknowledged
	Still         time.Duration // for how long none of them has been acknowledged
	Unacked       uint32        // segments sent and not acknowledged
	NotSent       uint32        // bytes never sent; 0 also on kernels before 4.6
	Retransmits   uint32        // how often the oldest segment has been sent again, unanswered
	Backoff       uint32        // how often the timeout of a segment or a probe has been doubled
	Probes        uint32        // unanswered probes of a closed window
	Window        uint32        // bytes that the peer is ready to take
	WindowUnknown bool          // kernels before 5.4 do not tell the window: Window is 0 then
	MSS           uint32        // bytes of a full segment
	Quiet         time.Duration // how long something has been on its way with no acknowledgement and no data coming back
	LastSent      time.Duration // since a segment with data was last sent
	LastAck       time.Duration // since an acknowledgement last came, also one of nothing new
	RTT           time.Duration // smoothed
	RTO           time.Duration // after which the kernel first sends again; 0: not known
}

// A Delivery answers the one question that comes before any blame: does the path take what we send?
type Delivery uint8

// The answers.
const (
	DeliveryUnknown Delivery = iota // the kernel does not tell, or it is too early to tell
	Delivering                      // everything has been acknowledged, or some of it lately
	WindowClosed                    // the peer's kernel answers, but has no room for more
	Undelivered                     // the peer's kernel is not reached
)

// String returns the answer's name in lower case.
func (d Delivery) String() string {
	switch d {
	case DeliveryUnknown:
		return "unknown"
	case Delivering:
		return "delivering"
	case WindowClosed:
		return "window closed"
	case Undelivered:
		return "undelivered"
	}
	return fmt.Sprintf("delivery(%d)", uint8(d))
}

// PatienceMax is the longest Path.Patience: what an outage has held up makes the round trip of a path that comes
// and goes look as long as the outage.
const PatienceMax = 2 * time.Second

// Patience is how long an acknowledgement may take on this path before its absence means something:
// four round trips and two of the kernel's timeouts, so that what was lost once has been sent again
// and answered, and at most 2 s.
func (p Path) Patience() time.Duration { return min(max(4*p.RTT, 2*p.RTO), PatienceMax) }

// Stuck reports whether what was sent does not get through, as early as that can be suspected: for at
// least quiet, and for at least Patience, nothing has come back, although the peer has not closed its
// window.
func (p Path) Stuck(quiet time.Duration) bool {
	open := p.Window > 0 && !p.closed() || p.WindowUnknown && p.Retransmits > 0
	return p.Known && (p.Unacked > 0 || p.NotSent > 0) && open && p.Quiet >= max(quiet, p.Patience())
}

// Delivery reports whether the path takes what we send. Progress is acknowledged bytes and nothing
// else: LastAck also moves with segments that acknowledge nothing new, such as a talking peer's data.
//
// Bytes that stand still prove nothing alone, because the window may have been closed until now. The
// path has lost them if its window is open, they have stood still for Patience, and
//   - nothing came back for as long, although something was sent since, or
//   - two retransmissions were not answered (on a path that loses packets one is normal), or
//   - none of them is on its way: they cannot even be sent.
//
// A closed window is probed. Two unanswered tries mean that the peer's kernel is not reached, one
// proves nothing yet.
func (p Path) Delivery() Delivery {
	switch {
	case !p.Known:
		return DeliveryUnknown
	case p.Outstanding == 0:
		return Delivering
	case p.closed():
		switch p.unanswered() {
		case 0:
			return WindowClosed
		case 1:
			return DeliveryUnknown
		}
		return Undelivered
	case p.Still < p.RTO:
		return Delivering
	case p.Still < p.Patience():
		return DeliveryUnknown
	case p.WindowUnknown && p.Retransmits < 2: // it may be closed
	case p.LastAck >= p.Patience() && p.LastSent < p.LastAck, p.Retransmits >= 2, p.Unacked == 0:
		return Undelivered
	}
	return DeliveryUnknown
}

// closed reports whether the peer's window has no room: for anything, or, with nothing on its way, for
// a segment as large as what is to be sent (RFC 9293, 3.8.6.2.1). Where the kernel does not tell the
// window, it shows by what is done about it: probes only, or tries that Linux does not count as
// retransmissions (tcp_retransmit_timer).
func (p Path) closed() bool {
	if p.WindowUnknown {
		return p.Still >= PatienceMax && p.Retransmits == 0 && (p.Unacked == 0 || p.Backoff > 0)
	}
	return p.Window == 0 || p.Unacked == 0 && p.Window < min(p.MSS, p.NotSent)
}

// probePause is how soon after another a Linux kernel leaves a probe unanswered (500 ms,
// tcp_invalid_ratelimit in Documentation/networking/ip-sysctl.rst), and something on top.
const probePause = 600 * time.Millisecond

// probeSilence is for how long nothing may come back before two unanswered tries mean anything: a path
// that loses packets loses two in a row.
const probeSilence = time.Second

// unanswered returns how many tries to reach the peer behind a closed window have not been answered;
// 2 stands for two and more. If the window was closed over segments on their way, those are sent
// again instead of probes, at twice the distance each time, and counted only by Backoff; the last of
// those tries counts when there was time to answer it.
func (p Path) unanswered() (tries uint32) {
	gap := p.RTO << min(p.Backoff, 31) >> 1 // between the last two tries
	switch sentAfterAck := p.LastAck - p.LastSent; {
	case p.Unacked == 0 && p.Probes == 1 && max(gap, p.RTO) <= probePause:
		return 0 // its kernel may have kept quiet
	case p.Unacked == 0:
		tries = p.Probes
	case p.Backoff == 0 || sentAfterAck <= 0:
		return 0
	default:
		if p.LastSent > 4*p.RTT {
			tries++
		}
		if p.Backoff >= 2 && sentAfterAck > gap {
			tries++
		}
	}
	if p.LastAck < probeSilence {
		return min(tries, 1)
	}
	return min(tries, 2)
}
