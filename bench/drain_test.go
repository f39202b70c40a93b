//go:build linux

package bench

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	drainClients = flag.Int("drain.clients", 1000, "sessions that TestDrain drains")
	drainWithin  = flag.Duration("drain.within", 4*time.Second, "the deadline that TestDrain gives")
)

// leavers is a Handler that counts, and keeps the sessions in the order in which they came.
type leavers struct {
	mu       sync.Mutex
	sessions []*server.Session
	closes   map[uint64]int // calls of OnClose
	resets   int
	reasons  map[server.Reason]int
	last     time.Time // the last OnClose of one that was not reset
}

func (l *leavers) OnOpen(s *server.Session) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions = append(l.sessions, s)
	return nil
}

func (l *leavers) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

func (l *leavers) OnSuspect(*server.Session, server.Suspicion) {}

func (l *leavers) OnRecover(*server.Session) {}

func (l *leavers) OnClose(s *server.Session, end *server.CloseError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closes[s.ID()]++
	l.reasons[end.Reason]++
	if end.Record.Reset {
		l.resets++
	} else {
		l.last = time.Now()
	}
}

func (l *leavers) opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}

// waits measures for how long something posted to a loop waits there, on the loop of a session that has not been told yet, until
// quit is closed or nobody is left.
func (l *leavers) waits(quit <-chan struct{}) (waited []time.Duration) {
	for i := len(l.sessions) - 1; i >= 0; {
		select {
		case <-quit:
			return waited
		default:
		}
		ran, begun := make(chan struct{}), time.Now()
		if l.sessions[i].Post(func() { close(ran) }) != nil {
			i-- // it has been told
			continue
		}
		<-ran
		waited = append(waited, time.Since(begun))
		time.Sleep(time.Millisecond / 2)
	}
	return waited
}

// A Drain with many clients: done by the deadline, every OnClose called, those who stay are reset, and no
// TIME_WAIT is left on the server's port. Clients talk meanwhile.
func TestDrain(t *testing.T) {
	const stubbornOf = 100 // one of so many never closes
	stubborn := max(*drainClients/stubbornOf, 1)
	polite := *drainClients - stubborn
	h := &leavers{closes: map[uint64]int{}, reasons: map[server.Reason]int{}}
	ln, err := server.Listen("tcp://127.0.0.81:0") // no other test's clients leave TIME_WAIT there
	require.NoError(t, err)
	const tick = 100 * time.Millisecond
	srv := serveOn(t, h, server.Config{CloseTimeout: 10 * *drainWithin, Tick: tick}, ln) // those who stay wait for Drain's deadline
	for range stubborn {
		nc, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer nc.Close()
	}
	herd := spawn(t, role(t, "herd", ln.Addr().String(), fmt.Sprint(polite), "hello"), nil)
	eventually(t, 30*time.Second, func() bool { return h.opened() == *drainClients }, "all have come")
	herd.ask(t, "talk 2s", nil)
	runtime.GC() // what making them has left is not the Drain's

	quit := make(chan struct{})
	time.AfterFunc(time.Second, func() { close(quit) })
	before := h.waits(quit)
	held := watchHeldUp()
	var during []time.Duration
	var measured sync.WaitGroup
	measured.Go(func() { during = h.waits(nil) })
	var notReady atomic.Duration
	begun := time.Now()
	measured.Go(func() {
		for srv.Ready() {
			time.Sleep(100 * time.Microsecond)
		}
		notReady.Store(time.Since(begun))
	})
	ctx, cancel := context.WithTimeout(t.Context(), *drainWithin)
	defer cancel()
	err = srv.Drain(ctx)
	took := time.Since(begun)
	told := retries(t, herd, polite)
	atServer, atClients := timeWaits(t, ln.Addr().(*net.TCPAddr))
	measured.Wait()
	late := held.total()
	held.stop()

	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, fmt.Sprintf(" %d connections ", stubborn))
	span := time.Duration(*drainClients) * time.Millisecond
	var tenths [10]int
	for _, d := range told {
		require.Less(t, d, span)
		tenths[d*10/span]++
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.Logf("%d sessions, deadline %v: Ready was false after %v, the last that closes was gone after %v, Drain took %v; "+
		"%d calls of OnClose (%v), %d reset", *drainClients, *drainWithin, notReady.Load().Round(10*time.Microsecond), h.last.Sub(begun).Round(time.Millisecond),
		took.Round(time.Millisecond), len(h.closes), h.reasons, h.resets)
	t.Logf("TIME_WAIT: %d on the server's port, %d on the clients'", atServer, atClients)
	t.Logf("retry-after: %v to %v; in each tenth of %v: %v", slices.Min(told), slices.Max(told), span, tenths)
	t.Logf("what is posted to a loop waits, before: %s; while sessions are told: %s (this process was held up for %v in all)", fine(before), fine(during), late)

	limit := *drainWithin + time.Duration(stubborn)*3*evictionCost + 2*tick + late
	assert.Less(t, took, limit, "what Drain took")
	assert.Len(t, h.closes, *drainClients)
	for id, n := range h.closes {
		require.Equal(t, 1, n, "calls of OnClose of session %d", id)
	}
	assert.Equal(t, map[server.Reason]int{server.ServerShutdown: *drainClients}, h.reasons)
	assert.Equal(t, stubborn, h.resets)
	assert.Zero(t, atServer, "TIME_WAIT on the server's port")
	assert.Positive(t, atClients, "the kernel shows TIME_WAIT at all")
	assert.Less(t, notReady.Load(), *drainWithin/4+late, "Ready is false before all are told")
	mean := float64(polite) / 10
	for _, n := range tenths { // six standard deviations of a binomial distribution
		assert.InDelta(t, mean, n, 6*math.Sqrt(mean*0.9), "retry-after in tenths: %v", tenths)
	}
}

// retries asks the herd how its connections have ended, waits until all n have, and returns the waits that they
// were told.
func retries(t *testing.T, herd *child, n int) (told []time.Duration) {
	t.Helper()
	var gone []string
	eventually(t, 10*time.Second, func() bool {
		gone = nil
		herd.ask(t, "gone", &gone)
		return len(gone) == n
	}, "all of the herd have gone")
	for _, why := range gone {
		_, text, ok := strings.Cut(why, fmt.Sprintf("goodbye %d: ", server.ServerShutdown))
		require.True(t, ok, why)
		ms, _, ok := codec.CutRetryAfter(text)
		require.True(t, ok, why)
		told = append(told, time.Duration(ms)*time.Millisecond)
	}
	return told
}

// timeWaits counts the sockets in TIME_WAIT whose own end, and whose other end, is addr, of IPv4.
func timeWaits(t *testing.T, addr *net.TCPAddr) (own, other int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	require.NoError(t, err)
	end := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(addr.IP.To4()), addr.Port)
	for line := range strings.Lines(string(table)) {
		// sl local_address rem_address st ..., in hexadecimal; 06 is TIME_WAIT
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "06" {
			continue
		}
		if f[1] == end {
			own++
		}
		if f[2] == end {
			other++
		}
	}
	return own, other
}

// fine is how some short waits are spread.
func fine(d []time.Duration) string {
	at := func(q float64) time.Duration { return quantile(d, q).Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v p99 %v max %v of %d", at(0.5), at(0.99), at(1), len(d))
}
