package main

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	russell "github.com/RussellLuo/timingwheel"
	antlabs "github.com/antlabs/timer"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A keeper holds n timers, numbered from 0. Its methods do something with all of them, so that no call
// through an interface is in what a single timer costs. They belong to one goroutine.
type keeper interface {
	// schedule starts timers that are not pending: each is due after base and its own jitter.
	schedule(base time.Duration)
	// touch puts off timers that are pending, in random order, as traffic on their connections does.
	touch(base time.Duration)
	// cancel stops all timers.
	cancel()
	// settle gets rid of what canceled timers have left behind.
	settle()
	// due starts timers that are not pending, all for the same instant, and returns after it, when they
	// have fired or may no longer be expected to.
	due(at time.Time)
	// fired returns how many timers have fired so far, and when in relation to the instant given to due.
	fired() firings
	close()
}

// jitter is over how much time timers are spread.
const jitter = 20 * time.Second

// A counter counts timers that fire. Its methods may be called by several goroutines.
type counter struct {
	at               time.Time // what due was told; set before timers are started
	hits             []uint8   // of each timer
	count            atomic.Int64
	earliest, latest atomic.Int64 // relative to at, in nanoseconds
}

// firings are what a counter has counted.
type firings struct {
	Count            int
	Earliest, Latest time.Duration // in relation to when they were due
}

func newCounter(n int) *counter {
	c := &counter{hits: make([]uint8, n)}
	c.reset(time.Now())
	return c
}

// reset begins again, while nothing is pending.
func (c *counter) reset(at time.Time) {
	c.at = at
	clear(c.hits)
	c.count.Store(0)
	c.earliest.Store(1<<63 - 1)
	c.latest.Store(-1 << 63)
}

// fire counts that timer i has fired. It is not called twice at a time for the same timer.
func (c *counter) fire(i int) {
	c.hits[i]++
	late := int64(time.Since(c.at))
	for was := c.earliest.Load(); late < was && !c.earliest.CompareAndSwap(was, late); was = c.earliest.Load() {
	}
	for was := c.latest.Load(); late > was && !c.latest.CompareAndSwap(was, late); was = c.latest.Load() {
	}
	c.count.Add(1)
}

func (c *counter) fired() firings {
	f := firings{Count: int(c.count.Load())}
	if f.Count > 0 {
		f.Earliest, f.Latest = time.Duration(c.earliest.Load()), time.Duration(c.latest.Load())
	}
	return f
}

// await waits until n timers have fired, or none has for some seconds.
func (c *counter) await(n int) {
	time.Sleep(time.Until(c.at))
	for before, since := int64(-1), time.Now(); ; time.Sleep(time.Millisecond) {
		now := c.count.Load()
		if now >= int64(n) || now == before && time.Since(since) > 5*time.Second {
			return
		}
		if now != before {
			before, since = now, time.Now()
		}
	}
}

// shuffled returns the numbers below n in random order.
func shuffled(n int) []uint32 {
	order := make([]uint32, n)
	for i, id := range rand.Perm(n) {
		order[i] = uint32(id)
	}
	return order
}

// jitters returns n durations below jitter.
func jitters(n int) []time.Duration {
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = rand.N(jitter)
	}
	return all
}

// A contender makes a keeper of n timers; tick is its grain, if it has one that can be set.
type contender struct {
	name string
	make func(n int, tick time.Duration) keeper
}

// contenders are all of them; the first is ours.
var contenders = []contender{
	{"heartbeat.Wheel", newWheel},
	{"time.AfterFunc", func(n int, _ time.Duration) keeper {
		return newFuncs(n, api[*time.Timer]{
			after: time.AfterFunc,
			move: func(t *time.Timer, d time.Duration, _ func()) *time.Timer {
				t.Reset(d)
				return t
			},
			stop: func(t *time.Timer) { t.Stop() },
			end:  func() {},
		})
	}},
	{"RussellLuo/timingwheel", func(n int, tick time.Duration) keeper {
		w := russell.NewTimingWheel(tick, 4096)
		w.Start()
		return newFuncs(n, api[*russell.Timer]{
			after: w.AfterFunc,
			move: func(t *russell.Timer, d time.Duration, f func()) *russell.Timer { // it has no Reset
				t.Stop()
				return w.AfterFunc(d, f)
			},
			stop: func(t *russell.Timer) { t.Stop() },
			end:  w.Stop,
		})
	}},
	{"antlabs/timer", func(n int, _ time.Duration) keeper {
		w := antlabs.NewTimer(antlabs.WithTimeWheel())
		go w.Run()
		return newFuncs(n, api[antlabs.TimeNoder]{
			after: w.AfterFunc,
			move: func(t antlabs.TimeNoder, d time.Duration, _ func()) antlabs.TimeNoder {
				t.Reset(d) // it waits for itself forever if the new slot is the old one: see bases
				return t
			},
			stop: func(t antlabs.TimeNoder) { t.Stop() },
			end:  w.Stop,
		})
	}},
}

// bases are what the timers are put off by in turn. They differ by so much that no timer stays in its slot of
// 2.56 s of antlabs/timer, which would block forever, and come back to it only if a minute lies between.
var bases = [2]time.Duration{60 * time.Second, 120 * time.Second}

// An api is how timers of type T are used.
type api[T any] struct {
	after func(time.Duration, func()) T
	move  func(T, time.Duration, func()) T
	stop  func(T)
	end   func()
}

// funcs is a keeper with a timer of type T, and a function, for each.
type funcs[T any] struct {
	*counter
	api[T]
	timers []T
	delays []time.Duration
	order  []uint32
	again  func()
}

func newFuncs[T any](n int, a api[T]) keeper {
	f := &funcs[T]{counter: newCounter(n), api: a, timers: make([]T, n), delays: jitters(n), order: shuffled(n)}
	f.again = f.call(0)
	return f
}

// call returns a function of its own for a timer, which has to know whose it is.
func (f *funcs[T]) call(i int) func() { return func() { f.fire(i) } }

func (f *funcs[T]) schedule(base time.Duration) {
	for i := range f.timers {
		f.timers[i] = f.after(base+f.delays[i], f.call(i))
	}
}

func (f *funcs[T]) touch(base time.Duration) {
	for _, i := range f.order {
		f.timers[i] = f.move(f.timers[i], base+f.delays[i], f.again)
	}
}

func (f *funcs[T]) cancel() {
	for _, t := range f.timers {
		f.stop(t)
	}
}

func (f *funcs[T]) settle() {}

func (f *funcs[T]) due(at time.Time) {
	f.counter.reset(at)
	for i := range f.timers {
		f.timers[i] = f.after(time.Until(at), f.call(i))
	}
	f.await(len(f.timers))
}

func (f *funcs[T]) close() { f.end() }

// wheel is ours: numbers instead of timers, and a clock that its owner reads.
type wheel struct {
	*counter
	w      *heartbeat.Wheel
	tick   time.Duration
	epoch  time.Time
	delays []uint32 // in ticks
	order  []uint32
}

func newWheel(n int, tick time.Duration) keeper {
	k := &wheel{
		counter: newCounter(n), w: heartbeat.NewWheel(1), tick: tick, epoch: time.Now(),
		order: shuffled(n), delays: make([]uint32, n),
	}
	for i, d := range jitters(n) {
		k.delays[i] = uint32(d / tick)
	}
	return k
}

// now is the tick that has come: the first one came at epoch.
func (k *wheel) now() heartbeat.Tick {
	return heartbeat.Tick(1).Add(uint32(time.Since(k.epoch) / k.tick))
}

// pass lets time pass, so that nobody has to wait for it.
func (k *wheel) pass(ticks int) { k.epoch = k.epoch.Add(-time.Duration(ticks) * k.tick) }

func (k *wheel) schedule(base time.Duration) {
	from := k.now().Add(uint32(base / k.tick))
	for i, d := range k.delays {
		k.w.Schedule(uint32(i), from.Add(d))
	}
}

// touch is told a tick that has not been there before: otherwise nothing would be stored.
func (k *wheel) touch(time.Duration) {
	k.pass(1)
	now := k.now()
	for _, i := range k.order {
		k.w.Touch(i, now)
	}
}

func (k *wheel) cancel() {
	for i := range k.delays {
		k.w.Cancel(uint32(i))
	}
}

func (k *wheel) settle() {
	k.pass(2 * heartbeat.Horizon)
	k.w.Advance(k.now(), noLimit, k.look)
}

// due is an event loop that turns once in a tick and looks at some thousand at a time.
func (k *wheel) due(at time.Time) {
	k.counter.reset(at)
	k.w.Advance(k.now(), noLimit, k.look)
	when := heartbeat.Tick(1).Add(uint32((at.Sub(k.epoch) + k.tick - 1) / k.tick)) // rounded up: never early
	for i := range k.delays {
		k.w.Schedule(uint32(i), when)
	}
	for k.w.Next() != 0 {
		time.Sleep(time.Until(k.epoch.Add(time.Duration(k.now()) * k.tick)))
		for done := false; !done; {
			_, done = k.w.Advance(k.now(), 4096, k.look)
		}
	}
}

// noLimit is a budget that is never used up.
const noLimit = 1<<31 - 1

func (k *wheel) look(id uint32, _ heartbeat.Tick) heartbeat.Tick {
	k.fire(int(id))
	return 0
}

func (k *wheel) close() {}
