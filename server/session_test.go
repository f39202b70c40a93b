package server_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
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
	require.NoError(t, cl.SetReadDeadline(time.Now().Add(patience)))
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
	assert.LessOrEqual(t, srv.Stats().Wakes, before+1)
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

// A timer so far away that its tick cannot be compared with today's does not keep its loop awake.
func TestFarTimerSleeps(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Tick = time.Millisecond
	srv, _, s := open(t, newRecorder(), cfg)
	s.After(30*24*time.Hour, func() { assert.Fail(t, "thirty days are not over") })
	onLoop(t, s, func() {})
	before := srv.Stats().Wakes
	time.Sleep(500 * time.Millisecond)
	assert.LessOrEqual(t, srv.Stats().Wakes-before, uint64(3))
}
