package server

import (
	"fmt"
	"math"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A Rate says how much a peer may send. What is beyond it ends the session with PeerFlood; nothing is held back,
// because a peer's messages are read as they come. The zero Rate has no limit.
//
// Each limit is a bucket that holds a burst and fills at the rate: who never sends more than a burst and,
// from then on, the rate, is within it. It is kept to the grain of the loop's clock, in the peer's favour: what has come within some
// three ticks of Config.Tick counts as having come evenly, and so does all that came while the loop, or the
// process, was away and could not read.
type Rate struct {
	// Messages is how many frames may come in a second. All types count, but for a Pong that answers the
	// server's newest Ping. If zero, there is no limit.
	Messages int
	// MessageBurst is how many of them may come at once. A network that was away hands over at once
	// what gathered meanwhile; so, if zero, it is as many as may come in Config.Policy.Timeout, or in 15 s if that is shorter.
	MessageBurst int
	// Bytes is how many bytes may come in a second, frame headers included. If zero, there is no limit.
	Bytes int
	// ByteBurst is how many of them may come at once, at least one frame of Config.PayloadMax. If zero, it
	// is found as MessageBurst is.
	ByteBurst int
}

// rateMax is the largest number in a Rate; burstTime is how long a default burst gathers at most.
const (
	rateMax   = math.MaxInt32
	burstTime = heartbeat.DefaultIntervals * heartbeat.DefaultInterval
)

// withDefaults checks r and fills its bursts in.
func (r Rate) withDefaults(where string, cfg *Config) (Rate, error) {
	frame := cfg.PayloadMax + codec.HeaderSize
	for _, n := range []struct {
		field       string
		rate, burst *int
		least       int // of the burst
	}{
		{"Message", &r.Messages, &r.MessageBurst, 1},
		{"Byte", &r.Bytes, &r.ByteBurst, frame},
	} {
		if *n.rate < 0 || *n.rate > rateMax {
			return r, fmt.Errorf("server: %s.%ss: %d is not between 0 and %d", where, n.field, *n.rate, rateMax)
		}
		if *n.burst < 0 || *n.burst > rateMax {
			return r, fmt.Errorf("server: %s.%sBurst: %d is not between 0 and %d", where, n.field, *n.burst, rateMax)
		}
		if *n.rate == 0 && *n.burst != 0 {
			return r, fmt.Errorf("server: %s.%sBurst: %d, but there is no limit without %s.%ss", where, n.field, *n.burst, where, n.field)
		}
		if *n.burst != 0 && *n.burst < n.least {
			return r, fmt.Errorf("server: %s.%sBurst: %d is too small for one frame of PayloadMax, %d", where, n.field, *n.burst, n.least)
		}
		if *n.rate != 0 && *n.burst == 0 {
			gathered := float64(*n.rate) * min(cfg.Policy.Timeout, burstTime).Seconds()
			*n.burst = max(int(min(gathered, rateMax)), n.least)
		}
	}
	return r, nil
}

// SetRate gives the session a rate of its own, from now on, with a whole burst to begin with: a client that has logged in may be
// trusted with more than a stranger, and one that uploads a picture needs more for a while. The zero Rate lifts the limits. Zero bursts are found
// as in Config.Rate. After the end it returns an *EndedError.
func (s *Session) SetRate(r Rate) error {
	r, err := r.withDefaults("SetRate: Rate", &s.c.srv.cfg)
	if err != nil {
		return err
	}
	l := newLimits(r, s.c.srv.cfg.Tick)
	return s.Post(func() { s.c.setLimits(l) })
}

// limits are a Rate in the units of a meter. Many sessions share one.
type limits struct {
	Rate
	messages, bytes limit
}

// limit is one limit of a Rate.
type limit struct {
	rate int64 // millionths in a microsecond; 0: no limit
	full int64 // millionths that a bucket holds
}

// newLimits returns nil for the zero Rate.
func newLimits(r Rate, tick time.Duration) *limits {
	if r == (Rate{}) {
		return nil
	}
	// The clock is a tick too slow at worst. A bucket that holds a tick's worth more never holds less than it should.
	full := func(rate, burst int) int64 { return int64(burst)*million + int64(rate)*micros(tick) }
	return &limits{Rate: r,
		messages: limit{int64(r.Messages), full(r.Messages, r.MessageBurst)},
		bytes:    limit{int64(r.Bytes), full(r.Bytes, r.ByteBurst)},
	}
}
