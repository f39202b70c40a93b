package server

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"time"
)

// A loop that does not come back from a turn serves nobody, and says nothing. The ticker, which is on no
// loop, looks at each of them: what it finds is written to the log and counted, and convicts nobody.

// watch is what the ticker knows of a loop's turn.
type watch struct {
	turn  uint32        // loop.turn, as last seen
	held  time.Duration // how much of that turn the ticker has seen
	begun chan struct{} // closed when the log has it; nil: it has not been long enough for that
	lag   lagWatch
}

// watchLoops looks at every loop. seen is the time since it last did, or what of it counts: a ticker that was
// itself away (the process was stopped, the machine suspended, a debugger at work) has seen nothing of it. It is
// called by the ticker, or when there is none any more.
//
// The loops' clock was last at the last look: a turn that began at that tick may have begun after it.
func (s *Server) watchLoops(seen time.Duration, last uint32) {
	if s.cfg.BlockWarning < 0 {
		return
	}
	now := s.elapsed()
	for i, l := range s.loops {
		w := &s.watches[i]
		s.watchTurn(l, w, seen, last)
		s.watchLag(l, w, seen, now)
	}
}

// watchTurn looks at the turn that a loop is in.
func (s *Server) watchTurn(l *loop, w *watch, seen time.Duration, last uint32) {
	n := &s.counters
	turn := l.turn.Load()
	if turn != w.turn || turn == 0 {
		if w.begun != nil {
			n.blocked.Add(-1)
			s.reports.Add(1)
			go s.reportUnblocked(l, *w)
		}
		w.turn, w.held, w.begun = turn, -s.cfg.Tick, nil // a look may be late by less than a tick
		return
	}
	if turn == last {
		return // it may be another, as short as the one before
	}
	w.held += seen
	if w.held < s.cfg.BlockWarning {
		return
	}
	if w.begun == nil {
		n.blocks.Add(1)
		n.blocked.Add(1)
		w.begun = make(chan struct{})
		s.reports.Add(1)
		go s.reportBlocked(l, *w)
	}
	n.blockLongest.Store(max(n.blockLongest.Load(), int64(w.held)))
}

// reportBlocked writes what holds a loop up. It has a goroutine of its own: the ticker waits for no log,
// and for no profile.
func (s *Server) reportBlocked(l *loop, w watch) {
	defer s.reports.Done()
	defer close(w.begun)
	stack := l.stack()
	switch {
	case l.turn.Load() != w.turn:
		stack = "" // it may be another turn's
	case stack == "":
		stack = "not found: a function that ends its goroutine (runtime.Goexit) ends the loop"
	}
	s.log.Warn("pulsewheel: a loop is held up: one turn of it has not come to its end",
		"loop", l.index, "for", w.held, "conns", l.load.Load(), "stack", stack)
}

// reportUnblocked writes that a loop goes on.
func (s *Server) reportUnblocked(l *loop, w watch) {
	defer s.reports.Done()
	<-w.begun
	s.log.Warn("pulsewheel: a loop that was held up goes on", "loop", l.index, "after", w.held)
}

// labelKey is the pprof label by which a loop's goroutine is known. Goroutines that a Handler starts
// inherit it.
const labelKey = "pulsewheel_loop"

func (l *loop) labelValue() string { return fmt.Sprintf("%d of %p", l.index, l.srv) }

// label labels the goroutine that it is called on.
func (l *loop) label() {
	if l.srv.cfg.BlockWarning >= 0 {
		pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(labelKey, l.labelValue())))
	}
}

// stack returns the stack of the loop's goroutine, or "". The goroutine profile stops the world for a
// moment only, unlike runtime.Stack, which writes all stacks meanwhile.
func (l *loop) stack() string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return ""
	}
	return stackIn(b.String(), l.labelValue())
}

// inTurn are functions of which one is on the stack of a loop that is in a turn. A goroutine that a Handler
// has started inherits the label, but not these.
var inTurn = []string{"pulsewheel/server.(*engine).OnOpen", "pulsewheel/server.(*engine).OnTraffic", "pulsewheel/server.(*engine).OnClose", "pulsewheel/server.(*loop).Run"}

// stackIn finds in a goroutine profile the stack of the loop with that label. A Handler that uses labels
// itself takes ours away; then it is any that no loop is known to have.
func stackIn(profile, label string) string {
	const labels = "# labels: "
	var own, unknown []string
	for record := range strings.SplitSeq(profile, "\n\n") {
		at := -1
		for _, f := range inTurn {
			at = max(at, strings.Index(record, f))
		}
		if at < 0 {
			continue
		}
		var named string
		if _, after, is := strings.Cut(record, labels); is {
			named, _, _ = strings.Cut(after, "\n")
		}
		switch {
		case strings.Contains(named, fmt.Sprintf("%q:%q", labelKey, label)):
			own = append(own, frames(record))
		case !strings.Contains(named, labelKey):
			unknown = append(unknown, frames(record))
		}
	}
	if len(own) == 0 {
		own = unknown
	}
	return strings.Join(own, "\nor\n")
}

// frames writes the frames of a record as the runtime would.
func frames(record string) string {
	var b strings.Builder
	for line := range strings.Lines(record) {
		f := strings.Fields(line) // "#", address, function+offset, file:line
		if len(f) < 4 || f[0] != "#" || !strings.HasPrefix(f[1], "0x") {
			continue
		}
		name := f[2]
		if i := strings.LastIndexByte(name, '+'); i > 0 {
			name = name[:i]
		}
		fmt.Fprintf(&b, "%s\n\t%s\n", name, strings.Join(f[3:], " "))
	}
	return b.String()
}
