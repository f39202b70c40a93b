package server

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// An Ended is a session that has ended, as Server.Recent tells it.
type Ended struct {
	ID         uint64
	RemoteAddr netip.AddrPort // zero for a Unix socket
	At         time.Time      // when it ended
	End        CloseError     // as OnClose was given it
}

// Recent returns the sessions that ended last, the newest first: at most Config.RecentMax of them. Those
// that sent no byte and closed in good order are left out: a balancer's probes would push out
// everything else. Stats counts them. It is a copy; any goroutine may call it.
func (s *Server) Recent() []Ended { return s.recent.newestFirst() }

// ring keeps the last max of what is put into it.
type ring struct {
	mu   sync.Mutex // guards the rest
	max  int
	kept []Ended
	next int // where the oldest is, once there are max
}

func (r *ring) put(e Ended) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kept) < r.max {
		r.kept = append(r.kept, e)
		return
	}
	r.kept[r.next] = e
	r.next = (r.next + 1) % r.max
}

func (r *ring) newestFirst() []Ended {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.kept[r.next:], r.kept[:r.next])
	slices.Reverse(all)
	return all
}
