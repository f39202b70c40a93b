package server_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// mined is an error that explodes when it is read.
type mined struct{ error }

func (mined) Error() string { panic("boom") }

// secretive is a value that explodes when it is printed.
type secretive struct{}

func (secretive) String() string { panic("boom") }

var nilMap map[int]int

// Whatever is thrown in a method, and however, it is the end of the session in whose name the method was
// called, and of nothing else. See TestPanics for the methods, TestSickPlugins for codecs and judges.
func TestPanicsOfAllKinds(t *testing.T) {
	t.Parallel()
	for name, throw := range map[string]func() error{
		"nil":                       func() error { panic(nil) },
		"an error":                  func() error { panic(errors.New("boom")) },
		"a value that panics":       func() error { panic(secretive{}) },
		"a nil map":                 func() error { nilMap[1] = 1; return nil },
		"an index":                  func() error { var s []int; return errors.New(string(rune(s[len(s)]))) },
		"an error that panics":      func() error { return mined{server.ServerClosed} },
		"one wrapped around a code": func() error { return errors.Join(server.ServerClosed, mined{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := calm()
			cfg.Logger = (&lines{}).logger()
			h := newRecorder()
			h.onMessage = func(s *server.Session, p []byte) error {
				if string(p) == "throw" {
					return throw()
				}
				return s.Send(p)
			}
			_, witness, _ := open(t, h, cfg)
			cl := dialAt(t, witness.RemoteAddr())
			s := h.nextOpen(t)
			cl.send(t, codec.Data, []byte("throw"))
			code, _ := cl.goodbye(t)
			assert.Equal(t, server.HandlerFailed, code)
			cl.Close()
			e := h.nextClose(t)
			assert.Same(t, s, e.s)
			assert.Equal(t, server.HandlerFailed, e.end.Reason)
			witness.echoes(t)
		})
	}
}

// A Post that was taken runs also when the session has ended meanwhile, and may panic then: the reason
// stays.
func TestPanicInPostAfterTheEnd(t *testing.T) {
	t.Parallel()
	log := &lines{}
	cfg := calm()
	cfg.Logger = log.logger()
	h := newRecorder()
	srv, witness, other := open(t, h, cfg)
	cl := dial(t, srv)
	s := h.nextOpen(t)
	release := hold(t, other) // it is the same loop
	closed := atomic.NewBool(false)
	h.onClose = func(*server.Session, *server.CloseError) { closed.Store(true) }
	require.NoError(t, s.Post(func() { assert.NoError(t, s.Close(server.PeerFlood, "")) }))
	require.NoError(t, s.Post(func() {
		assert.True(t, closed.Load(), "it is over")
		panic("boom")
	}))
	release()
	assert.Equal(t, server.PeerFlood, h.nextClose(t).end.Reason)
	witness.echoes(t)
	assert.Len(t, log.with("level=ERROR", "in=Post", "session=2", "boom"), 1)
	cl.Close()
}

// OnClose may panic too, also when it is told of a panic, and while the server ends: everybody is told all
// the same.
func TestPanicInEveryOnClose(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*server.Server) error{
		"Close": (*server.Server).Close,
		"Drain": func(srv *server.Server) error { return srv.Drain(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := quick()
			log := &lines{}
			cfg.Logger = log.logger()
			h := newRecorder()
			h.onMessage = func(*server.Session, []byte) error { panic("first") }
			told := atomic.NewInt64(0)
			h.onClose = func(*server.Session, *server.CloseError) { told.Inc(); panic("boom") }
			srv := start(t, h, cfg)
			const n = 20
			var clients sync.WaitGroup
			for i := range n {
				cl := dial(t, srv)
				h.nextOpen(t)
				if i%4 == 0 {
					cl.send(t, codec.Data, nil)
				}
				clients.Go(func() { _, _ = cl.beat() })
			}
			require.NoError(t, end(srv))
			clients.Wait()
			assert.EqualValues(t, n, told.Load())
			assert.NotEmpty(t, log.with("level=ERROR", "in=OnClose", "boom"))
			assert.Equal(t, n+n/4, log.counted(t, "pulsewheel: panic"), "each is written, or counted")
			st := srv.Stats()
			assert.EqualValues(t, n, st.Closed)
			assert.EqualValues(t, n, st.Reasons[server.HandlerFailed]+st.Reasons[server.ServerShutdown])
		})
	}
}

// A method that sends to a group one of whose members has a codec that panics is ended like any that
// panics; the group, its members and that one are as good as before.
func TestPanicInABroadcastFromAHandler(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Logger = (&lines{}).logger()
	made := atomic.NewInt64(0)
	cfg.NewCodec = func() codec.Codec {
		if made.Inc() == 3 { // the first is New's
			return mad{append: func(b []byte, f codec.Frame) ([]byte, error) {
				if string(f.Payload) == "throw" {
					panic("boom")
				}
				return codec.Binary{}.AppendFrame(b, f)
			}}
		}
		return codec.Binary{}
	}
	var g server.Group
	h := newRecorder()
	h.onOpen = func(s *server.Session) error { return g.Join(s) }
	h.onMessage = func(_ *server.Session, p []byte) error { return g.Broadcast(p) }
	srv := start(t, h, cfg)
	clients, sessions := party(t, h, srv, 3)
	clients[0].send(t, codec.Data, []byte("throw"))
	code, _ := clients[0].goodbye(t)
	assert.Equal(t, server.HandlerFailed, code)
	clients[0].Close()
	e := h.nextClose(t)
	assert.Same(t, sessions[0], e.s)
	assert.Equal(t, server.HandlerFailed, e.end.Reason)
	assert.Equal(t, 2, g.Len())
	clients[2].send(t, codec.Data, []byte("fine"))
	for _, cl := range clients[1:] {
		for p := ""; p != "fine"; {
			p = string(cl.readUntil(t, codec.Data).Payload) // "throw" may have come before
		}
	}
}
