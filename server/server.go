// Package server is a game server's front door, sessions and event loops. It knows at once, cheaply
// and with the true reason, when a client is gone.
//
// An application implements Handler (embedding Base for what it does not need), calls New and
// ListenAndServe, and is told in OnClose, by a *CloseError, why each session ended.
package server

import (
	"errors"
	"iter"
	"log/slog"
	"net"
	"runtime"
	"sync"
	atomic64 "sync/atomic" // its 64-bit values are aligned on 32-bit systems
	"time"

	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A Server holds connections. Any goroutine may call its methods; Drain and Close wait for the event
// loops, so a Handler's method must not call them itself (go srv.Close() is fine).
type Server struct {
	cfg     Config
	handler Handler
	backlog BacklogHandler // the same; nil: it is none
	limits  *limits        // of Config.Rate; nil: none
	log     *slog.Logger   // writes to lines
	lines   *logLimiter
	epoch   time.Time // monotonic: every instant is elapsed since here

	engine  *engine
	watches []watch        // by loop; the ticker's
	reports sync.WaitGroup // the watchdog's lines that are being written
	loops   []*loop
	halls   []*hall // by loop
	porch   chan refused
	freed   chan struct{}  // a connection has ended while accept fails
	failing atomic64.Int32 // listeners whose accept fails

	entering    atomic64.Int32 // connections that have been admitted and are not on their loop yet
	descriptors int            // how many the process may have
	unchecked   atomic64.Int64 // connections that may be accepted before those in use are counted again
	countAgain  atomic64.Int64 // not before then

	admission admission
	swept     chan struct{} // the porch is empty and stays so

	_           [64]byte
	now         atomic.Uint32   // the coarse clock, a heartbeat.Tick; written by the ticker alone
	stalled     atomic64.Uint64 // when the ticker was last held up: the tick before, in the upper half, and the tick at which it went on; likewise
	late        int32           // ticks for which the ticker may be held up without saying so
	grain       uint8           // a grain of sends is 1<<grain ticks
	ready       atomic.Bool     // the engine is there, and loops can be woken
	nudged      heartbeat.Tick  // when it last woke loops that have nothing due; likewise
	nudge       int32           // it does so after this many ticks
	returnTicks int32           // returnAfter
	_           [64]byte

	lastID   atomic64.Uint64
	held     atomic64.Int64 // connections from admission to the socket's close
	empty    chan struct{}  // held has come to 0
	counters counters
	registry registry
	recent   ring

	mu          sync.Mutex // guards the rest
	started     bool
	closing     bool
	hurried     bool
	drained     error                      // what the first Drain returns; written before done is closed
	retrySpread time.Duration              // what clients are told at the end; written once, before they are
	listeners   map[*net.Listener]struct{} // by pointer: not every type of listener can be a key
	addr        net.Addr
	accepting   sync.WaitGroup
	stopping    chan struct{} // closed when closing is set
	hurry       chan struct{} // closed by Close, for a Drain under way
	done        chan struct{} // closed when Drain or Close is through
}

// New returns a Server for h. It opens nothing yet. The error names the field of cfg that is wrong,
// and its value. New calls Config.NewCodec once, to see whether it encodes a Ping. Who was sent no Ping
// is not convicted of silence; the log says so.
func New(h Handler, cfg Config) (*Server, error) {
	if h == nil {
		return nil, errors.New("server: New: the Handler is nil")
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	lines := newLogLimiter(cfg.Logger.Handler())
	s := &Server{cfg: cfg, handler: h, lines: lines, log: slog.New(lines), epoch: time.Now(), empty: make(chan struct{}, 1), freed: make(chan struct{}, 1),
		stopping: make(chan struct{}), hurry: make(chan struct{}), done: make(chan struct{}), listeners: map[*net.Listener]struct{}{}}
	if why := pingless(cfg); why != "" {
		s.log.Warn("pulsewheel: a new codec encodes no Ping: until it does, nobody is asked, and only the kernel ends a silent peer", "why", why)
	}
	s.backlog, _ = h.(BacklogHandler)
	s.limits = newLimits(cfg.Rate, cfg.Tick)
	s.nudge = 1 << 29
	s.admission.init(cfg)
	s.registry.init()
	s.counters.init()
	s.recent.max = cfg.RecentMax
	for cfg.Tick<<s.grain < grainMin {
		s.grain++
	}
	s.late = 3 + int32(grainMin/cfg.Tick)
	s.returnTicks = 1 + int32(returnAfter/cfg.Tick)
	return s, nil
}

// start starts the event loops, once. It is called with mu held.
func (s *Server) start() error {
	if s.started {
		return nil
	}
	s.nudged = s.tickAt(s.elapsed())
	s.now.Store(uint32(s.nudged))
	for i := range s.cfg.Loops {
		s.loops = append(s.loops, newLoop(s, i))
	}
	if procs := runtime.GOMAXPROCS(0); s.cfg.Loops > procs {
		s.log.Warn("pulsewheel: more event loops than GOMAXPROCS: they wait for each other", "loops", s.cfg.Loops, "gomaxprocs", procs)
	}
	s.watches = make([]watch, s.cfg.Loops)
	s.descriptors = descriptorLimit()
	e, err := startEngine(s)
	if err != nil {
		s.loops = nil
		return err
	}
	s.engine = e
	for _, l := range s.loops {
		s.halls = append(s.halls, openHall(s, l))
	}
	s.porch, s.swept = make(chan refused, porchMax), make(chan struct{})
	go s.sweepPorch()
	s.ready.Store(true)
	s.started = true
	return nil
}

// Addr returns the address of the first listener, or nil before there is one.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Session returns the live session with this ID, or nil.
func (s *Server) Session(id uint64) *Session { return s.registry.get(id) }

// Sessions yields the live sessions, in no order. Sessions that open or end meanwhile may be yielded
// or not.
func (s *Server) Sessions() iter.Seq[*Session] { return s.registry.all() }

// release gives up a connection's place.
func (s *Server) release(l *loop) {
	if l != nil {
		l.load.Dec()
	}
	if s.failing.Load() > 0 { // its descriptor is what the front door waits for
		select {
		case s.freed <- struct{}{}:
		default:
		}
	}
	if s.held.Add(-1) == 0 {
		select {
		case s.empty <- struct{}{}:
		default:
		}
	}
}

// onTick publishes the coarse clock and wakes the loops that have something due. It returns the time
// to the next tick: deadlines are absolute, so that nothing drifts.
func (s *Server) onTick() time.Duration {
	now := s.elapsed()
	tick := s.tickAt(now)
	before := s.now.Load()
	missed := tick.Sub(heartbeat.Tick(before))
	if time.Duration(missed)*s.cfg.Tick >= 2*s.cfg.Tick+grainMin {
		s.stalled.Store(uint64(before)<<32 | uint64(tick))
	}
	s.now.Store(uint32(tick))
	if !s.ready.Load() {
		return s.cfg.Tick
	}
	s.watchLoops(time.Duration(min(missed, 2))*s.cfg.Tick, before)
	nudge := tick.Sub(s.nudged) >= s.nudge
	if nudge {
		s.nudged = tick
	}
	for _, l := range s.loops {
		if due := heartbeat.Tick(l.nextDue.Load()); due != 0 && !tick.Before(due) || nudge {
			l.wake()
		}
	}
	return s.cfg.Tick - s.elapsed()%s.cfg.Tick
}

// elapsed returns the time since the server's epoch, by the monotonic clock.
func (s *Server) elapsed() time.Duration { return time.Since(s.epoch) }

// tickAt returns the tick in which d lies: 1 is the first, and 0 is skipped when the number wraps.
func (s *Server) tickAt(d time.Duration) heartbeat.Tick {
	const ticks = 1<<32 - 1
	return heartbeat.Tick(uint64(d/s.cfg.Tick)%ticks + 1)
}

// dueTick returns the first tick that begins at d or after it, or one before that where d is too far
// from now for ticks to be compared: who looks then finds out what remains.
func (s *Server) dueTick(now, d time.Duration) heartbeat.Tick {
	const far = 1 << 29
	if (d-now)/s.cfg.Tick > far {
		d = now + far*s.cfg.Tick
	}
	return s.tickAt(d + s.cfg.Tick - 1)
}
