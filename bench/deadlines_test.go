//go:build linux

package bench

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/codec"
)

var (
	deadlinesClients = flag.String("deadlines.clients", "1000",
		"busy clients in TestDeadlines, one message outstanding on each; a list: one after the other")
	deadlinesHandler = flag.String("deadlines.handler", "100us",
		"how long the Handler is busy with a message; a list likewise")
	deadlinesIdle  = flag.Int("deadlines.idle", 2000, "idle clients beside a flood")
	deadlinesFlood = flag.Int("deadlines.flood", 20,
		"clients that flood with empty frames; if zero, there is no flood")
	deadlinesProbes  = flag.Int("deadlines.probes", 8, "clients of each kind that a deadline is for")
	deadlinesTimeout = flag.Duration("deadlines.timeout", 1500*time.Millisecond,
		"Policy.Timeout; Interval is a third of it, the other timeouts two thirds, Tick 50 ms")
	deadlinesDefault = flag.Bool("deadlines.defaults", false,
		"instead of -deadlines.timeout, all deadlines are those of a zero Config")
	deadlinesWait = flag.Duration("deadlines.wait", 3*time.Second,
		"how late a deadline may be told before it counts as never told")
	deadlinesStop = flag.Duration("deadlines.stop", time.Second,
		"for how long the server is stopped (SIGSTOP) at the end; less than 10 s, the patience of the load")
)

// TestDeadlines has one loop serve clients that keep it busy, or few that flood it. Beside them are
// timers, and clients that fall silent in each way that there is a deadline for. It prints by how much
// each deadline is told late. The 99th percentile may be two ticks and 5 % of the deadline; beside a
// flood one round of the loop more, as LoopStats.LagWorst has it. At the end the server is stopped for
// a while, which must end no client.
//
// "late" counts from what the server has heard last, "by the client" from what the client has done
// last: that includes the time until the loop has read it. "waited for a CPU" is the share of the time
// for which a thread of the server did; where it is large the machine, not the server, may be late.
//
//	go test ./bench -run TestDeadlines -v -timeout 30m \
//		-deadlines.clients 1000,8000,15000 -deadlines.handler 0,20us,100us \
//		-deadlines.idle 9500 -deadlines.flood 40 -deadlines.probes 40 \
//		-deadlines.timeout 6s -deadlines.wait 10s -deadlines.stop 6s
func TestDeadlines(t *testing.T) {
	p := promised(*deadlinesTimeout)
	if *deadlinesDefault {
		p = byDefault()
	}
	var all []deadlineScene
	for _, n := range strings.Split(*deadlinesClients, ",") {
		clients, err := strconv.Atoi(n)
		require.NoError(t, err, "-deadlines.clients")
		for _, w := range strings.Split(*deadlinesHandler, ",") {
			s := deadlineScene{promises: p, clients: clients}
			if w != "0" {
				s.Work, err = time.ParseDuration(w)
				require.NoError(t, err, "-deadlines.handler")
			}
			s.name = fmt.Sprintf("%d busy, handler %v", clients, s.Work)
			all = append(all, s)
		}
	}
	if n := *deadlinesFlood; n > 0 {
		name := fmt.Sprintf("%d idle, %d flood", *deadlinesIdle, n)
		all = append(all, deadlineScene{promises: p, name: name, clients: *deadlinesIdle, flood: n})
	}
	var book deadlineBook
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			busy := ""
			for attempt := 1; ; attempt++ {
				found := s.run(t)
				wrong, late, excuse := found.judge()
				if busy == "" {
					busy = excuse
				}
				if len(wrong) == 0 && len(late) > 0 && attempt < deadlineAttempts {
					t.Logf("attempt %d is repeated: %s", attempt, strings.Join(late, "; "))
					continue
				}
				book.enter(found)
				for _, f := range wrong {
					assert.Fail(t, f)
				}
				if len(late) > 0 && len(wrong) == 0 && busy != "" {
					t.Skip(busy)
				}
				for _, f := range late {
					assert.Fail(t, f)
				}
				return
			}
		})
	}
	if len(book.loops.Rows) > 0 {
		t.Log("\n" + book.String())
	}
}

// deadlineAttempts is how often a scene is played if something is late: a machine that is busy with
// other work makes a server late, too. What is never told, or told otherwise, is not played again.
const deadlineAttempts = 3

// A deadlineScene is one load and the probes beside it.
type deadlineScene struct {
	promises
	name    string
	clients int
	flood   int // clients that flood; if zero, the clients are busy
}

// deadlinesFound is what came of a scene.
type deadlinesFound struct {
	deadlineScene
	told    deadlinesAnswer
	probes  []probe
	load    load.Result
	since   time.Duration // for which the server had been watched when it was asked
	cpu     *cpuWaits     // in that time
	before  loopFigures   // when the load was under way
	stopped loopFigures   // after the stop
	lost    []string      // clients that were ended and should not have been
}

// run plays the scene.
func (s deadlineScene) run(t *testing.T) deadlinesFound {
	found := deadlinesFound{deadlineScene: s}
	arg, err := json.Marshal(s.promises)
	require.NoError(t, err)
	srv, err := rig.Start(rig.Server{Role: "deadlines", Args: []string{string(arg)}})
	require.NoError(t, err)
	defer func() { assert.NoError(t, srv.Stop()) }()
	clients, err := rig.StartLoad(1, nil)
	require.NoError(t, err)
	defer func() { assert.NoError(t, clients.Stop()) }()
	message := frame(codec.Data, make([]byte, 64))
	o := load.Options{Addr: srv.Addr(), Conns: s.clients, Message: message, Pongs: true, Sources: 4}
	require.NoError(t, clients.Open(o))
	_, err = clients.Run(load.Round{Messages: s.clients})
	require.NoError(t, err, "a longer -deadlines.timeout gives so many clients the time to come")
	if s.flood > 0 {
		flood := spawn(t, role(t, "empties", srv.Addr(), strconv.Itoa(s.flood)), nil)
		defer flood.leave(t)
	}

	// The load goes on in rounds until all has been told. The first is long, and is what is printed.
	longest := max(s.Timeout, s.Handshake, s.Frame, s.Write)
	spread := s.Timeout / 3
	quit, ran := make(chan struct{}), make(chan error, 1)
	if s.flood == 0 {
		go func() {
			for length := longest + spread; ; length = 2 * time.Second {
				r, err := clients.Run(load.Round{For: length})
				if found.load.Messages == 0 {
					found.load = r
				}
				select {
				case <-quit:
					ran <- err
					return
				default:
				}
				if err != nil {
					<-quit
					ran <- err
					return
				}
			}
		}()
	}
	time.Sleep(s.Timeout / 5) // so that it is under way
	found.before = askDeadlines(t, srv, "[]").Loop
	begun := time.Now()
	found.cpu = watchCPUWaits(srv.PID())
	probes := spawn(t, role(t, "probes", srv.Addr(), strconv.Itoa(*deadlinesProbes), spread.String(),
		deadlinesWait.String()), &found.probes)
	defer probes.leave(t)
	addrs := addrsOf(found.probes)
	for end := time.Now().Add(longest + *deadlinesWait); ; {
		found.told = askDeadlines(t, srv, addrs)
		if found.allTold() && time.Since(begun) > longest || time.Now().After(end) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	found.since = time.Since(begun)
	found.cpu.stop()

	require.NoError(t, syscall.Kill(srv.PID(), syscall.SIGSTOP))
	time.Sleep(*deadlinesStop)
	require.NoError(t, syscall.Kill(srv.PID(), syscall.SIGCONT))
	time.Sleep(max(s.Interval, 500*time.Millisecond))
	if s.flood == 0 {
		close(quit)
		if err := <-ran; err != nil {
			found.lost = append(found.lost, err.Error())
		}
	}
	last := askDeadlines(t, srv, addrs)
	found.stopped = last.Loop
	for told, n := range last.Others {
		found.lost = append(found.lost, fmt.Sprintf("%d times %s", n, told))
	}
	if s.flood > 0 { // that they answer still
		if _, err := clients.Pings(); err != nil {
			found.lost = append(found.lost, err.Error())
		}
	}
	return found
}

func askDeadlines(t *testing.T, srv *rig.Process, addrs string) (a deadlinesAnswer) {
	t.Helper()
	answer, err := srv.Ask("told " + addrs)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(answer), &a), answer)
	return a
}

func addrsOf(probes []probe) string {
	addrs := make([]netip.AddrPort, len(probes))
	for i, p := range probes {
		addrs[i] = p.Addr
	}
	b, err := json.Marshal(addrs)
	fatal(err)
	return string(b)
}

// allTold reports whether all has been told that is due in the end.
func (f *deadlinesFound) allTold() bool {
	for _, p := range f.probes {
		if g := f.told.Probes[p.Addr]; g.Closed == 0 && p.Kind != probeTimers {
			return false
		}
	}
	return true
}
