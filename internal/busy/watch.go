// Package busy lets a test tell a fault of what it tests from a machine that is busy with other work. A [Watch]
// measures what the machine takes from this process, and [Try] repeats a test that could not tell, and in the end
// skips it and says why.
package busy

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Doze is how long a Watch sleeps, and the least delay that it counts.
const Doze = 5 * time.Millisecond

// grain is how often a Watch writes down what the system says.
const grain = 10 * Doze

// A Watch measures for how long the machine has kept this process from running: what nothing in it
// could have made up for. It sleeps, and counts by how much it is woken too late. Limits move by that,
// so that a machine that is busy elsewhere is not mistaken for a server that is late; a server that
// waits too long, or blocks, does not show here. Its methods may be called from any goroutine.
type Watch struct {
	mu     sync.Mutex
	asleep time.Time // since when
	sum    time.Duration
	worst  time.Duration // the longest of all delays
	delays []delay       // in order of time
	loads  []load        // likewise, one at least
	fixed  *bool         // in the tests of this package: what BusyBetween returns,
	waited time.Duration // and what waitedBetween does then
	quit   chan struct{}
	done   chan struct{}
}

// A delay is one that was counted.
type delay struct{ from, to time.Time }

// Start begins to measure. Stop must be called.
func Start() *Watch {
	w := &Watch{asleep: time.Now(), quit: make(chan struct{}), done: make(chan struct{}), loads: []load{loadNow()}}
	go w.run()
	return w
}

func (w *Watch) run() {
	defer close(w.done)
	for {
		select {
		case <-time.After(Doze):
			w.Held()
			w.note(grain)
		case <-w.quit:
			return
		}
	}
}

// Stop ends the measuring.
func (w *Watch) Stop() {
	close(w.quit)
	<-w.done
}

// Held is the sum of all delays so far, that which is going on included.
func (w *Watch) Held() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	late := now.Sub(w.asleep) - Doze
	if late >= Doze {
		w.sum += late
		w.delays = append(w.delays, delay{now.Add(-late), now})
	}
	w.worst = max(w.worst, late)
	w.asleep = now
	return w.sum
}

// Unseen is how long a delay may have been that Held does not count, as far as delays of that length were seen.
func (w *Watch) Unseen() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return min(w.worst, Doze)
}

// HeldBetween is the sum of the delays in a span of time.
func (w *Watch) HeldBetween(from, to time.Time) (sum time.Duration) {
	w.Held()
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.delays, from, func(d delay, t time.Time) int { return d.to.Compare(t) })
	for _, d := range w.delays[i:] {
		if d.from.Before(from) {
			d.from = from
		}
		if d.to.After(to) {
			d.to = to
		}
		sum += max(d.to.Sub(d.from), 0)
	}
	return sum
}

// note writes down what the system says, if the last time was so long ago.
func (w *Watch) note(ago time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.loads[len(w.loads)-1].at) >= ago {
		w.loads = append(w.loads, loadNow())
	}
}

// between is what the system said of a span of time, and of a little more at its ends.
func (w *Watch) between(from, to time.Time) load {
	w.note(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	at := func(l load, t time.Time) int { return l.at.Compare(t) }
	i, exact := slices.BinarySearchFunc(w.loads, from, at)
	if !exact {
		i = max(i-1, 0)
	}
	j, _ := slices.BinarySearchFunc(w.loads, to, at)
	j = max(i, min(j, len(w.loads)-1))
	return w.loads[j].less(w.loads[i])
}

// BusyBetween reports whether the machine was too busy with other work in a span of time for a claim about time to be judged: this process
// was held up for half of it or more; or some had to wait for a processor for a third of it, and since the Watch began others than this
// process and its children had a fifth of all that the processors can do. The second return value says so in words.
func (w *Watch) BusyBetween(from, to time.Time) (bool, string) {
	held, l := w.HeldBetween(from, to), w.between(from, to)
	others := w.between(time.Time{}, time.Now()).others(childrenCPU(), runtime.NumCPU()) // what children used in a span is not known
	says := fmt.Sprintf("in %v this process was held up for %v; processes had to wait for %v; others had %.0f %% of the processors",
		l.span.Round(time.Millisecond), held.Round(time.Millisecond), l.waited.Round(time.Millisecond), 100*others)
	if w.fixed != nil {
		return *w.fixed, says
	}
	return l.busy(held, others), says
}

// waitedBetween is for how long processes, this one among them, had to wait for a processor in a span of time, and a little more at its ends.
func (w *Watch) waitedBetween(from, to time.Time) time.Duration {
	if w.fixed != nil {
		return w.waited
	}
	return w.between(from, to).waited
}
