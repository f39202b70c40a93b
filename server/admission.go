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
	conns  map[netip.Addr]int32 // of each site that has one; nil: nobody counts
	tokens float64              // connections that may come in now
	at     time.Duration        // when that was so
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
		a.conns = map[netip.Addr]int32{}
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

// site returns what counts as one address: an IPv4 address, or the /64 of an IPv6 address, which is the
// least that one customer gets (RFC 6177). Where an IPv6 address stands for an IPv4 host, it is that
// host's. A link-local address is of one link only, and there each is a host's own (RFC 4291, 2.5.6).
func site(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	if v4, ok := embedded(addr); ok {
		return v4
	}
	if addr.Is4() || addr.IsLinkLocalUnicast() {
		return addr
	}
	p, _ := addr.WithZone("").Prefix(64)
	return p.Addr()
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052, 2.1: the IPv4 address is the last 32 bits
	teredo = netip.MustParsePrefix("2001::/32")    // RFC 4380, 4: likewise, each bit inverted
	sixTo4 = netip.MustParsePrefix("2002::/16")    // RFC 3056, 2: the 32 bits behind the prefix
)

// embedded returns the IPv4 address of the host for which an IPv6 address stands. A translator with a
// prefix of its operator's own (RFC 6052, 2.2) cannot be recognized.
func embedded(addr netip.Addr) (v4 netip.Addr, ok bool) {
	b := addr.As16()
	switch {
	case !addr.Is6():
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case teredo.Contains(addr):
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	case sixTo4.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}
