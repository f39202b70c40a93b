package server

import (
	"io"
	"net"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

type closes struct {
	Base
	ends chan *CloseError
}

func (h closes) OnClose(_ *Session, end *CloseError) { h.ends <- end }

// A clock whose ticks have come past what an int32 and a uint32 can count judges like any other.
func TestClockOfWeeks(t *testing.T) {
	for _, up := range []time.Duration{26 * 24 * time.Hour, 51 * 24 * time.Hour} { // 2^31 and 2^32 ms are 24.9 and 49.7 days
		h := closes{ends: make(chan *CloseError, 1)}
		s, err := New(h, Config{Loops: 1, Tick: time.Millisecond, HandshakeTimeout: 300 * time.Millisecond})
		require.NoError(t, err)
		s.epoch = s.epoch.Add(-up)
		stop := serve(t, s)
		c, err := net.Dial("tcp", s.Addr().String())
		require.NoError(t, err)
		select {
		case end := <-h.ends:
			assert.Equal(t, PeerUnready, end.Reason)
		case <-time.After(10 * time.Second):
			assert.Fail(t, "nothing was told", "up for %v", up)
		}
		require.NoError(t, c.Close())
		stop()
	}
}

// A loop that has nothing due is woken now and then all the same, so that its wheel's clock stays
// comparable with the server's.
func TestLoopWithNothingDueFollowsTheClock(t *testing.T) {
	s, err := New(Base{}, Config{Loops: 2, Tick: time.Millisecond})
	require.NoError(t, err)
	s.nudge = 50
	stop := serve(t, s)
	defer stop()
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Wakes < 8; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "it was not woken")
	}
	for _, l := range s.loops {
		behind := make(chan int32)
		l.post(nil, func() { behind <- heartbeat.Tick(s.now.Load()).Sub(l.wheel.Now()) })
		assert.Less(t, <-behind, int32(s.now.Load()-1), "its wheel has been turned since the start")
	}
}

type opened struct {
	Base
	sessions chan *Session
}

func (h opened) OnOpen(s *Session) error { h.sessions <- s; return nil }

// A session that answers its Ping is next looked at when it is to be asked again, and not before.
func TestOneLookForEachPing(t *testing.T) {
	const interval = 400 * time.Millisecond
	h := opened{sessions: make(chan *Session, 1)}
	s, err := New(h, Config{Loops: 1, Tick: 10 * time.Millisecond, Policy: heartbeat.Policy{Interval: interval, Timeout: 3 * time.Second}})
	require.NoError(t, err)
	stop := serve(t, s)
	defer stop()
	nc, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer nc.Close()
	var b [12]byte
	for range 3 {
		_, err = io.ReadFull(nc, b[:])
		require.NoError(t, err)
		require.Equal(t, byte(codec.Ping), b[0])
		b[0] = byte(codec.Pong)
		_, err = nc.Write(b[:])
		require.NoError(t, err)
		answered := time.Now()
		c := (<-h.sessions).c
		h.sessions <- c.session
		for { // until it has been read
			left, asked := make(chan time.Duration), make(chan bool)
			require.NoError(t, c.session.Post(func() {
				asked <- c.asking != &nobodyAsked
				left <- time.Duration(c.loop.wheel.When(c.id).Sub(c.loop.tick)) * s.cfg.Tick
			}))
			if <-asked {
				<-left
				continue
			}
			ask := <-left + time.Since(answered)
			assert.Greater(t, ask, interval/2-2*s.cfg.Tick)
			assert.Less(t, ask, interval*3/4+2*s.cfg.Tick+time.Since(answered))
			break
		}
	}
}

// serve serves s on a loopback port; stop closes it.
func serve(t *testing.T, s *Server) (stop func()) {
	t.Helper()
	ln, err := Listen("127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	for s.Addr() == nil {
		time.Sleep(time.Millisecond)
	}
	return func() {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-served, ErrServerClosed)
	}
}

// The kernel's own watch is later than every verdict of ours, in the units that it takes.
func TestKernelOptions(t *testing.T) {
	p := heartbeat.Policy{Interval: 500 * time.Millisecond, Timeout: 1500 * time.Millisecond}
	for _, write := range []time.Duration{time.Second, 4 * time.Second} {
		o := kernelOptions(p, write, 10*time.Millisecond)
		assert.Greater(t, o.UserTimeout, max(p.Timeout, write)+20*time.Millisecond-1)
		assert.Equal(t, p.Interval, o.KeepIdle)
	}
}

// TestSizes: what every client costs is a multiple of this. Beyond these the allocator's next size class
// is 32 and 16 bytes more.
func TestSizes(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("the sizes are those of a 64-bit system")
	}
	assert.LessOrEqual(t, unsafe.Sizeof(conn{}), uintptr(288))
	assert.LessOrEqual(t, unsafe.Sizeof(Session{}), uintptr(112))
}
