//go:build linux

package bench

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A linkReading is what can be known at one moment about a connection that is streamed to.
type linkReading struct {
	kernel  *unix.TCPInfo
	silence time.Duration // since the last segment of the peer, by the kernel
	oldest  time.Duration // since the first byte that is not acknowledged was written; 0: none
	stuck   time.Duration // since the last progress of acknowledgements, but not more than oldest
}

func (r *linkReading) srtt() time.Duration {
	return time.Duration(r.kernel.Rtt) * time.Microsecond
}

// rto is the retransmission timeout before any backoff: the RTT, and four times its deviation or
// 200 ms (RFC 6298, and TCP_RTO_MIN of Linux).
func (r *linkReading) rto() time.Duration {
	return time.Duration(r.kernel.Rto) * time.Microsecond >> min(r.kernel.Backoff, 20)
}

// waiting tells that a peer that would take it has not acknowledged what was sent.
func (r *linkReading) waiting() bool { return r.kernel.Unacked > 0 && r.kernel.Snd_wnd > 0 }

// retransmitting is the rule A: waiting, and the kernel sends it again.
func (r *linkReading) retransmitting() bool { return r.waiting() && r.kernel.Retransmits >= 1 }

// quiet is for how long the peer, though it had something to acknowledge, was not heard.
func (r *linkReading) quiet() time.Duration { return min(r.silence, r.oldest) }

// A linkRule tells a cut path by a reading.
type linkRule struct {
	name string
	cut  func(r *linkReading) bool
}

// linkDefault is the rule of the server's default policy.
const linkDefault = "policy"

// policy is what the default policy makes of the reading.
func (r *linkReading) policy() bool {
	k := r.kernel
	return heartbeat.Path{Known: true, Unacked: k.Unacked, Retransmits: uint32(k.Retransmits), Window: k.Snd_wnd,
		Quiet: r.quiet(), RTT: r.srtt(), RTO: r.rto()}.Stuck(heartbeat.DefaultWarning)
}

// linkRules are the policy's rule, and candidates for it. A and B look at retransmissions alone. The number of the others is W in
// milliseconds:
//
//	C: A, and for W, or 4 RTT if longer, nothing was heard and the first unacknowledged byte has waited
//	D: C with 2 RTT
//	E: C without the wait of that byte
//	F: A, and acknowledgements have made no progress for as long, whatever else was heard
//	G: C without retransmissions
//	H: G with 2 RTO, if that is longer
//	I: H with 2 s for RTT and RTO, if that is shorter
var linkRules = func() []linkRule {
	rules := []linkRule{
		{linkDefault, (*linkReading).policy},
		{"A", (*linkReading).retransmitting},
		{"B", func(r *linkReading) bool { return r.waiting() && r.kernel.Retransmits >= 2 }},
	}
	add := func(family string, times []int, cut func(r *linkReading, w time.Duration) bool) {
		for _, ms := range times {
			w := time.Duration(ms) * time.Millisecond
			rules = append(rules, linkRule{fmt.Sprint(family, ms), func(r *linkReading) bool { return cut(r, w) }})
		}
	}
	times := []int{300, 400, 500, 600, 700, 750, 800}
	add("C", times, func(r *linkReading, w time.Duration) bool {
		return r.retransmitting() && r.quiet() >= max(w, 4*r.srtt())
	})
	add("D", []int{600}, func(r *linkReading, w time.Duration) bool {
		return r.retransmitting() && r.quiet() >= max(w, 2*r.srtt())
	})
	add("E", []int{600}, func(r *linkReading, w time.Duration) bool {
		return r.retransmitting() && r.silence >= max(w, 4*r.srtt())
	})
	add("F", []int{600}, func(r *linkReading, w time.Duration) bool {
		return r.retransmitting() && r.stuck >= max(w, 4*r.srtt())
	})
	add("G", times, func(r *linkReading, w time.Duration) bool {
		return r.waiting() && r.quiet() >= max(w, 4*r.srtt())
	})
	add("H", times, func(r *linkReading, w time.Duration) bool {
		return r.waiting() && r.quiet() >= max(w, 4*r.srtt(), 2*r.rto())
	})
	add("I", times, func(r *linkReading, w time.Duration) bool {
		return r.waiting() && r.quiet() >= max(w, min(max(4*r.srtt(), 2*r.rto()), 2*time.Second))
	})
	return rules
}()
