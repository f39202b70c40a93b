// Package netlab makes networks for tests: a server's network namespace and, for each leg, a router's
// and a client's, joined by veth pairs. A leg's cable is pulled in its router, where neither end
// notices; or a relay in the router delays, loses, limits or holds back its packets.
//
//	server (ServerAddr) ---- router of leg 0 ---- client of leg 0
//	                    \--- router of leg 1 ---- client of leg 1
//
// The namespaces have no names: they are held by descriptors of this process, and end with it at the
// latest. It needs Linux, root, ip(8) and nsenter(1): New says what is missing.
package netlab

import "time"

// ServerAddr is the server's IPv4 address, reachable from every leg.
const ServerAddr = "10.77.0.1"

// A Shape is what a relay does to the packets of one leg, each way.
type Shape struct {
	Delay  time.Duration // one way; the round trip is twice that
	Jitter time.Duration // up to so much more, at random; packets keep their order
	Loss   float64       // of the packets, 0 to 1, at random by Seed
	Rate   int           // bytes a second, IPv4 headers included; 0: no limit
	Queue  int           // bytes that may wait for Rate; beyond that packets are dropped. 0: 1 MiB
	Seed   uint64
}
