package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What counts as one address.
func TestSite(t *testing.T) {
	for _, c := range []struct {
		a, b string
		one  bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		// Link-local: each host of a link has one of its own, and each link has all of them.
		{"fe80::1%eth0", "fe80::1%eth0", true},
		{"fe80::1%eth0", "fe80::2%eth0", false},
		{"fe80::1%eth0", "fe80::1%eth1", false},
		{"2002:c000:201::1", "192.0.2.1", true}, // 6to4 (RFC 3056)
		{"::1", "127.0.0.1", false},
		// NAT64 (RFC 6052): the IPv4 address of the host is in the last 32 bits.
		{"64:ff9b::192.0.2.1", "192.0.2.1", true},
		{"64:ff9b::192.0.2.1", "64:ff9b::192.0.2.1", true},
		{"64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false},
		{"64:ff9b:0:0:0:1:c000:201", "192.0.2.1", false}, // not of the /96
		// Teredo (RFC 4380): there they are the client's, inverted; before them are its server, flags and port.
		{"2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45", true},
		{"2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:0:c000:201:0:1:3fff:fdd2", true},
		{"2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:0:4136:e378:8000:63bf:3fff:fdd1", false},
		{"2001:1:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45", false}, // not of the /32
		{"2001:1::1", "2001:1::2", true},
	} {
		a, b := site(netip.MustParseAddr(c.a)), site(netip.MustParseAddr(c.b))
		assert.True(t, a.IsValid() && b.IsValid())
		assert.Equal(t, c.one, a == b, "%s and %s", c.a, c.b)
	}
}

func TestAdmission(t *testing.T) {
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var a admission
	a.init(Config{ConnsPerAddrMax: 2, AcceptRate: 3})
	assert.Equal(t, admitted, a.enter(one, 0))
	assert.Equal(t, admitted, a.enter(one, 0))
	for range 10 {
		assert.Equal(t, refusedAddr, a.enter(one, 0), "and nothing of what there is for others is used up")
	}
	assert.Equal(t, admitted, a.enter(other, 0))
	assert.Equal(t, refusedRate, a.enter(other, 0))
	assert.Equal(t, refusedRate, a.enter(other, 333*time.Millisecond))
	assert.Equal(t, admitted, a.enter(other, 334*time.Millisecond))
	assert.Len(t, a.conns, 2)
	a.leave(one)
	assert.Equal(t, admitted, a.enter(one, time.Minute))
	assert.Equal(t, admitted, a.enter(netip.Addr{}, time.Minute), "a Unix socket has no address")
	assert.Equal(t, admitted, a.enter(netip.Addr{}, time.Minute), "")
	assert.Equal(t, refusedRate, a.enter(netip.Addr{}, time.Minute), "a burst is a second's worth, however long it was quiet")
	for _, addr := range []netip.Addr{one, one, other, other, {}, {}} {
		a.leave(addr)
	}
	assert.Empty(t, a.conns, "no entry stays")
}

// sink is a slog.Handler that keeps what it is given.
type sink struct {
	mu    sync.Mutex
	lines []string
	panic bool
	deaf  bool
}

func (s *sink) panics() bool {
	if s.panic {
		panic("the disk is full")
	}
	return false
}

func (s *sink) Enabled(context.Context, slog.Level) bool { return !s.deaf || s.panics() }
func (s *sink) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s *sink) WithGroup(string) slog.Handler            { return s }

func (s *sink) Handle(_ context.Context, r slog.Record) error {
	s.panics()
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
	return nil
}

func (s *sink) with(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(s.lines), func(l string) bool { return !strings.Contains(l, part) }))
}

// The Logger may be closed when close has returned: a report that is being written then is waited for.
func TestLogLimiterCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slowSink{}
		h := newLogLimiter(to)
		for range logBurst + 1 {
			slog.New(h).Warn("a")
		}
		time.Sleep(logWindow)
		synctest.Wait()
		require.True(t, to.writing.Load(), "the report is being written")
		h.close()
		assert.False(t, to.writing.Load())
	})
}

// slowSink takes a second to write a report.
type slowSink struct {
	sink
	writing atomic.Bool
}

func (s *slowSink) Handle(ctx context.Context, r slog.Record) error {
	if r.NumAttrs() > 0 {
		s.writing.Store(true)
		time.Sleep(time.Second)
		s.writing.Store(false)
	}
	return nil
}

// Of each kind of line a few are written, and how many were not.
func TestLogLimiter(t *testing.T) {
	to := &sink{}
	h := newLogLimiter(to)
	h.window = 200 * time.Millisecond
	log := slog.New(h)
	for i := range 1000 {
		log.Warn("a", "i", i)
	}
	log.With("x", 1).Warn("a", "i", -1) // the same kind
	for range 3 {
		log.Error("b")
	}
	assert.LessOrEqual(t, to.with("a i="), 10+1000/10, "unless it took several windows")
	assert.Equal(t, 3, to.with("b"))
	total := func() (n int) {
		to.mu.Lock()
		defer to.mu.Unlock()
		for _, l := range to.lines {
			var held int
			if _, err := fmt.Sscanf(l, "a suppressed=%d", &held); err == nil {
				n += held
			} else if strings.HasPrefix(l, "a i=") {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return total() == 1001 }, 10*time.Second, 5*time.Millisecond, "it is told without another line")

	h.window = time.Hour
	for i := range 50 {
		log.Warn("a", "i", i)
	}
	assert.Less(t, total(), 1051)
	h.close()
	assert.Equal(t, 1051, total(), "what is held back is told at the end")
	log.Warn("a", "i", 1)

	for i := range 1000 {
		log.Warn(fmt.Sprint("kind ", i))
	}
	assert.LessOrEqual(t, len(h.kinds), logKinds+1)
	(&sink{panic: true}).check(t)
	(&sink{panic: true, deaf: true}).check(t)
}

func (s *sink) check(t *testing.T) {
	assert.NotPanics(t, func() { slog.New(newLogLimiter(s)).Error("c") }, "a Logger that panics")
}
