package server_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// calm is a configuration in which nothing comes due while a test runs, on one loop.
func calm() server.Config {
	cfg := quick()
	cfg.Policy = heartbeat.Policy{Interval: time.Minute}
	cfg.HandshakeTimeout, cfg.FrameTimeout, cfg.CloseTimeout = time.Minute, time.Minute, time.Minute
	cfg.Loops = 1
	return cfg
}

// hold keeps s's loop busy until release is called, or the test ends.
func hold(t testing.TB, s *server.Session) (release func()) {
	t.Helper()
	held, let := make(chan struct{}), make(chan struct{})
	release = sync.OnceFunc(func() { close(let) })
	t.Cleanup(release)
	require.NoError(t, s.Post(func() { close(held); <-let }))
	<-held
	return release
}

// onLoop runs f on s's loop and waits for it.
func onLoop(t testing.TB, s *server.Session, f func()) {
	t.Helper()
	ran := make(chan struct{})
	require.NoError(t, s.Post(func() { defer close(ran); f() }))
	<-ran
}

// open starts a server and opens one session on it.
func open(t testing.TB, h *recorder, cfg server.Config) (*server.Server, *client, *server.Session) {
	t.Helper()
	srv := start(t, h, cfg)
	cl := dial(t, srv)
	require.NoError(t, cl.SetReadDeadline(time.Now().Add(30*time.Second)))
	return srv, cl, h.nextOpen(t)
}

// data reads the payloads of the next n Data frames.
func (c *client) data(t testing.TB, n int) []string {
	t.Helper()
	var got []string
	for range n {
		got = append(got, string(c.readUntil(t, codec.Data).Payload))
	}
	return got
}

func TestSendFromManyGoroutines(t *testing.T) {
	t.Parallel()
	const senders, each = 32, 200
	_, cl, s := open(t, newRecorder(), calm())
	var all sync.WaitGroup
	for id := range senders {
		all.Go(func() {
			for i := range each {
				p := binary.BigEndian.AppendUint32(nil, uint32(id<<16|i))
				assert.NoError(t, s.Send(append(p, make([]byte, i%50)...)))
			}
		})
	}
	next := [senders]int{}
	for range senders * each {
		p := cl.readUntil(t, codec.Data).Payload
		n := binary.BigEndian.Uint32(p)
		id, i := int(n>>16), int(n&0xffff)
		require.Equal(t, next[id], i, "sender %d", id)
		require.Len(t, p, 4+i%50)
		next[id]++
	}
	all.Wait()
	require.NoError(t, s.Send([]byte("last")))
	assert.Equal(t, "last", cl.data(t, 1)[0], "and nothing besides")
}

func TestSendCopies(t *testing.T) {
	t.Parallel()
	_, cl, s := open(t, newRecorder(), calm())
	release := hold(t, s)
	p := []byte("mine 0")
	for i := range 5 {
		p[5] = '0' + byte(i)
		require.NoError(t, s.Send(p))
	}
	copy(p, "XXXXXX")
	release()
	assert.Equal(t, []string{"mine 0", "mine 1", "mine 2", "mine 3", "mine 4"}, cl.data(t, 5))
	require.NoError(t, s.Send(nil))
	assert.Equal(t, []string{""}, cl.data(t, 1))
}

// However many sessions of a loop have something to send, the loop is woken once.
func TestOneWakeForManySessions(t *testing.T) {
	t.Parallel()
	const n = 200
	h := newRecorder()
	srv := start(t, h, calm())
	var clients []*client
	sessions := map[string]*server.Session{}
	for range n {
		clients = append(clients, dial(t, srv))
		s := h.nextOpen(t)
		sessions[s.RemoteAddr().String()] = s
	}
	require.Len(t, sessions, n)
	release := hold(t, sessions[clients[0].LocalAddr().String()])
	before := srv.Stats().Wakes
	var all sync.WaitGroup
	for addr, s := range sessions {
		all.Go(func() {
			assert.NoError(t, s.Send([]byte(addr)))
			assert.NoError(t, s.Send([]byte("and again")))
		})
	}
	all.Wait()
	assert.Equal(t, before+1, srv.Stats().Wakes)
	release()
	for _, c := range clients {
		assert.Equal(t, []string{c.LocalAddr().String(), "and again"}, c.data(t, 2))
	}
	assert.Equal(t, before+1, srv.Stats().Wakes)
}

func TestBacklogFull(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.PayloadMax = 1000
	cfg.BacklogMax = 4*1004 + 10
	h := newRecorder()
	_, cl, s := open(t, h, cfg)
	message := func(i, size int) []byte { return append([]byte{byte(i)}, make([]byte, size-1)...) }
	release := hold(t, s)
	for i := range 4 {
		require.NoError(t, s.Send(message(i, 1000)))
	}
	for range 3 {
		err := s.Send(message(66, 7)) // one byte too much
		require.ErrorIs(t, err, server.ErrBacklogFull)
		require.NotErrorIs(t, err, net.ErrClosed)
		require.ErrorContains(t, err, "4016")
		require.ErrorContains(t, err, "11 more")
	}
	require.NoError(t, s.Send(message(4, 6)), "what fits is taken, to the last byte")
	require.ErrorIs(t, s.Send(nil), server.ErrBacklogFull)
	release()
	for i := range 5 {
		assert.Equal(t, byte(i), cl.readUntil(t, codec.Data).Payload[0])
	}
	cl.echoes(t)
	cl.Close()
	end := h.nextClose(t).end
	assert.Equal(t, server.PeerClosed, end.Reason)
	assert.EqualValues(t, 6, end.Record.FramesOut)
	assert.EqualValues(t, 4*1004+10+4+len("still there?"), end.Record.BytesOut)
}

// Senders that are refused and try again: what was taken arrives once, what was refused does not.
func TestBacklogFullLosesNothing(t *testing.T) {
	t.Parallel()
	const senders, each = 8, 100
	cfg := calm()
	cfg.PayloadMax, cfg.BacklogMax = 100, 120
	_, cl, s := open(t, newRecorder(), cfg)
	refused := atomic.NewInt64(0)
	var all sync.WaitGroup
	for id := range senders {
		all.Go(func() {
			for i := 0; i < each; {
				err := s.Send(fmt.Appendf(nil, "%d %d %030d", id, i, 0))
				switch {
				case err == nil:
					i++
				case errors.Is(err, server.ErrBacklogFull):
					refused.Inc()
					runtime.Gosched()
				default:
					assert.NoError(t, err)
					return
				}
			}
		})
	}
	next := [senders]int{}
	for range senders * each {
		var id, i int
		_, err := fmt.Sscan(string(cl.readUntil(t, codec.Data).Payload), &id, &i)
		require.NoError(t, err)
		require.Equal(t, next[id], i, "sender %d", id)
		next[id]++
	}
	all.Wait()
	cl.echoes(t)
	t.Logf("%d taken, %d refused", senders*each, refused.Load())
}

func TestSendTooLong(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.PayloadMax = 100
	h := newRecorder()
	_, cl, s := open(t, h, cfg)
	release := hold(t, s)
	require.NoError(t, s.Send([]byte("before")))
	err := s.Send(make([]byte, 101))
	require.ErrorIs(t, err, codec.ErrTooLong)
	require.NotErrorIs(t, err, net.ErrClosed)
	require.NoError(t, s.Send(make([]byte, 100)))
	release()
	assert.Equal(t, []string{"before", string(make([]byte, 100))}, cl.data(t, 2))
	cl.echoes(t)
	cl.Close()
	assert.EqualValues(t, 3, h.nextClose(t).end.Record.FramesOut)
}

func TestValue(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	_, cl, s := open(t, h, calm())
	assert.Nil(t, s.Value())
	s.SetValue("Ada")
	assert.Equal(t, "Ada", s.Value())
	cl.Close()
	assert.Equal(t, "Ada", h.nextClose(t).s.Value())
	s.SetValue(nil)
	assert.Nil(t, s.Value())
}

func TestSessions(t *testing.T) {
	t.Parallel()
	const n = 20
	h := newRecorder()
	srv := start(t, h, calm())
	assert.Empty(t, slices.Collect(srv.Sessions()))
	var clients []*client
	var opened []*server.Session
	for i := range n {
		clients = append(clients, dial(t, srv))
		s := h.nextOpen(t)
		opened = append(opened, s)
		assert.EqualValues(t, i+1, s.ID())
		assert.Same(t, s, srv.Session(s.ID()))
		assert.Equal(t, clients[i].LocalAddr().String(), s.RemoteAddr().String())
	}
	assert.ElementsMatch(t, opened, slices.Collect(srv.Sessions()))
	assert.Nil(t, srv.Session(0))
	assert.Nil(t, srv.Session(n+1))
	for range srv.Sessions() {
		break // and the rest is not asked for
	}
	for s := range srv.Sessions() { // no lock is held meanwhile
		if s.ID()%2 == 0 {
			require.NoError(t, s.Close(server.PeerFlood, "")) // resets at once
			<-s.Done()
			assert.Nil(t, srv.Session(s.ID()))
		}
	}
	assert.Len(t, slices.Collect(srv.Sessions()), n/2)
	st := srv.Stats()
	assert.EqualValues(t, n, st.Opened)
	assert.Equal(t, n/2, st.Live)
	assert.Equal(t, map[server.Reason]uint64{server.PeerFlood: n / 2}, st.Reasons)
}

func TestRTT(t *testing.T) {
	t.Parallel()
	_, cl, s := open(t, newRecorder(), quick())
	assert.Zero(t, s.RTT())
	ping := cl.readUntil(t, codec.Ping)
	cl.send(t, codec.Pong, []byte("not what was asked"))
	cl.echoes(t)
	assert.Zero(t, s.RTT(), "an answer to no question tells nothing")

	ping = cl.readUntil(t, codec.Ping)
	asked := time.Now()
	const lag = 50 * time.Millisecond
	time.Sleep(lag) // the round trip that is to be measured
	cl.send(t, codec.Pong, ping.Payload)
	cl.echoes(t)
	took := time.Since(asked)
	assert.GreaterOrEqual(t, s.RTT(), lag)
	assert.LessOrEqual(t, s.RTT(), took+slack)
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
	onLoop(t, s, func() {})
	idle, since := s.Idle(), time.Since(latest)
	assert.GreaterOrEqual(t, idle, since-2*cfg.Tick-slack)
	cl.echoes(t)
	assert.Less(t, s.Idle(), idle)
}

// Silence makes a peer suspect, a word from it clears it, and then it is healthy again.
func TestSuspectAndRecover(t *testing.T) {
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
		assert.LessOrEqual(t, at.Sub(said), cfg.Policy.Interval+2*cfg.Tick+slack)
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
		if now := time.Now(); now.Sub(last) > cfg.Policy.Interval/10 {
			stalls = append(stalls, now)
		}
		last = time.Now()
	}
	all.Wait()
	assert.GreaterOrEqual(t, pings.Load(), int64(20*100), "it is asked in every interval")
	h.mu.Lock()
	defer h.mu.Unlock()
	excused := 0
	for id, at := range h.suspects {
		for _, when := range at {
			near := func(s time.Time) bool { return when.Sub(s).Abs() < 2*cfg.Policy.Interval }
			if assert.True(t, slices.ContainsFunc(stalls, near), "session %d was suspected at %v", id, when) {
				excused++
			}
		}
	}
	t.Logf("%d Pings; the machine stalled %d times; %d suspicions were its fault", pings.Load(), len(stalls), excused)
	assert.Empty(t, h.closes)
}

func TestSetPolicy(t *testing.T) {
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
	assert.LessOrEqual(t, first.at.Sub(said), 180*time.Millisecond+2*cfg.Tick+slack)
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
	assert.Equal(t, cfg.Policy, e.Policy)
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
