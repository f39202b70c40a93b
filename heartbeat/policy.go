package heartbeat

import (
	"fmt"
	"time"
)

// A Verdict is what a Judge makes of a silence.
type Verdict uint8

const (
	Alive   Verdict = iota // nothing to be done; look again later
	Ask                    // send a Ping, so that a peer with nothing to say has something to answer
	Suspect                // tell the application, and send a Ping
	Dead                   // end the session, if the kernel knows nothing better
)

// String returns the verdict's name in lower case.
func (v Verdict) String() string {
	switch v {
	case Alive:
		return "alive"
	case Ask:
		return "ask"
	case Suspect:
		return "suspect"
	case Dead:
		return "dead"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// Evidence is what is known about a session, in plain numbers. Only inbound bytes count as life:
// nothing that was sent to the peer shortens Silence.
type Evidence struct {
	Policy    Policy        // the session's own policy, defaults filled in
	Silence   time.Duration // since the last inbound byte: never more than the truth
	Grain     time.Duration // how much more than Silence the truth may be
	Pings     int           // Pings handed to the kernel since the last inbound byte
	PingAge   time.Duration // since the first of those; of a suspect since it arrived, as far as is known; meaningless if Pings is 0
	LastPing  time.Duration // since the last of those; likewise
	Suspected bool          // the application has been told
	RTT       time.Duration // smoothed Ping round trip; 0: never measured
	Seed      uint32        // constant for a session, different between sessions: for jitter
	Path      Path          // what the kernel knows of the way to the peer
}

// A Judge decides what a silence means, and after how long to look again (at least 1 ms is taken).
// It is called on the session's event loop and must not block; one Judge serves all of them.
type Judge interface {
	Judge(e Evidence) (Verdict, time.Duration)
}

// The defaults of a Policy whose fields are zero.
const (
	DefaultInterval  = 5 * time.Second
	DefaultIntervals = 3 // Timeout, in intervals
	DefaultWarning   = 600 * time.Millisecond
)

// A Policy is the default Judge. A peer is asked (Ping) when it has been silent for a jittered half
// to three quarters of Interval, is suspect at Interval, and dead at Timeout. One that the application
// is sending to is suspect as soon as the kernel finds that nothing gets through (Warning): seconds
// before any timeout, however long Interval is.
//
// A peer is convicted only of not answering: at least two Pings must have been handed to the
// kernel, the first of them at least Timeout-Interval ago. So a server that was itself away (stopped,
// paused, blocked) asks first and convicts nobody for the time in which nobody was asked. For the
// same reason a peer is suspected of silence only a quarter of Interval after it was asked, and one
// whose round trip is longer than a fifth of Interval only after five quarters of that, up to Interval
// and to half of what is left until Timeout.
type Policy struct {
	// Interval is the silence at which a peer becomes suspect. If zero, it is 5 seconds.
	Interval time.Duration
	// Timeout is the silence at which a peer is dead. If zero, it is three times Interval.
	Timeout time.Duration
	// Warning is for how long nothing may come back, acknowledgement or data, while the application's
	// bytes are on their way: then the peer is suspect. On a path with a long round trip it is longer:
	// see Path.Stuck. If zero, it is 600 ms; if negative, the kernel is not asked.
	Warning time.Duration
}

// OrDefault returns p with zero fields replaced by their defaults.
func (p Policy) OrDefault() Policy {
	if p.Interval == 0 {
		p.Interval = DefaultInterval
		if p.Timeout > 0 {
			p.Interval = min(p.Interval, p.Timeout/DefaultIntervals)
		}
	}
	if p.Timeout == 0 {
		p.Timeout = DefaultIntervals * p.Interval
	}
	if p.Warning == 0 {
		p.Warning = DefaultWarning
	}
	return p
}

// Validate tells what is wrong with p, naming field and value; zero fields are right.
func (p Policy) Validate() error {
	if p.Interval < 0 {
		return fmt.Errorf("heartbeat: Policy.Interval: %v is negative", p.Interval)
	}
	if p.Timeout < 0 {
		return fmt.Errorf("heartbeat: Policy.Timeout: %v is negative", p.Timeout)
	}
	if d := p.OrDefault(); d.Timeout <= d.Interval {
		return fmt.Errorf("heartbeat: Policy.Timeout: %v is not longer than Interval, %v", d.Timeout, d.Interval)
	}
	return nil
}

// Judge implements Judge by p's own numbers.
func (p Policy) Judge(e Evidence) (Verdict, time.Duration) {
	p = p.OrDefault()
	warned := !e.Suspected && p.Warning >= 0 && e.Path.Stuck(p.Warning)
	if e.Pings == 0 {
		if warned {
			return Suspect, p.Interval / 4
		}
		// Asking a little early harms nobody, so the longest possible silence counts here.
		if wait := p.askAfter(e.Seed) - (e.Silence + e.Grain); wait > 0 {
			return Alive, wait
		}
		return Ask, max(p.Interval-e.Silence, p.Interval/4)
	}
	toDead := max(p.Timeout-e.Silence, p.Timeout-p.Interval-e.PingAge)
	if e.Pings >= 2 && toDead <= 0 {
		return Dead, 0
	}
	if !e.Suspected {
		answer := max(p.Interval/4, min(e.RTT*5/4, p.Interval, (p.Timeout-p.Interval)/2))
		if wait := max(p.Interval-e.Silence, answer-e.PingAge); wait > 0 && !warned {
			return Alive, wait
		}
		return Suspect, nextLook(p.Interval, toDead)
	}
	pace := p.Interval
	if e.Pings < 2 {
		pace /= 4
	}
	if toPing := pace - e.LastPing; toPing > 0 {
		return Alive, nextLook(toPing, toDead)
	}
	return Ask, nextLook(p.Interval, toDead)
}

// nextLook is the nearer of the next Ping and the end; an end that is overdue and only waits for its
// second Ping is looked at when that Ping has had time to be answered.
func nextLook(toPing, toDead time.Duration) time.Duration {
	if toDead <= 0 {
		return toPing / 4
	}
	return min(toPing, toDead)
}

// askAfter is the silence at which a session with this seed is asked: Interval/2 to Interval*3/4, so
// that sessions opened in the same instant do not beat in the same instant.
func (p Policy) askAfter(seed uint32) time.Duration {
	const knuth = 2654435761 // 2^32 / golden ratio: neighbouring seeds land far apart
	spread := uint64(p.Interval / 4)
	return p.Interval/2 + time.Duration(uint64(seed*knuth)*spread>>32)
}
