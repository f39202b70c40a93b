package server_test

import (
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// watched is a server of two loops whose turns may last 250 ms, with a session on each of them.
func watched(t *testing.T, h *recorder) (log *lines, srv *server.Server, cl [2]*client, s [2]*server.Session) {
	t.Helper()
	log = &lines{}
	cfg := calm()
	cfg.Loops, cfg.BlockWarning, cfg.Logger = 2, 250*time.Millisecond, log.logger()
	srv = start(t, h, cfg)
	for i := range cl { // each goes to the loop with the fewest
		cl[i] = dial(t, srv)
		s[i] = h.nextOpen(t)
		cl[i].echoes(t)
	}
	return log, srv, cl, s
}

const (
	heldUpLine = "a loop is held up"
	goesOnLine = "that was held up goes on"
)

// blockHere and blockThere are what a stack must name.
//
//go:noinline
func blockHere(until <-chan struct{}) { <-until }

//go:noinline
func blockThere(until <-chan struct{}) { <-until }

// A method that holds its loop up is found out, wherever it is called from: which loop, by what, how long.
// Nobody is convicted for it, and the other loop goes on.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	say := func(t *testing.T, cl *client, _ *server.Session) { cl.send(t, codec.Data, []byte("block")) }
	for in, act := range map[string]func(t *testing.T, cl *client, s *server.Session){
		"OnMessage": say,
		"OnClose":   func(_ *testing.T, cl *client, _ *server.Session) { cl.Close() },
		"OnClose within a turn": func(t *testing.T, _ *client, s *server.Session) {
			assert.NoError(t, s.Close(server.PeerFlood, ""))
		},
		"a label": say, "a goroutine of its own": say,
		"Post": nil, "After": nil,
	} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			until := make(chan struct{})
			release := sync.OnceFunc(func() { close(until) })
			t.Cleanup(release)
			bystander := make(chan struct{})
			h := newRecorder()
			h.onMessage = func(s *server.Session, p []byte) error {
				if string(p) != "block" {
					return s.Send(p)
				}
				switch in {
				case "a label": // takes the loop's away
					pprof.Do(context.Background(), pprof.Labels("mine", "yes"), func(context.Context) { blockHere(until) })
				case "a goroutine of its own": // has the loop's
					go func() { defer close(bystander); blockThere(until) }()
					blockHere(until)
				default:
					blockHere(until)
				}
				return nil
			}
			h.onClose = func(*server.Session, *server.CloseError) { blockHere(until) }
			log, srv, cl, s := watched(t, h)
			begun := time.Now()
			switch in {
			case "Post":
				require.NoError(t, s[1].Post(func() { blockHere(until) }))
			case "After":
				s[1].After(time.Millisecond, func() { blockHere(until) })
			default:
				act(t, cl[1], s[1])
			}
			eventually(t, 10*time.Second, func() bool { return len(log.with(heldUpLine)) > 0 }, "the line")
			assert.GreaterOrEqual(t, time.Since(begun), 250*time.Millisecond)
			cl[0].echoes(t)
			line := log.with(heldUpLine, "level=WARN")[0]
			assert.Contains(t, line, " loop=1 ")
			assert.Contains(t, line, "blockHere")
			assert.Contains(t, line, "watchdog_test.go:")
			assert.NotContains(t, line, "blockThere")
			assert.NotContains(t, line, "\\nor\\n", "one stack")
			st := srv.Stats()
			assert.EqualValues(t, 1, st.Blocks)
			assert.Equal(t, 1, st.Blocked)
			assert.GreaterOrEqual(t, st.BlockLongest, 250*time.Millisecond)
			release()
			eventually(t, 10*time.Second, func() bool { return len(log.with(goesOnLine)) > 0 }, "the other line")
			longest := time.Since(begun)
			assert.Contains(t, log.with(goesOnLine)[0], " loop=1 ")
			st = srv.Stats()
			assert.Zero(t, st.Blocked)
			assert.LessOrEqual(t, st.BlockLongest, longest)
			assert.Zero(t, st.Suspected)
			if strings.HasPrefix(in, "OnClose") {
				h.nextClose(t)
			} else {
				cl[1].echoes(t)
				assert.Empty(t, h.closes)
			}
			assert.Len(t, log.with(heldUpLine), 1, "once for each time")
			if in == "a goroutine of its own" {
				<-bystander
			}
		})
	}
}

// Two loops that are held up at the same time are told apart.
func TestWatchdogTwoLoops(t *testing.T) {
	t.Parallel()
	until := make(chan struct{})
	h := newRecorder()
	log, srv, _, s := watched(t, h)
	require.NoError(t, s[0].Post(func() { blockHere(until) }))
	require.NoError(t, s[1].Post(func() { blockThere(until) }))
	eventually(t, 10*time.Second, func() bool { return len(log.with(heldUpLine)) == 2 }, "two lines")
	assert.Len(t, log.with(heldUpLine, " loop=0 ", "blockHere"), 1)
	assert.Len(t, log.with(heldUpLine, " loop=1 ", "blockThere"), 1)
	assert.Equal(t, 2, srv.Stats().Blocked)
	close(until)
	eventually(t, 10*time.Second, func() bool { return len(log.with(goesOnLine)) == 2 }, "two more")
	for i, s := range s { // and each is found out again
		again := make(chan struct{})
		require.NoError(t, s.Post(func() { blockHere(again) }))
		eventually(t, 10*time.Second, func() bool { return len(log.with(heldUpLine, fmt.Sprintf(" loop=%d ", i))) == 2 }, "one more")
		close(again)
	}
	require.NoError(t, srv.Close())
	assert.Len(t, log.with(goesOnLine), 4, "told before Close returns")
	assert.EqualValues(t, 4, srv.Stats().Blocks)
	assert.Zero(t, srv.Stats().Blocked)
}

// A loop that has much to do, in many turns, is not held up; nor is one that has nothing to do. And
// who does not want to know is not told.
func TestWatchdogQuiet(t *testing.T) {
	t.Parallel()
	log, srv, cl, s := watched(t, newRecorder())
	for begun := time.Now(); time.Since(begun) < 600*time.Millisecond; {
		cl[0].echoes(t)
	}
	assert.Empty(t, log.with(heldUpLine))
	assert.Zero(t, srv.Stats().BlockLongest)
	_ = s

	cfg := calm()
	cfg.BlockWarning, cfg.Logger = -1, log.logger()
	srv, _, one := open(t, newRecorder(), cfg)
	onLoop(t, one, func() { time.Sleep(500 * time.Millisecond) })
	assert.Zero(t, srv.Stats().Blocks)
	assert.Empty(t, log.with(heldUpLine))
}
