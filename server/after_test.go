package server_test

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// Timers are never early, late by two ticks at most, and may be far beyond the wheel's horizon of
// 4095 ticks.
func TestAfter(t *testing.T) { busy.Try(t, testAfter) }

func testAfter(t *busy.T) {
	t.Parallel()
	cfg := calm()
	cfg.Tick = time.Millisecond
	_, _, s := open(t, newRecorder(), cfg)
	const n = 2000
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	type fired struct {
		asked, late time.Duration
		from        time.Time
	}
	all := make(chan fired, n+2)
	after := func(d time.Duration) {
		from := time.Now()
		s.After(d, func() { all <- fired{d, time.Since(from) - d, from} })
	}
	after(5 * time.Second) // beyond the horizon
	after(-time.Second)    // as soon as may be
	for _, d := range []time.Duration{30 * 24 * time.Hour, 1 << 61, math.MaxInt64 - time.Hour, math.MaxInt64} {
		s.After(d, func() { assert.Fail(t, "early", "%v", d) })
	}
	for range n {
		after(time.Duration(random.Int64N(int64(4500 * time.Millisecond))))
	}
	worst, tail := fired{}, 0
	for range n + 2 {
		f := <-all
		require.GreaterOrEqual(t, f.late, time.Duration(0), "%v, seed %d", f.asked, seed)
		if f.asked > 0 && f.late > worst.late {
			worst = f
		}
		if f.late > 2*cfg.Tick {
			tail++
		}
	}
	t.Logf("the latest of %d: %v late for %v; %d later than two ticks; seed %d", n, worst.late, worst.asked, tail, seed)
	t.NotLater(worst.from, worst.from.Add(worst.asked+worst.late), worst.asked+2*cfg.Tick+slack, "a timer of %v", worst.asked)
	assert.Empty(t, all, "each once")
}

func TestAfterStop(t *testing.T) {
	t.Parallel()
	cfg := calm()
	_, _, s := open(t, newRecorder(), cfg)
	var ran []string
	note := func(what string) func() { return func() { ran = append(ran, what) } }
	done := make(chan struct{})
	onLoop(t, s, func() {
		s.After(20*time.Millisecond, note("kept"))
		stop := s.After(20*time.Millisecond, note("stopped at once"))
		stop()
		stop()
		var stopLater func()
		s.After(0, func() { note("first")(); stopLater() }) // from another timer, before its time
		stopLater = s.After(30*time.Millisecond, note("stopped later"))
		late := s.After(0, note("stopped too late"))
		s.After(60*time.Millisecond, func() { late(); stop(); close(done) })
	})
	<-done
	onLoop(t, s, func() {
		slices.Sort(ran)
		assert.Equal(t, []string{"first", "kept", "stopped too late"}, ran)
	})

	// Stopped by others while it comes due: it runs once or not at all, and what was stopped in time
	// does not run.
	const n = 500
	var runs [n]atomic.Int32
	var all sync.WaitGroup
	stopped := 0
	for i := range n {
		stop := s.After(time.Duration(i%20)*time.Millisecond, func() { runs[i].Inc() })
		if i%5 == 4 {
			stop() // the next tick of 10 ms has hardly begun
			onLoop(t, s, func() {})
			if runs[i].Load() == 0 {
				stopped++
				runs[i].Store(-9)
			}
			continue
		}
		for range 2 {
			all.Go(func() {
				for range i {
					runtime.Gosched()
				}
				stop()
			})
		}
	}
	all.Wait()
	flushed := make(chan struct{})
	s.After(50*time.Millisecond, func() { close(flushed) }) // later than all of them
	<-flushed
	ones := 0
	for i := range runs {
		v := runs[i].Load()
		assert.Contains(t, []int32{-9, 0, 1}, v, "timer %d", i)
		if v == 1 {
			ones++
		}
	}
	assert.Positive(t, stopped)
	t.Logf("%d of %d ran, %d were stopped for certain", ones, n, stopped)
}

// Timers end with their session, and a timer may set another.
func TestAfterAndTheSession(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	srv, cl, s := open(t, h, calm())
	clock := dial(t, srv)
	other := h.nextOpen(t)
	var ran atomic.Int32
	begun := time.Now()
	stop := s.After(30*time.Millisecond, func() { ran.Inc() })
	s.After(time.Hour, func() { ran.Inc() })
	require.NoError(t, s.Close(server.PeerFlood, ""))
	h.nextClose(t)
	s.After(0, func() { ran.Inc() })()
	s.After(0, func() { ran.Inc() })
	stop()

	done := make(chan time.Duration)
	steps := 0
	var step func()
	step = func() { // on the loop on which the others would have run
		if steps++; steps == 5 {
			done <- time.Since(begun)
			return
		}
		other.After(20*time.Millisecond, step)
	}
	other.After(20*time.Millisecond, step)
	assert.GreaterOrEqual(t, <-done, 100*time.Millisecond)
	assert.Zero(t, ran.Load())
	clock.echoes(t)
	cl.Close()
}
