package server_test

import (
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

func TestRTT(t *testing.T) { busy.Try(t, testRTT) }

func testRTT(t *busy.T) {
	t.Parallel()
	_, cl, s := open(t, newRecorder(), quick())
	assert.Zero(t, s.RTT())
	cl.readUntil(t, codec.Ping)
	cl.send(t, codec.Pong, []byte("not what was asked"))
	cl.echoes(t)
	assert.Zero(t, s.RTT(), "an answer to no question tells nothing")

	ping := cl.readUntil(t, codec.Ping)
	asked := time.Now()
	const lag = 50 * time.Millisecond
	time.Sleep(lag) // the round trip that is to be measured
	cl.send(t, codec.Pong, ping.Payload)
	cl.echoes(t)
	took := time.Since(asked)
	assert.GreaterOrEqual(t, s.RTT(), lag)
	assert.LessOrEqual(t.IfQuiet(slack), s.RTT(), took+slack)
	before := s.RTT()
	cl.send(t, codec.Pong, ping.Payload)
	cl.echoes(t)
	assert.Equal(t, before, s.RTT(), "a second answer to the same Ping tells nothing")

	ping = cl.readUntil(t, codec.Ping)
	cl.send(t, codec.Pong, ping.Payload)
	cl.echoes(t)
	assert.NotEqual(t, before, s.RTT())
	assert.Greater(t, s.RTT(), before/2, "it is smoothed")
}

func TestIdle(t *testing.T) {
	t.Parallel()
	cfg := calm()
	_, cl, s := open(t, newRecorder(), cfg)
	earliest := time.Now()
	cl.echoes(t)
	latest := time.Now()
	for s.Idle() < 10*cfg.Tick {
		time.Sleep(time.Millisecond)
	}
	assert.GreaterOrEqual(t, time.Since(earliest), 9*cfg.Tick)
	require.NoError(t, s.Send([]byte("what is sent to it is no life")))
	cl.data(t, 1)
	since := time.Since(latest)
	idle := s.Idle()
	assert.GreaterOrEqual(t, idle, since-cfg.Tick)
	cl.echoes(t)
	assert.Less(t, s.Idle(), idle)
}

// Silence makes a peer suspect, a word from it clears it, and then it is healthy again.
func TestSuspectAndRecover(t *testing.T) { busy.Try(t, testSuspectAndRecover) }

func testSuspectAndRecover(t *busy.T) {
	t.Parallel()
	cfg := quick()
	h := newRecorder()
	suspected := make(chan time.Time, 9)
	h.onSuspect = func(*server.Session) { suspected <- time.Now() }
	srv, cl, s := open(t, h, cfg)
	for round := range 2 {
		said := time.Now()
		cl.echoes(t)
		at := <-suspected
		assert.GreaterOrEqual(t, at.Sub(said), cfg.Policy.Interval-jiffy)
		t.NotLater(said, at, cfg.Policy.Interval+2*cfg.Tick+slack, "the suspicion")
		cl.echoes(t)
		h.mu.Lock()
		assert.Len(t, h.recovers[s.ID()], round+1)
		assert.Len(t, h.suspects[s.ID()], round+1)
		h.mu.Unlock()
	}
	st := srv.Stats()
	assert.EqualValues(t, 2, st.Suspected)
	assert.EqualValues(t, 2, st.Recovered)
	cl.Close()
	e := h.nextClose(t)
	assert.Equal(t, server.PeerClosed, e.end.Reason)
	h.mu.Lock()
	assert.Len(t, h.recovers[s.ID()], 2)
	h.mu.Unlock()
}

// jiffy is what the kernel's own stamps may be off by: one of its ticks.
const jiffy = 10 * time.Millisecond

// A client that says nothing, but answers Pings, is never suspected in 100 intervals. A round trip is
// to take less than a fifth of the interval (ARCHITECTURE.md); where this machine itself did not let
// a goroutine run for that long, the test cannot tell.
func TestBeatingClientIsNeverSuspect(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Policy = heartbeat.Policy{Interval: 100 * time.Millisecond}
	h := newRecorder()
	srv := start(t, h, cfg)
	end := time.Now().Add(100 * cfg.Policy.Interval)
	var all sync.WaitGroup
	pings := atomic.NewInt64(0)
	for range 20 {
		cl := dial(t, srv)
		require.NoError(t, cl.SetReadDeadline(end))
		all.Go(func() {
			for {
				f, err := cl.read()
				if err != nil {
					assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
					return
				}
				pings.Inc()
				_, err = cl.Write(frame(codec.Pong, f.Payload))
				assert.NoError(t, err)
			}
		})
	}
	var stalls []time.Time
	for last := time.Now(); last.Before(end); {
		time.Sleep(time.Millisecond)
		if now := time.Now(); now.Sub(last) > cfg.Policy.Interval/5 {
			stalls = append(stalls, now)
		}
		last = time.Now()
	}
	all.Wait()
	assert.GreaterOrEqual(t, pings.Load(), int64(20*90), "it is asked about once in an interval")
	h.mu.Lock()
	defer h.mu.Unlock()
	excused := 0
	for id, at := range h.suspects {
		for _, when := range at {
			near := func(s time.Time) bool { return when.Sub(s).Abs() < cfg.Policy.Interval }
			if assert.True(t, slices.ContainsFunc(stalls, near), "session %d was suspected at %v", id, when) {
				excused++
			}
		}
	}
	t.Logf("%d Pings; the machine stalled %d times; %d suspicions were its fault", pings.Load(), len(stalls), excused)
	assert.Empty(t, h.closes)
}

func TestSetPolicy(t *testing.T) { busy.Try(t, testSetPolicy) }

func testSetPolicy(t *busy.T) {
	t.Parallel()
	cfg := quick()
	h := newRecorder()
	srv := start(t, h, cfg)
	join := func() (*client, *server.Session) {
		cl := dial(t, srv)
		s := h.nextOpen(t)
		cl.echoes(t)
		return cl, s
	}
	_, longer := join()
	require.NoError(t, longer.SetPolicy(heartbeat.Policy{Interval: time.Minute}))
	_, unchanged := join()
	for _, wrong := range []struct {
		policy heartbeat.Policy
		says   []string
	}{
		{heartbeat.Policy{Interval: -time.Second}, []string{"Interval", "-1s"}},
		{heartbeat.Policy{Timeout: -time.Second}, []string{"Timeout", "-1s"}},
		{heartbeat.Policy{Interval: 2 * time.Second, Timeout: time.Second}, []string{"Timeout", "1s", "2s"}},
		{heartbeat.Policy{Interval: 39 * time.Millisecond}, []string{"Tick", "10ms", "39ms"}},
	} {
		err := unchanged.SetPolicy(wrong.policy)
		require.Error(t, err)
		for _, part := range wrong.says {
			assert.ErrorContains(t, err, part)
		}
	}
	said := time.Now()
	_, shorter := join()
	require.NoError(t, shorter.SetPolicy(heartbeat.Policy{Interval: 60 * time.Millisecond, Timeout: 180 * time.Millisecond}))

	first := h.nextClose(t)
	require.Same(t, shorter, first.s)
	assert.Equal(t, server.PeerFrozen, first.end.Reason)
	assert.GreaterOrEqual(t, first.at.Sub(said), 180*time.Millisecond-jiffy)
	t.NotLater(said, first.at, 180*time.Millisecond+2*cfg.Tick+slack, "the verdict")
	assert.ErrorIs(t, shorter.SetPolicy(heartbeat.Policy{}), server.PeerFrozen)

	second := h.nextClose(t)
	require.Same(t, unchanged, second.s)
	assert.Equal(t, server.PeerFrozen, second.end.Reason)
	assert.GreaterOrEqual(t, second.end.Record.Age, cfg.Policy.Timeout-jiffy)

	// Later than anything that the old policy could have found: shorten what was long.
	assert.Same(t, longer, srv.Session(longer.ID()))
	h.mu.Lock()
	assert.Empty(t, h.suspects[longer.ID()])
	h.mu.Unlock()
	require.NoError(t, longer.SetPolicy(heartbeat.Policy{Interval: 40 * time.Millisecond, Timeout: 80 * time.Millisecond}))
	assert.Same(t, longer, h.nextClose(t).s)
}

// judge says what the test tells it to and keeps the evidence.
type judge struct {
	verdict atomic.Uint32
	asked   chan heartbeat.Evidence
}

func (j *judge) Judge(e heartbeat.Evidence) (heartbeat.Verdict, time.Duration) {
	select {
	case j.asked <- e:
	default:
	}
	return heartbeat.Verdict(j.verdict.Load()), 20 * time.Millisecond
}

func TestOwnJudge(t *testing.T) {
	t.Parallel()
	cfg := quick()
	j := &judge{asked: make(chan heartbeat.Evidence, 1000)}
	cfg.Judge = j
	h := newRecorder()
	suspected := make(chan struct{}, 1)
	h.onSuspect = func(*server.Session) { suspected <- struct{}{} }
	_, cl, _ := open(t, h, cfg)
	begun := time.Now()
	cl.echoes(t)
	e := <-j.asked
	assert.Equal(t, cfg.Policy.OrDefault(), e.Policy)
	assert.False(t, e.Suspected)
	for e.Silence < cfg.Policy.Timeout { // longer than Policy would have waited
		next := <-j.asked
		assert.Greater(t, next.Silence, e.Silence)
		assert.Equal(t, e.Seed, next.Seed)
		assert.Zero(t, next.Pings)
		e = next
	}
	assert.GreaterOrEqual(t, time.Since(begun), cfg.Policy.Timeout-jiffy)
	assert.Empty(t, h.closes)

	j.verdict.Store(uint32(heartbeat.Ask))
	cl.readUntil(t, codec.Ping)
	for e = range j.asked {
		if e.Pings > 1 {
			break
		}
	}
	assert.False(t, e.Suspected)
	j.verdict.Store(uint32(heartbeat.Suspect))
	<-suspected
	for e = range j.asked {
		if e.Suspected {
			break
		}
	}
	assert.Empty(t, h.closes)
	j.verdict.Store(uint32(heartbeat.Dead))
	end := h.nextClose(t).end
	assert.Equal(t, server.PeerFrozen, end.Reason)
	assert.GreaterOrEqual(t, end.Record.Pings, 2)
	assert.Empty(t, suspected, "told once")
}
