package server

import (
	"net/netip"
	"sync"
	"time"
)

// admission decides who may come in. It is the front door's, and told when a connection is gone.
type admission struct {
	perAddr int // Config.ConnsPerAddrMax
	rate    int // Config.AcceptRate

	mu     sync.Mutex
	conns  map[netip.Prefix]int32 // of each address that has one; nil: nobody counts
	tokens float64                // connections that may come in now
	at     time.Duration          // when that was so
}

// refusal says why a connection may not come in; it is what its client is told.
type refusal string

const (
	admitted    refusal = ""
	refusedFull refusal = "the server is full"
	refusedAddr refusal = "too many connections from your address"
	refusedRate refusal = "too many connections at once"
)

func (a *admission) init(cfg Config) {
	a.perAddr, a.rate, a.tokens = cfg.ConnsPerAddrMax, cfg.AcceptRate, float64(cfg.AcceptRate)
	if a.perAddr > 0 {
		a.conns = map[netip.Prefix]int32{}
	}
}

// enter admits a connection from addr, or says why not. The address comes first: who has too many must not use up
// what there is for others.
func (a *admission) enter(addr netip.Addr, now time.Duration) refusal {
	if a.perAddr <= 0 && a.rate <= 0 {
		return admitted
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	of := site(addr)
	if a.perAddr > 0 && addr.IsValid() && int(a.conns[of]) >= a.perAddr {
		return refusedAddr
	}
	if a.rate > 0 {
		a.tokens = min(a.tokens+float64(a.rate)*(now-a.at).Seconds(), float64(a.rate))
		a.at = now
		if a.tokens < 1 {
			return refusedRate
		}
		a.tokens--
	}
	if a.perAddr > 0 && addr.IsValid() {
		a.conns[of]++
	}
	return admitted
}

// leave takes back what enter admitted. Any goroutine may call it.
func (a *admission) leave(addr netip.Addr) {
	if a.perAddr <= 0 || !addr.IsValid() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	of := site(addr)
	if n := a.conns[of]; n > 1 {
		a.conns[of] = n - 1
	} else {
		delete(a.conns, of)
	}
}

// site is what counts as one address: an IPv4 address, or the /64 of an IPv6 address, which is the least that one
// customer gets (RFC 6177).
func site(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits)
	return p
}
