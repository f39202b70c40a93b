// Package load is a client for load: it keeps connections, sends bursts of messages on each, and counts
// what comes back. It works on Linux: a few threads with an epoll each, raw system calls, nothing
// allocated while it runs. To be no burden on what it measures it belongs in a process of its own, as
// package rig runs it.
package load

import "time"

// Options say what a Client opens and sends. They travel as JSON.
type Options struct {
	Addr        string // of the server, an IP address and a port
	Conns       int    // connections; if zero, 1
	Outstanding int    // messages of a burst, sent with one call; if zero, 1
	Message     []byte // one message, as it is on the wire; the Client does not change it
	Reply       int    // bytes that come back for each message; if zero, len(Message)

	// Pongs: what comes back is read as frames of codec.Binary. Only Data frames count as replies, and each
	// Ping is answered by a Pong, also while no Run is under way; a Goodbye is an error that tells its reason. If
	// false, all bytes count, whatever they are.
	Pongs bool
	// Spin: a thread never sleeps during a Run. For a machine with a core to spare for each thread.
	Spin bool
	// Threads is the number of OS threads, each with its share of the connections. If zero, it is 1.
	Threads int
	// CPUs are the CPUs that threads are bound to, in turn. If empty, they are not.
	CPUs []int
	// Sources is from how many addresses, 127.0.0.2 and on, connections are opened, in turn: one address has some
	// 28,000 ports for one server. If zero, the kernel chooses, which on the loopback is one.
	Sources int
	// Reports: the server sends without being asked, and Run is of no use. Each connection says hello: a Data frame
	// of eight zeros. From then on, whenever so many more messages of len(Message) bytes have come on a thread's
	// connections, the first of them says how many, in such a frame, as a big-endian number: a multiple of Reports. If zero, it is an error when more comes than was asked for.
	Reports int
}

// A Round says how long a Run lasts. They travel as JSON.
type Round struct {
	Warm     time.Duration // goes before, and is not counted
	For      time.Duration // for how long replies are counted
	Messages int           // instead of For, if not zero: how many messages, rounded up to whole bursts; Warm is then not kept
}

// A Result is what a Run has counted.
type Result struct {
	Messages int           // replied to in Elapsed
	Total    int           // replied to in the whole Run, warm-up and what was still under way at the end included
	Elapsed  time.Duration // in which Messages were counted: the clock is read once for each round of epoll
	CPU      time.Duration // of the client's threads in Elapsed
	Latency  Histogram     // of bursts: from one's send to its last reply, counted in Elapsed
}

// Rate returns messages per second.
func (r Result) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Messages) / r.Elapsed.Seconds()
}

// StormOptions say what Storm does. They travel as JSON.
type StormOptions struct {
	Addr    string        // of the server
	For     time.Duration // for how long; if zero, 1 s
	Slots   int           // connections at a time; if zero, 64
	Message []byte        // sent once on each connection
	Reply   int           // bytes of its reply; if zero, len(Message)
	FIN     bool          // close in good order, which leaves TIME_WAIT here; if false, by RST
	CPUs    []int         // the first is what the thread is bound to
	Sources int           // as in Options
}

// A StormResult is what Storm has counted.
type StormResult struct {
	Conns   int // opened, answered and closed in Elapsed
	Total   int // opened, answered and closed, those included that were still under way at the end
	Elapsed time.Duration
	CPU     time.Duration // of the client's thread
	Latency Histogram     // from connect to the reply
}

// Rate returns connections per second.
func (r StormResult) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Conns) / r.Elapsed.Seconds()
}
