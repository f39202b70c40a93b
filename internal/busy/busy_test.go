package busy

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// long is later than any limit here.
const long = time.Second

// sure has the watch say that the machine was busy, or was not, whatever it is.
func (t *T) sure(busy bool) *T {
	t.watch.mu.Lock()
	defer t.watch.mu.Unlock()
	t.watch.fixed = &busy
	return t
}

// blips has the watch say, too, that processes had to wait for so long.
func (t *T) blips(d time.Duration) *T {
	t.watch.waited = d
	return t
}

// scenes are tests that end in each of the ways there are. They run in a process of their own, where they may fail.
var scenes = map[string]func(t *T){
	"in time":                  func(t *T) { t.sure(true).NotLater(time.Now(), time.Now(), long, "nothing") },
	"late on a quiet machine":  func(t *T) { late(t.sure(false)) },
	"late on a busy machine":   func(t *T) { late(t.sure(true)) },
	"late by a blip":           func(t *T) { late(t.sure(false).blips(2 * long)) },
	"late by more than a blip": func(t *T) { late(t.sure(false).blips(long / 2)) },
	"late by a blip once":      func(t *T) { first(t, func() { late(t.sure(false).blips(2 * long)) }) },
	"late once":                func(t *T) { late(t.sure(true)); late(t.sure(false)) },
	"late, then wrong": func(t *T) {
		late(t.sure(true))
		require.Equal(t, 1, 2)
	},
	"wrong on a busy machine": func(t *T) { assert.Equal(t.sure(true), 1, 2) },
	"fatal on a busy machine": func(t *T) { t.sure(true).Fatal("no way"); fmt.Println("not reached") },
	"mild on a busy machine":  func(t *T) { assert.Equal(t.sure(true).IfQuiet(time.Hour), 1, 2); fmt.Println("goes on") },
	"mild on a quiet machine": func(t *T) { assert.Equal(t.sure(false).IfQuiet(time.Hour), 1, 2) },
	"mild and no more, busy":  func(t *T) { require.Equal(t.sure(true).IfQuiet(time.Hour), 1, 2); fmt.Println("not reached") },
	"mild and no more, quiet": func(t *T) { require.Equal(t.sure(false).IfQuiet(time.Hour), 1, 2); fmt.Println("not reached") },
	"wrong in a cleanup":      func(t *T) { t.Cleanup(func() { require.Equal(t, 1, 2) }) },
	"late the first time":     func(t *T) { first(t, func() { late(t.sure(true)) }) },
	"wrong the second time": func(t *T) {
		again := true
		first(t, func() { again = false; late(t.sure(true)) })
		assert.False(t, again)
	},
	"skips by itself":               func(t *T) { t.Skip("not here") },
	"cannot tell by itself":         func(t *T) { t.CannotTell("why in %d", t.Attempt()) },
	"parallel, late the first time": func(t *T) { t.Parallel(); first(t, func() { late(t.sure(true)) }) },
}

// late says that something was late that was not.
func late(t *T) { t.NotLater(time.Now().Add(-2*long), time.Now(), long, "waiting for %s", "Godot") }

var calls int

// first calls f the first time.
func first(t *T, f func()) {
	calls++
	t.Cleanup(func() { fmt.Println("cleaned up after attempt", calls) })
	if calls == 1 {
		f()
	}
}

// A test that waits for others measures nothing meanwhile, which would disturb them.
func TestNothingIsMeasuredWhileParallelWaits(t *testing.T) {
	a := newT(t)
	before := a.watch
	a.parallel = func() {
		select {
		case <-before.done:
		default:
			t.Error("a watch goes on")
		}
		time.Sleep(4 * Doze)
	}
	waits := time.Now()
	a.Parallel()
	defer a.watch.Stop()
	assert.False(t, a.watch.loads[0].at.Before(waits.Add(4*Doze)), "what was before is not part of it")
}

// TestScene is the one that the environment names, in a process that TestTry starts.
func TestScene(t *testing.T) {
	if scene, ok := scenes[os.Getenv("BUSY_SCENE")]; ok {
		Try(t, scene)
		fmt.Println("Try has returned")
	}
}

func TestTry(t *testing.T) {
	for name, want := range map[string]struct{ says, not string }{
		"in time":                  {"^Try has returned.*--- PASS", "once more"},
		"late on a quiet machine":  {`took 2(\.\d+)?s; the limit is 1s.*--- FAIL`, "once more|returned"},
		"late on a busy machine":   {"once more, .*once more, .*cannot tell, 3 times: .*waiting for Godot took .*--- SKIP", "returned"},
		"late by a blip":           {"once more, .*once more, .*3 times, and the machine was not busy.*--- FAIL", "returned"},
		"late by more than a blip": {"--- FAIL", "once more|returned"},
		"late by a blip once":      {"once more.*returned.*--- PASS", "attempt 3"},
		"late once":                {"--- FAIL", "once more|returned"},
		"late, then wrong":         {"--- FAIL", "once more|returned"},
		"wrong on a busy machine":  {"--- FAIL", "once more|returned"},
		"fatal on a busy machine":  {"no way.*--- FAIL", "once more|reached|returned"},
		"mild on a busy machine":   {"goes on.*once more.*goes on.*once more.*goes on.*cannot tell.*Not equal.*--- SKIP", "returned"},
		"mild on a quiet machine":  {"Not equal.*--- FAIL", "once more|returned"},
		"mild and no more, busy":   {"once more.*cannot tell.*Not equal.*--- SKIP", "reached|returned"},
		"mild and no more, quiet":  {"Not equal.*--- FAIL", "once more|reached|returned"},
		"wrong in a cleanup":       {"Not equal.*--- FAIL", "returned"},
		"late the first time":      {"attempt 1.*once more.*attempt 2.*returned.*--- PASS", "attempt 3|cannot tell"},
		"wrong the second time":    {"attempt 1.*once more.*attempt 2.*--- FAIL", "attempt 3|returned"},
		"cannot tell by itself":    {"why in 1.*why in 2.*cannot tell, 3 times: .*: why in 3.*--- SKIP", "returned"},
		"skips by itself":          {"not here.*--- SKIP", "once more|returned"},
		"parallel, late the first time": {
			"attempt 1.*once more.*attempt 2.*returned.*--- PASS", "panic|attempt 3|cannot tell"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run", "^TestScene$", "-test.v")
			cmd.Env = append(os.Environ(), "BUSY_SCENE="+name)
			out, err := cmd.CombinedOutput()
			said := strings.ReplaceAll(string(out), "\n", " ")
			said = strings.TrimPrefix(regexp.MustCompile(`=== \w+ +TestScene`).ReplaceAllString(said, ""), " ")
			assert.Regexp(t, want.says, strings.TrimSpace(said))
			assert.NotRegexp(t, want.not, said)
			assert.Equal(t, strings.Contains(want.says, "FAIL"), err != nil)
		})
	}
	assert.Len(t, scenes, 20)
}

// What the machine has taken is counted.
func TestWatch(t *testing.T) {
	w := Start()
	defer w.Stop()
	begun := time.Now()
	time.Sleep(10 * Doze)
	before := w.Held()
	assert.LessOrEqual(t, before, time.Since(begun), "no more than there was")
	w.mu.Lock() // it cannot count, as if it had not been woken
	const away = 200 * time.Millisecond
	time.Sleep(away)
	w.mu.Unlock()
	now := time.Now()
	assert.GreaterOrEqual(t, w.Held()-before, away-2*Doze)
	assert.InDelta(t, away/2, w.HeldBetween(now.Add(-away/2), now), float64(Doze))
	assert.Zero(t, w.HeldBetween(begun.Add(-time.Hour), begun.Add(-time.Minute)))
	assert.Zero(t, w.HeldBetween(now.Add(time.Minute), now.Add(time.Hour)))
	assert.Equal(t, w.Held(), w.HeldBetween(begun.Add(-time.Hour), time.Now()))
	busy, says := w.BusyBetween(now.Add(-away), now)
	assert.True(t, busy, says)
	assert.LessOrEqual(t, w.Unseen(), Doze)
}

// What this process and its children do is no other work, however much it is.
func TestWhoseWork(t *testing.T) {
	if machineCPU() == 0 {
		t.Skip("this system does not say who uses its processors")
	}
	var stop atomic.Bool
	defer stop.Store(true)
	go func() {
		for !stop.Load() {
		}
	}()
	child := exec.Command("sh", "-c", "while :; do :; done")
	require.NoError(t, child.Start())
	before := loadNow()
	Wait(t, Patience, func() bool { return childrenCPU() >= 50*time.Millisecond }, "what the child uses")
	Wait(t, Patience, func() bool { return loadNow().less(before).own >= 50*time.Millisecond }, "what this process uses")
	used := childrenCPU()
	l := loadNow().less(before)
	assert.GreaterOrEqual(t, l.all, used+l.own-5*hz, "all is more")
	require.NoError(t, child.Process.Kill())
	_ = child.Wait()
	assert.Zero(t, childrenCPU())
	assert.GreaterOrEqual(t, loadNow().less(before).own, used+50*time.Millisecond-5*hz, "a child that has ended is counted with this process")
}

func TestBusyLoad(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name string
		l    load
		held time.Duration
		busy bool
	}{
		{"idle", load{span: 10 * s}, 0, false},
		{"own work only", load{span: 10 * s, waited: 10 * s, all: 20 * s, own: 20 * s}, 0, false},
		{"others work, nobody waits", load{span: 10 * s, waited: s, all: 15 * s, own: 2 * s}, 0, false},
		{"others work, and some wait", load{span: 10 * s, waited: 4 * s, all: 15 * s, own: 2 * s}, 0, true},
		{"all stood still", load{span: 10 * s}, 6 * s, true},
		{"it stood still for a while", load{span: 10 * s}, 4 * s, false},
	} {
		assert.Equal(t, c.busy, c.l.busy(c.held, c.l.others(0, 2)), c.name)
	}
	assert.Zero(t, load{span: 10 * s, all: 20 * s, own: s}.others(19*s, 2), "its children work")
	assert.Zero(t, load{span: 10 * s, all: 20 * s, own: s}.others(25*s, 2), "its children worked before")
	assert.InDelta(t, 0.5, load{span: 10 * s, all: 20 * s, own: s}.others(9*s, 2), 0.001)
}
