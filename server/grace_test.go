//go:build unix

package server_test

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// crowd opens n sessions on one loop and has them all say something, as nearly as possible at once.
func crowd(t testing.TB, n int, log io.Writer) (srv *server.Server, h *recorder, cs []*client, said time.Time) {
	t.Helper()
	cfg := quick()
	cfg.Loops = 1
	cfg.Tick = 20 * time.Millisecond
	cfg.Policy.Interval, cfg.Policy.Timeout = time.Second, 2*time.Second
	cfg.HandshakeTimeout = 10 * time.Second // it takes a while until all are there
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	h = newRecorder()
	h.onMessage = func(*server.Session, []byte) error { return nil }
	srv = start(t, h, cfg)
	var s *server.Session
	for range n {
		cs = append(cs, dial(t, srv))
		s = h.nextOpen(t)
	}
	release := hold(t, s) // it hears them in one round, however long the writing takes
	hello := frame(codec.Data, []byte("hello"))
	for _, c := range cs {
		_, err := c.Write(hello)
		require.NoError(t, err)
	}
	said = time.Now()
	release()
	return srv, h, cs, said
}

// When most of a loop's sessions come due together, they are given one Interval more, once. Those that
// say something in it live on.
func TestGraceRound(t *testing.T) { busy.Try(t, testGraceRound) }

func testGraceRound(t *busy.T) {
	t.Parallel()
	const n, back = 300, 20
	var log lockedBuffer
	srv, h, cs, said := crowd(t, n, &log)
	eventually(t, 10*time.Second, func() bool { return srv.Stats().GraceRounds > 0 }, "a grace round")
	granted := time.Now()
	assert.GreaterOrEqual(t, granted.Sub(said), 1900*time.Millisecond)
	assert.Zero(t, srv.Stats().Closed, "nobody has been convicted")
	assert.Equal(t, n, srv.Stats().Suspect)
	for _, c := range cs[:back] {
		c.send(t, codec.Data, []byte("I was only slow"))
		go func() { _, _ = c.beat() }()
	}
	for range n - back {
		e := h.nextClose(t)
		assert.GreaterOrEqual(t, e.end.Record.Idle, 3*time.Second-2*jiffy)
		assert.GreaterOrEqual(t, e.end.Record.Pings, 3, "the grace round asks once more")
		assert.Equal(t, server.SuspectSilence, e.s.Suspicion(), "as it ended")
	}
	st := srv.Stats()
	assert.EqualValues(t.IfQuiet(20*time.Millisecond), 1, st.GraceRounds, "once")
	assert.Equal(t, back, st.Live)
	assert.Zero(t, st.Suspect)
	assert.Contains(t, log.String(), "most sessions of a loop have come due at once")
	assert.Contains(t.IfQuiet(20*time.Millisecond), log.String(), "sessions=300")
}

// Fewer than 256 are not a symptom, however many of the loop's sessions they are.
func TestNoGraceRoundForFew(t *testing.T) { busy.Try(t, testNoGraceRoundForFew) }

func testNoGraceRoundForFew(t *busy.T) {
	t.Parallel()
	const n = 255
	srv, h, _, _ := crowd(t, n, io.Discard)
	for range n {
		e := h.nextClose(t)
		t.NotLater(e.at.Add(-e.end.Record.Idle), e.at, 3*time.Second, "the verdict")
	}
	assert.Zero(t, srv.Stats().GraceRounds)
}

// Nor are 256 among more than twice as many that live.
func TestNoGraceRoundForAMinority(t *testing.T) { busy.Try(t, testNoGraceRoundForAMinority) }

func testNoGraceRoundForAMinority(t *busy.T) {
	t.Parallel()
	const n, live = 640, 340
	srv, h, cs, _ := crowd(t, n, io.Discard)
	for _, c := range cs[:live] {
		go func() { _, _ = c.beat() }()
	}
	for range n - live {
		e := h.nextClose(t)
		t.NotLater(e.at.Add(-e.end.Record.Idle), e.at, 3*time.Second, "the verdict")
	}
	st := srv.Stats()
	assert.Zero(t, st.GraceRounds)
	assert.Equal(t, live, st.Live)
}
