package rig

import "fmt"

// A Place says where a server and its load run.
type Place struct {
	Server, Load []int  // CPUs that they are bound to; if empty, they are not
	Threads      int    // of the load
	Note         string // the same in words
}

// Apart gives a server with so many loops CPUs of its own, and its load the others. Where there are not
// enough CPUs for that nothing is bound, and Note says so.
func Apart(loops int) Place {
	all := CPUs()
	if len(all) < loops+1 {
		return Place{Threads: 1, Note: fmt.Sprintf("nothing is bound to a CPU: there are %d, too few for %d loops and the load", len(all), loops)}
	}
	p := Place{Server: all[:loops], Load: all[loops:]}
	p.Threads = min(len(p.Load), 4*loops)
	p.Load = p.Load[:p.Threads]
	p.Note = fmt.Sprintf("server bound to CPU %v, load of %d threads bound to CPU %v", p.Server, p.Threads, p.Load)
	return p
}

// Together binds nothing: server and load share all CPUs.
func Together() Place {
	n := max(len(CPUs()), 1)
	threads := max(n/2, 1)
	return Place{Threads: threads, Note: fmt.Sprintf("nothing is bound: server and load (%d threads) share %d CPUs", threads, n)}
}
