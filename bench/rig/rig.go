// Package rig measures servers against each other: each runs in a process of its own, and so does its
// load (package load); their rounds are interleaved, and what is told is the ratio of rounds that were next to each
// other. A program that uses it calls Role for each kind of server it has, and Main before anything else:
//
//	func main() {
//		rig.Role("echo", func(args []string) {
//			ln := serve(args)
//			rig.Serving(ln.Addr().String(), nil) // until the rig has had enough
//		})
//		rig.Main()
//		out := rig.Match{Rounds: 9}.Compare([]rig.Candidate{...})
//		out.Print(os.Stdout, "echo")
//	}
//
// Nothing here is for use by several goroutines at a time.
package rig

import (
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
)

// A Server says how a server process is started: a role of this program, or a foreign program. Either
// prints its address (IP:port) as the first line of its standard output once it can be connected to, and
// ends when its standard input is closed. Its standard error is ours.
type Server struct {
	Role       string   // a name given to Role
	Args       []string // of the role
	Program    string   // the executable whose Role it is, built from another revision; if empty, this one
	Command    []string // a foreign program and its arguments, if Role is empty
	GOMAXPROCS int      // of the process; if zero, as Go chooses: the number of CPUs
	CPUs       []int    // that the process is bound to; if empty, it is not
	Env        []string // more of the environment, as key=value
}

// A Candidate is a server and the load that is put on it.
type Candidate struct {
	Name   string // in tables
	Server Server
	Load   load.Options // Addr is filled in
	Remark string       // in tables
}

// A Match says how candidates are compared.
type Match struct {
	Rounds int        // how often each is measured; if zero, 7
	Round  load.Round // if zero, 50 ms to warm up and 300 ms that count
	Seed   uint64     // of the order in each round, which is shuffled; if zero, one is chosen
}

// A Measure is what one round has found.
type Measure struct {
	Load     load.Result
	CPU      time.Duration // of the server process, in the whole round: for Load.Total messages
	Took     time.Duration // the whole round
	Switches int           // context switches of the server process in the whole round
}

// A Row is a candidate with what its rounds have found, in order.
type Row struct {
	Candidate
	Rounds []Measure
	Err    error // why it could not be measured: then Rounds is not to be used
}

// An Outcome is what Compare has found.
type Outcome struct {
	Seed uint64 // of the orders
	Rows []Row  // as the candidates
}

// A Spread is how numbers are spread.
type Spread struct {
	Median, Low, High float64 // Low and High: the quartiles
	Min, Max          float64
	N                 int
}
