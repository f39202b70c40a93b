package server

import (
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A Config sets the limits of a Server. The zero value is right for most games. New checks it once;
// nothing is clipped silently.
type Config struct {
	// Policy says how long a peer may be silent. If zero, it is asked within 5 s and dead after 15 s.
	// TCP keepalive and TCP_USER_TIMEOUT of every connection are derived from it.
	Policy heartbeat.Policy
	// Judge decides on silences in Policy's place. If nil, each session's Policy is its own judge.
	Judge heartbeat.Judge

	// HandshakeTimeout is the time from OnOpen to the first complete frame. If zero, it is 10 s.
	HandshakeTimeout time.Duration
	// FrameTimeout is the time from a frame's first byte to its last. If zero, it is 10 s.
	FrameTimeout time.Duration
	// WriteTimeout is how long the peer may take none of what waits for it. If zero, it is Policy.Timeout.
	WriteTimeout time.Duration
	// CloseTimeout is how long the server waits for the peer's FIN once a Goodbye has left or has
	// come: the peer's kernel has everything by then, and until then WriteTimeout rules. It is also how long a process may take
	// to read what its kernel holds, where a reset makes the kernel throw that away; Linux keeps it. If zero, it is 3 s.
	CloseTimeout time.Duration
	// RetrySpread is the time over which the clients that Drain or Close sends away are asked to come
	// back: the text of each Goodbye begins with a random wait below it (PROTOCOL.md, 2.4). If zero, it is
	// 1 ms for each session, so that 1,000 clients a second come. If negative, no wait is told.
	RetrySpread time.Duration
	// Tick is the grain of the clock that drives all of these: they are told at most two ticks (and, for
	// a silence, a tick of the kernel's clock, 1 to 10 ms) late, never early. A loop that has more to do than it can
	// gives a quarter of its time to them; how late they are then is in LoopStats. If zero, it is 100 ms, or a tenth of Policy.Interval where that is shorter, but no
	// less than 5 ms. At most a quarter of Policy.Interval.
	Tick time.Duration

	// BlockWarning is how long one turn of a loop may take, the Handler's methods in it included, before it is
	// logged, with the stack of whatever holds it up, and counted in Stats. It ends no session. If zero, it is a
	// quarter of Policy.Interval, the time that a Ping's answer has before its peer is suspect, but no less than
	// 250 ms and no more than 1 s. At least three of Tick. Negative: nobody watches.
	//
	// A loop that lags by more than that although no single turn is too long is logged too, when that begins and
	// when it is over, and counted in LoopStats.Lags: its rounds of epoll take so long, or timers and deadlines
	// come so late, because it has more to do than it can. Time for which the process was itself held up
	// (stopped, suspended) is no lag.
	BlockWarning time.Duration

	// Loops is the number of event loops. If zero, it is GOMAXPROCS. With more than that the loops wait for
	// each other, and the server says so in its log; with fewer, what is left is for the application's own
	// goroutines, the garbage collector, and the front door.
	Loops int
	// ConnsMax is the most connections held at a time; one more is told ServerFull and reset. If
	// zero, there is no limit but the process's descriptors.
	ConnsMax int
	// ConnsPerAddrMax is the most connections held at a time from one IPv4 address, or one /64 of IPv6,
	// which is the least that a customer gets (RFC 6177); one more is refused likewise. An IPv6 address
	// that stands for an IPv4 host (NAT64 64:ff9b::/96, Teredo, 6to4) counts as that host's, and a
	// link-local one alone. Many players may share an address (carrier-grade NAT, RFC 6888). Unix
	// sockets are not counted. If zero, there is no limit.
	ConnsPerAddrMax int
	// AcceptRate is how many connections may come in a second, and as many at once after a quiet second; those that are too
	// many are refused likewise. If zero, there is no limit.
	AcceptRate int
	// PayloadMax is the longest payload of a frame, in bytes, with the default codec. If zero, it is
	// 64 KiB.
	PayloadMax int
	// BacklogMax is the most bytes that may wait for a peer that does not read: above it the session
	// ends with PeerSlow, and a Send beyond it within one loop turn returns ErrBacklogFull. The
	// kernel's own buffers come on top. If zero, it is 1 MiB.
	BacklogMax int
	// BacklogHigh and BacklogLow are the marks of a BacklogHandler, in bytes that wait for a peer: it is told when there are
	// more than BacklogHigh, and then when there are no more than BacklogLow. If zero, BacklogHigh is 64 KiB, or BacklogMax
	// if that is less, and BacklogLow half of BacklogHigh. What the kernel holds does not count.
	BacklogHigh, BacklogLow int
	// Rate is how much each peer may send; Session.SetRate makes exceptions. If zero, there is no limit.
	Rate Rate
	// RecentMax is how many ended sessions Server.Recent keeps. If zero, it is 1,024.
	RecentMax int
	// NewCodec returns the codec of one new connection; a codec without state may be the same value
	// each time. If nil, it is codec.Binary with PayloadMax. Decode is called on the session's loop,
	// AppendFrame by whoever sends, one at a time: a codec whose halves share state must guard it. Codecs
	// that are equal (==) are taken to encode alike: Group.Broadcast encodes once for all of them.
	NewCodec func() codec.Codec

	// Logger takes the few lines that the library writes: a handler's panic, an accept that fails. If
	// nil, it is slog.Default(). gnet's own lines go there at Debug level.
	Logger *slog.Logger
}

// Defaults of Config fields that are zero.
const (
	defaultHandshakeTimeout = 10 * time.Second
	defaultFrameTimeout     = 10 * time.Second
	defaultCloseTimeout     = 3 * time.Second
	defaultTick             = 100 * time.Millisecond
	defaultTickMin          = 5 * time.Millisecond
	tickMin                 = time.Millisecond
	defaultBacklogMax       = 1 << 20
	defaultBacklogHigh      = 64 << 10
	defaultRecentMax        = 1024
	blockWarningMin         = 250 * time.Millisecond
	blockWarningMax         = time.Second
	durationMax             = 7 * 24 * time.Hour // TCP_USER_TIMEOUT counts milliseconds in 32 bits
	loopsMax                = 255                // gnet numbers loops in a byte
)

// withDefaults checks c and fills its zero fields in.
func (c Config) withDefaults() (Config, error) {
	if err := c.Policy.Validate(); err != nil {
		return c, fmt.Errorf("server: Config.Policy: %w", err)
	}
	c.Policy = c.Policy.OrDefault()
	for _, d := range []struct {
		field string
		value *time.Duration
		zero  time.Duration
	}{
		{"HandshakeTimeout", &c.HandshakeTimeout, defaultHandshakeTimeout},
		{"FrameTimeout", &c.FrameTimeout, defaultFrameTimeout},
		{"WriteTimeout", &c.WriteTimeout, c.Policy.Timeout},
		{"CloseTimeout", &c.CloseTimeout, defaultCloseTimeout},
		{"Tick", &c.Tick, max(min(defaultTick, c.Policy.Interval/10), defaultTickMin)},
	} {
		if *d.value < 0 || *d.value > durationMax {
			return c, fmt.Errorf("server: Config.%s: %v is not between 0 and %v", d.field, *d.value, durationMax)
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if c.RetrySpread > durationMax {
		return c, fmt.Errorf("server: Config.RetrySpread: %v is longer than %v", c.RetrySpread, durationMax)
	}
	if c.Tick < tickMin {
		return c, fmt.Errorf("server: Config.Tick: %v is shorter than %v", c.Tick, tickMin)
	}
	if err := checkPolicy("Config", c.Policy, c.Tick); err != nil {
		return c, err
	}
	if c.BlockWarning == 0 {
		c.BlockWarning = max(blockWarningMin, min(c.Policy.Interval/4, blockWarningMax), 3*c.Tick)
	}
	if c.BlockWarning > durationMax || c.BlockWarning > 0 && c.BlockWarning < 3*c.Tick {
		return c, fmt.Errorf("server: Config.BlockWarning: %v is not between three of Tick, %v, and %v", c.BlockWarning, 3*c.Tick, durationMax)
	}
	if c.PayloadMax < 0 || c.PayloadMax > codec.PayloadLimit {
		return c, fmt.Errorf("server: Config.PayloadMax: %d is not between 0 and %d", c.PayloadMax, codec.PayloadLimit)
	}
	if c.PayloadMax == 0 {
		c.PayloadMax = codec.DefaultPayloadMax
	}
	if c.NewCodec == nil {
		binary := codec.Codec(codec.Binary{PayloadMax: c.PayloadMax})
		c.NewCodec = func() codec.Codec { return binary }
	}
	for _, n := range []struct {
		field     string
		value     *int
		zero, max int
	}{
		{"Loops", &c.Loops, min(runtime.GOMAXPROCS(0), loopsMax), loopsMax},
		{"ConnsMax", &c.ConnsMax, 0, 1<<31 - 1},
		{"ConnsPerAddrMax", &c.ConnsPerAddrMax, 0, 1<<31 - 1},
		{"AcceptRate", &c.AcceptRate, 0, 1<<31 - 1},
		{"BacklogMax", &c.BacklogMax, max(defaultBacklogMax, c.PayloadMax+codec.HeaderSize), 1<<31 - 1},
		{"RecentMax", &c.RecentMax, defaultRecentMax, 1 << 20},
	} {
		if *n.value < 0 || *n.value > n.max {
			return c, fmt.Errorf("server: Config.%s: %d is not between 0 and %d", n.field, *n.value, n.max)
		}
		if *n.value == 0 {
			*n.value = n.zero
		}
	}
	if least := c.PayloadMax + codec.HeaderSize; c.BacklogMax < least {
		return c, fmt.Errorf("server: Config.BacklogMax: %d is too small for one frame of PayloadMax, %d", c.BacklogMax, least)
	}
	if err := c.marksWithDefaults(); err != nil {
		return c, err
	}
	var err error
	if c.Rate, err = c.Rate.withDefaults("Config.Rate", &c); err != nil {
		return c, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// marksWithDefaults checks the marks of a BacklogHandler and fills them in.
func (c *Config) marksWithDefaults() error {
	if c.BacklogHigh < 0 || c.BacklogHigh > c.BacklogMax {
		return fmt.Errorf("server: Config.BacklogHigh: %d is not between 0 and BacklogMax, %d", c.BacklogHigh, c.BacklogMax)
	}
	if c.BacklogHigh == 0 {
		c.BacklogHigh = min(defaultBacklogHigh, c.BacklogMax)
	}
	if c.BacklogLow < 0 || c.BacklogLow >= c.BacklogHigh {
		return fmt.Errorf("server: Config.BacklogLow: %d is not between 0 and below BacklogHigh, %d", c.BacklogLow, c.BacklogHigh)
	}
	if c.BacklogLow == 0 {
		c.BacklogLow = c.BacklogHigh / 2
	}
	return nil
}

// checkPolicy says whether a policy can be kept with this tick: a Ping needs room between the ticks
// at which it is sent and at which its answer is missed.
func checkPolicy(where string, p heartbeat.Policy, tick time.Duration) error {
	if p.Timeout > durationMax {
		return fmt.Errorf("server: %s.Policy.Timeout: %v is longer than %v", where, p.Timeout, durationMax)
	}
	if p.Interval < 4*tick {
		return fmt.Errorf("server: %s.Tick: %v is too coarse for a Policy.Interval of %v: at most a quarter of it", where, tick, p.Interval)
	}
	return nil
}
