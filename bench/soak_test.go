//go:build linux

package bench

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/server"
)

var (
	soakLength = flag.Duration("soak", 5*time.Second, "for how long TestSoak lets its clients do what they like")
	soakSeed   = flag.Uint64("soak.seed", 0, "what they draw it from; 0: the clock")
)

const (
	soakHonest = 100 // sessions
	soakChaos  = 2   // processes
)

// TestSoak lets processes that do anything to a server do it for as long as -soak says, drawn from -soak.seed, next
// to honest clients in a process of their own, and to clients far away whose paths break (with root). At the end everything must be as at the beginning, and the honest
// must have lost nothing.
//
//	go test ./bench -run TestSoak -v -soak 10m -timeout 20m
func TestSoak(t *testing.T) { // not parallel: it looks at what this process has
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: -soak.seed replays what is done, not when the machine comes to do it", seed)
	goroutines := serverGoroutines()

	app := &arena{wrong: map[string]int{}}
	log := &lineCount{lines: map[string]int{}}
	cfg := soakConfig
	cfg.Logger = slog.New(log)
	srv, err := server.New(app, cfg)
	require.NoError(t, err)
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	var ready string
	honest := spawn(t, role(t, "soak-honest", addr, strconv.Itoa(soakHonest)), &ready)
	eventually(t, 10*time.Second, func() bool { return app.honest.Load() == soakHonest }, "the honest are there")

	held := watchHeldUp()
	far := startRemotes(t, srv, app, held)
	before := takeStock()
	begun := time.Now()
	if far != nil {
		far.begin()
	}
	var mad []*chaosProc
	for i := range soakChaos {
		mad = append(mad, startChaos(t, addr, seed, i))
	}
	peak := soak(srv, begun.Add(*soakLength))
	st, took := srv.Stats(), time.Since(begun)
	if far != nil {
		far.end(t)
	}
	acts := chaosReport{Acts: map[string]int{}}
	for _, p := range mad {
		r := p.end(t)
		for name, n := range r.Acts {
			acts.Acts[name] += n
		}
		acts.Dialed, acts.Failed, acts.Wrote = acts.Dialed+r.Dialed, acts.Failed+r.Failed, acts.Wrote+r.Wrote
	}
	eventually(t, 30*time.Second, func() bool { return srv.Stats().Conns == soakHonest }, "all others are gone: %v", srv.Stats())
	for patience := time.Now().Add(10 * time.Second); look().fds > before.fds && time.Now().Before(patience); {
		time.Sleep(10 * time.Millisecond) // who has been refused stays for a moment more
	}
	heldUp := held.total()
	held.stop()
	held.Watch = nil // in ten minutes it has noted a megabyte, which is not the server's
	after := takeStock()

	var honesty honestReport
	honest.ask(t, "report", &honesty)
	app.leaving.Store(true)
	honest.leave(t)
	require.NoError(t, srv.Close())
	require.ErrorIs(t, <-served, server.ErrServerClosed)
	end := srv.Stats()

	t.Logf("%v: %d connections (%.0f/s) from %d processes, %.0f MiB written to the server; %d sessions, %d refused, %d accepts that failed, %d dials that did; most at a time %d; this process was held up for %v",
		took.Round(time.Second), acts.Dialed, float64(acts.Dialed)/took.Seconds(), soakChaos, float64(acts.Wrote)/(1<<20),
		st.Opened, st.Refused, st.AcceptErrors, acts.Failed, peak.conns, heldUp.Round(time.Millisecond))
	for _, name := range slices.Sorted(maps.Keys(acts.Acts)) {
		t.Logf("  %7d  %s", acts.Acts[name], name)
	}
	sum, given := uint64(0), uint64(0)
	for _, r := range slices.Sorted(maps.Keys(end.Reasons)) {
		if sum += end.Reasons[r]; r >= server.AppReason {
			given += end.Reasons[r]
			continue
		}
		t.Logf("  %7d  %v", end.Reasons[r], r)
	}
	t.Logf("  %7d  the application's own reasons", given)
	t.Logf("suspected %d, recovered %d, grace rounds %d, turns that took longer than %v: %d, the longest %v; log lines %v",
		end.Suspected, end.Recovered, end.GraceRounds, soakConfig.BlockWarning, end.Blocks, end.BlockLongest, log.lines)
	bound := heapBound(peak.conns)
	t.Logf("heap %d KiB before, %d KiB at the worst, %d KiB after (bound: %d KiB more); descriptors %d, %d, %d",
		before.heap>>10, peak.heap>>10, after.heap>>10, bound>>10, before.fds, peak.fds, after.fds)
	t.Logf("honest: %d sessions, %d messages, %d echoed; latency p50 %v, p99 %v, max %v; %d suspected; that process was held up for %v at a time",
		honesty.Sessions, honesty.Sent, honesty.Echoed, honesty.P50, honesty.P99, honesty.Max, app.doubted.Load(), honesty.Held.Round(time.Millisecond))

	assert.Empty(t, app.wrong, "what must not be: seed %d", seed)
	assert.Equal(t, end.Opened, end.Closed, "opens and closes")
	assert.EqualValues(t, end.Opened, app.opens.Load(), "calls of OnOpen")
	assert.EqualValues(t, end.Closed, app.closes.Load(), "calls of OnClose")
	assert.Equal(t, end.Closed, sum, "the reasons add up")
	assert.EqualValues(t, app.thrown.Load(), end.Reasons[server.HandlerFailed], "errors and panics of the application")
	assert.Zero(t, end.Suspect)
	assert.Zero(t, end.Conns)
	assert.LessOrEqual(t, after.fds, before.fds, "descriptors") // the test before may have had one more
	assert.LessOrEqual(t, after.heap, before.heap+bound, "heap")
	if honesty.Held < soakConfig.Policy.Interval/2 { // else there was a cause
		assert.Zero(t, app.doubted.Load(), "suspicions of the honest")
	}
	assert.Empty(t, honesty.Wrong, "what the honest found wrong")
	assert.Equal(t, honesty.Sent, honesty.Echoed, "messages of the honest")
	assert.NotZero(t, honesty.Sent)
	for _, act := range chaosActs {
		assert.NotZero(t, acts.Acts[act.name], "%s: never done", act.name)
	}
	eventually(t, 15*time.Second, func() bool { return serverGoroutines() == goroutines }, "%d goroutines, as before", goroutines)
}

// stock is what this process has.
type stock struct {
	heap  uint64
	fds   int
	conns int
}

// takeStock collects the garbage first; twice, because what is in a sync.Pool survives once.
func takeStock() (s stock) {
	for range 3 {
		runtime.GC()
	}
	return look()
}

func look() (s stock) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, _ := os.ReadDir("/proc/self/fd")
	return stock{heap: m.HeapAlloc, fds: len(fds)}
}

// heapBound is what a server may keep of what it had at the worst. Go's maps, and slices that are indexed by
// descriptor or wheel id (of a session, or of one of two timers of it), keep their size: of the registry, of gnet's connections, of the wheel and its entries; with
// room for growth less than 512 bytes for each connection there were at a time. Recent keeps 1,024 ended
// sessions, 400 bytes each, of which most have a sentence as well: 512 bytes. The rest, half a MiB, is for
// what does not grow: buffers that a loop keeps, and what the runtime keeps of goroutines and timers.
func heapBound(conns int) uint64 { return uint64(conns)*512 + 1024*512 + 512<<10 }

// soak waits, and returns what there was at the worst.
func soak(srv *server.Server, until time.Time) (worst stock) {
	for time.Now().Before(until) {
		time.Sleep(50 * time.Millisecond)
		now := look()
		worst.heap, worst.fds = max(worst.heap, now.heap), max(worst.fds, now.fds)
		worst.conns = max(worst.conns, srv.Stats().Conns)
	}
	return worst
}

// serverGoroutines counts the goroutines of servers. gnet's worker pool is nobody's.
func serverGoroutines() (n int) {
	buf := make([]byte, 8<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "pulsewheel/server.") || strings.Contains(g, "gnet/v2.") {
			n++
		}
	}
	return n
}

// chaosProc is a process that does what it likes.
type chaosProc struct {
	cmd *exec.Cmd
	in  io.Closer
	out chan string // its last line
}

// startChaos starts one. Whenever it stops itself, it is continued after the time that it asked for.
func startChaos(t *testing.T, addr string, seed uint64, number int) *chaosProc {
	t.Helper()
	cmd := role(t, "chaos", addr, strconv.FormatUint(seed, 10), strconv.Itoa(number))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &chaosProc{cmd, in, make(chan string, 1)}
	go func() {
		defer close(p.out)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			ms, err := strconv.Atoi(lines.Text())
			if err != nil {
				p.out <- lines.Text()
				continue
			}
			for asked := time.Now(); !stopped(cmd.Process.Pid) && time.Since(asked) < 10*time.Second; {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Duration(ms) * time.Millisecond)
			_ = cmd.Process.Signal(syscall.SIGCONT)
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return p
}

// stopped tells whether a process is stopped by a signal: proc_pid_stat(5).
func stopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := strings.LastIndexByte(string(b), ')')
	return err == nil && i > 0 && len(b) > i+2 && b[i+2] == 'T'
}

// end has it end, and returns its report.
func (p *chaosProc) end(t *testing.T) (r chaosReport) {
	t.Helper()
	_ = p.in.Close()
	select {
	case last := <-p.out:
		require.NoError(t, json.Unmarshal([]byte(last), &r), "%q", last)
	case <-time.After(30 * time.Second):
		require.FailNow(t, "a process of chaos does not end")
	}
	assert.NoError(t, p.cmd.Wait())
	return r
}
