// Package busy lets a test tell a fault of what it tests from a machine that is busy with other work. A [Watch]
// measures what the machine takes from this process, and [Try] repeats a test that could not tell, and in the end
// skips it and says why.
package busy

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Doze is how long a Watch sleeps, and the least delay that it counts.
const Doze = 5 * time.Millisecond

// grain is how often a Watch writes down what it knows.
const grain = 4 * Doze

// A Watch measures for how long the machine has kept this process from running: what nothing in it
// could have made up for. It sleeps, and counts by how much it is woken too late. Limits move by that,
// so that a machine that is busy elsewhere is not mistaken for a server that is late; a server that
// waits too long, or blocks, does not show here. Its methods may be called from any goroutine.
type Watch struct {
	mu     sync.Mutex
	asleep time.Time // since when
	sum    time.Duration
	worst  time.Duration // the longest of all delays
	diary  []entry       // in order of time
	fixed  *bool         // in the tests of this package: what BusyBetween returns,
	waited time.Duration // and what waitedBetween does then
	quit   chan struct{}
	done   chan struct{}
}

// An entry is what was known at a time.
type entry struct {
	at        time.Time
	held      time.Duration // see Held
	contended time.Duration // see contended
}

// Start begins to measure. Stop must be called.
func Start() *Watch {
	now := time.Now()
	w := &Watch{asleep: now, quit: make(chan struct{}), done: make(chan struct{})}
	w.diary = []entry{{at: now, contended: contended()}}
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

// note writes down what is known, if the last time was so long ago.
func (w *Watch) note(ago time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.diary[len(w.diary)-1].at) >= ago {
		w.diary = append(w.diary, entry{now, w.sum, contended()})
	}
}

// between are the entries that enclose a span of time.
func (w *Watch) between(from, to time.Time) (first, last entry) {
	w.Held()
	w.note(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	at := func(e entry, t time.Time) int { return e.at.Compare(t) }
	i, exact := slices.BinarySearchFunc(w.diary, from, at)
	if !exact {
		i = max(i-1, 0)
	}
	j, _ := slices.BinarySearchFunc(w.diary, to, at)
	return w.diary[i], w.diary[max(i, min(j, len(w.diary)-1))]
}

// HeldBetween is the sum of the delays in a span of time, and a little more at its ends.
func (w *Watch) HeldBetween(from, to time.Time) time.Duration {
	first, last := w.between(from, to)
	return last.held - first.held
}

// BusyBetween reports whether the machine was too busy in a span of time for a claim about time to be judged: for a third of it or
// more, processes had to wait for a processor, or this one was held up. The second return value says so in words.
func (w *Watch) BusyBetween(from, to time.Time) (bool, string) {
	first, last := w.between(from, to)
	span, held, waited := last.at.Sub(first.at), last.held-first.held, last.contended-first.contended
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	says := "this process was held up for " + round(held).String() + ", and others for " + round(waited).String() + ", of " + round(span).String()
	if w.fixed != nil {
		return *w.fixed, says
	}
	return max(held, waited) >= span/3, says
}

// waitedBetween is for how long processes had to wait for a processor in a span of time, and a little more at its ends.
func (w *Watch) waitedBetween(from, to time.Time) time.Duration {
	first, last := w.between(from, to)
	if w.fixed != nil {
		return w.waited
	}
	return last.contended - first.contended
}

// contended is for how long processes have waited for a processor since the machine started (Documentation/accounting/psi.rst), or 0
// where that is not known.
func contended() time.Duration {
	b, _ := os.ReadFile("/proc/pressure/cpu")
	some, _, _ := strings.Cut(string(b), "\n")
	_, total, _ := strings.Cut(some, "total=")
	us, _ := strconv.ParseInt(strings.TrimSpace(total), 10, 64)
	return time.Duration(us) * time.Microsecond
}
