package server

import (
	"iter"
	"maps"
	"sync"
	atomic64 "sync/atomic" // its 64-bit values are aligned on 32-bit systems
	"time"
)

// Stats are a Server's counters since New, and gauges of now.
type Stats struct {
	Opened       uint64            // sessions: calls of OnOpen
	Closed       uint64            // sessions ended; the sum of Reasons
	Reasons      map[Reason]uint64 // ended sessions by reason
	Live         int               // sessions now: Opened - Closed
	Conns        int               // connections now: live, on their way in, and waiting for the peer's FIN
	Accepted     uint64            // connections that came to the front door: Opened, Refused, Failed, or on their way
	Refused      uint64            // turned away at the front door, ServerFull: never a session
	RefusedAddr  uint64            // those of them that were over Config.ConnsPerAddrMax
	RefusedRate  uint64            // those of them that were over Config.AcceptRate
	Failed       uint64            // lost between the front door and OnOpen: no descriptor or no codec for it, or it had gone
	AcceptErrors uint64            // accepts and enrolments that failed
	Suspected    uint64            // calls of OnSuspect
	Warned       uint64            // those of them with SuspectPath, by the kernel's early warning
	Recovered    uint64            // calls of OnRecover
	Suspect      int               // live sessions that are suspect now
	GraceRounds  uint64            // times that most of a loop's sessions came due at once and were given an Interval more
	Blocks       uint64            // times that one turn of a loop took longer than Config.BlockWarning
	Blocked      int               // loops of which that is true now
	BlockLongest time.Duration     // the longest of those turns, to the grain of Config.Tick
	Wakes        uint64            // times a loop was woken to do something for other goroutines, or because it was due
}

type counters struct {
	accepted, refused, refusedAddr, refusedRate, failed, acceptErrors, suspected, warned, recovered, graceRounds, wakes, blocks atomic64.Uint64

	suspect, blocked, blockLongest atomic64.Int64

	mu      sync.Mutex // guards the rest: the three always agree
	opened  uint64
	closed  uint64
	reasons map[Reason]uint64
}

func (n *counters) init() { n.reasons = map[Reason]uint64{} }

// Stats returns the counters. Opened, Closed, Live and Reasons belong to one instant.
func (s *Server) Stats() Stats {
	n := &s.counters
	n.mu.Lock()
	defer n.mu.Unlock()
	return Stats{
		Opened: n.opened, Closed: n.closed, Reasons: maps.Clone(n.reasons), Live: int(n.opened - n.closed),
		Conns: int(s.held.Load()), Accepted: n.accepted.Load(), Refused: n.refused.Load(), RefusedAddr: n.refusedAddr.Load(), RefusedRate: n.refusedRate.Load(),
		Failed: n.failed.Load(), AcceptErrors: n.acceptErrors.Load(),
		Suspected: n.suspected.Load(), Warned: n.warned.Load(), Recovered: n.recovered.Load(), Suspect: int(n.suspect.Load()),
		GraceRounds: n.graceRounds.Load(), Wakes: n.wakes.Load(),
		Blocks: n.blocks.Load(), Blocked: int(n.blocked.Load()), BlockLongest: time.Duration(n.blockLongest.Load()),
	}
}

// register numbers a session and makes it findable.
func (s *Server) register(sess *Session) {
	sess.id = s.lastID.Add(1)
	s.counters.mu.Lock()
	s.counters.opened++
	s.counters.mu.Unlock()
	s.registry.put(sess)
}

// unregister counts a session's end; it can no longer be found.
func (s *Server) unregister(sess *Session, r Reason) {
	s.registry.drop(sess.id)
	s.counters.mu.Lock()
	s.counters.closed++
	s.counters.reasons[r]++
	s.counters.mu.Unlock()
}

// registry finds sessions by ID, from any goroutine.
type registry struct {
	shards [64]struct {
		mu       sync.Mutex
		sessions map[uint64]*Session
		_        [48]byte // neighbours on different cache lines
	}
}

func (r *registry) init() {
	for i := range r.shards {
		r.shards[i].sessions = map[uint64]*Session{}
	}
}

func (r *registry) put(s *Session) {
	sh := &r.shards[s.id%uint64(len(r.shards))]
	sh.mu.Lock()
	sh.sessions[s.id] = s
	sh.mu.Unlock()
}

func (r *registry) drop(id uint64) {
	sh := &r.shards[id%uint64(len(r.shards))]
	sh.mu.Lock()
	delete(sh.sessions, id)
	sh.mu.Unlock()
}

func (r *registry) get(id uint64) *Session {
	sh := &r.shards[id%uint64(len(r.shards))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.sessions[id]
}

// all yields the sessions; no lock is held while one is yielded.
func (r *registry) all() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		var some []*Session
		for i := range r.shards {
			sh := &r.shards[i]
			some = some[:0]
			sh.mu.Lock()
			for _, s := range sh.sessions {
				some = append(some, s)
			}
			sh.mu.Unlock()
			for _, s := range some {
				if !yield(s) {
					return
				}
			}
		}
	}
}
