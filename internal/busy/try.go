package busy

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// attempts is how often a test that cannot tell is run before it is skipped.
const attempts = 3

// Try calls body; and again, three times in all, while that ends without a failure but with a claim that may not have held
// because of the machine. After the third time t is skipped with the reason if the machine was busy, and fails if it was
// only for a moment.
func Try(t *testing.T, body func(t *T)) {
	t.Helper()
	parallel := sync.OnceFunc(t.Parallel)
	for n := 1; ; n++ {
		a := newT(t)
		a.parallel, a.number = parallel, n
		a.run(body)
		switch {
		case t.Failed():
			t.FailNow()
		case t.Skipped():
			t.SkipNow()
		case len(a.unsure) == 0:
			return
		case n == attempts && a.blip:
			t.Fatalf("%d times, and the machine was not busy: %s", n, strings.Join(a.unsure, "; "))
		case n == attempts:
			t.Skipf("cannot tell, %d times: this machine is too busy: %s", n, strings.Join(a.unsure, "; "))
		}
		t.Logf("once more, as this machine is too busy to tell: %s", strings.Join(a.unsure, "; "))
	}
}

// Test is Try for t.Run.
func Test(body func(t *T)) func(t *testing.T) {
	return func(t *testing.T) { t.Helper(); Try(t, body) }
}

// T is one attempt at a test. What is asserted with it fails the test at once, whatever the machine does: a wrong
// reason, a wrong byte, what never comes. Claims about time are made with NotLater and IfQuiet.
type T struct {
	testing.TB
	watch    *Watch
	begun    time.Time
	number   int
	parallel func()
	ctx      context.Context
	cancel   context.CancelFunc

	mu       sync.Mutex
	unsure   []string // claims that could not be judged
	blip     bool     // one of them although the machine was not busy for most of the time
	cleanups []func()
}

func newT(t *testing.T) *T {
	a := &T{TB: t, watch: Start(), begun: time.Now()}
	a.ctx, a.cancel = context.WithCancel(t.Context())
	return a
}

// run calls body, and then what it gave to Cleanup, on a goroutine that FailNow and SkipNow may end.
func (t *T) run(body func(*T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { t.watch.Stop() }() // Parallel begins another
		defer t.cleanup()
		defer t.cancel()
		body(t)
	}()
	<-done
}

// cleanup calls what was given to Cleanup, the last first, also when one of them ends the goroutine.
func (t *T) cleanup() {
	t.mu.Lock()
	n := len(t.cleanups)
	if n == 0 {
		t.mu.Unlock()
		return
	}
	f := t.cleanups[n-1]
	t.cleanups = t.cleanups[:n-1]
	t.mu.Unlock()
	defer t.cleanup()
	f()
}

// Parallel is that of [testing.T]; in a further attempt it does nothing. It is called before anything is
// measured: what the machine does while others run tells nothing of t, and measuring it would disturb
// them.
func (t *T) Parallel() {
	t.watch.Stop()
	t.parallel()
	t.watch, t.begun = Start(), time.Now()
}

// Cleanup has f called at the end of the attempt.
func (t *T) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// Context returns a context that is canceled at the end of the attempt.
func (t *T) Context() context.Context { return t.ctx }

// FailNow fails the test and ends the attempt.
func (t *T) FailNow() {
	t.Fail()
	runtime.Goexit()
}

// Fatal is Error, then FailNow.
func (t *T) Fatal(args ...any) {
	t.TB.Helper()
	t.Error(args...)
	runtime.Goexit()
}

// Fatalf is Errorf, then FailNow.
func (t *T) Fatalf(format string, args ...any) {
	t.TB.Helper()
	t.Errorf(format, args...)
	runtime.Goexit()
}

// Attempt is the number of this attempt, from 1 on. A claim that holds on any scale is made on a larger one in a further attempt.
func (t *T) Attempt() int { return t.number }

// CannotTell says why the attempt does not tell whether there is a fault. It goes on; what fails counts.
func (t *T) CannotTell(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unsure = append(t.unsure, fmt.Sprintf(format, args...))
}

// Unsure reports whether the attempt has found already that it cannot tell.
func (t *T) Unsure() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.unsure) > 0
}

// Held is for how long the machine held this process up between two times of the attempt. See [Watch].
func (t *T) Held(from, to time.Time) time.Duration { return t.watch.HeldBetween(from, to) }

// NotLater fails the test if it took longer than limit from one time to another, with allowance for what the machine held this process up
// by. If it took longer although that is allowed for, but the machine was busy meanwhile, or processes had to wait for a processor by as
// much as it was late, the claim is not judged.
func (t *T) NotLater(from, to time.Time, limit time.Duration, what string, args ...any) {
	t.TB.Helper()
	took := to.Sub(from)
	if took <= limit {
		return
	}
	held, waited := t.watch.HeldBetween(from, to), t.watch.waitedBetween(from, to)
	if pressure() > 0 {
		held = min(held, waited) // Go's own scheduler takes some milliseconds, too, to find that a loop waits in the kernel
	}
	if took <= limit+held {
		return
	}
	busy, says := t.watch.BusyBetween(from, to)
	what = fmt.Sprintf("%s took %v; the limit is %v, and %v for what the machine held it up by (%s)", fmt.Sprintf(what, args...), took, limit, held, says)
	t.judge(busy, waited >= took-limit, what)
}

// judge fails the test, unless the machine was busy, or may have been for a moment.
func (t *T) judge(busy, moment bool, what string) {
	t.TB.Helper()
	if !busy && !moment {
		t.TB.Error(what)
		return
	}
	t.CannotTell("%s", what)
	if !busy {
		t.mu.Lock()
		t.blip = true
		t.mu.Unlock()
	}
}

// IfQuiet returns what a claim is asserted with that only holds while the machine lets this process run: that a client of this process
// answers in time, say. What fails is not judged if the machine was busy since the attempt began, or has held the process up for more
// than margin. FailNow ends the attempt.
func (t *T) IfQuiet(margin time.Duration) testing.TB { return &quiet{t, margin} }

// A quiet is the testing.TB that IfQuiet returns.
type quiet struct {
	*T
	margin time.Duration
}

func (q *quiet) fail(what string) {
	q.TB.Helper()
	now := time.Now()
	held := q.watch.HeldBetween(q.begun, now)
	busy, says := q.watch.BusyBetween(q.begun, now)
	q.judge(busy, held > q.margin, strings.Join(strings.Fields(what), " ")+" ("+says+")")
}

func (q *quiet) Fail()             { q.TB.Helper(); q.fail("it failed") }
func (q *quiet) Error(args ...any) { q.TB.Helper(); q.fail(fmt.Sprint(args...)) }
func (q *quiet) Errorf(format string, args ...any) {
	q.TB.Helper()
	q.fail(fmt.Sprintf(format, args...))
}
func (q *quiet) FailNow() { runtime.Goexit() }

func (q *quiet) Fatal(args ...any) {
	q.TB.Helper()
	q.fail(fmt.Sprint(args...))
	runtime.Goexit()
}

func (q *quiet) Fatalf(format string, args ...any) {
	q.TB.Helper()
	q.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}
