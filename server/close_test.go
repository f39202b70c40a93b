package server_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
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

// goodbye reads up to the Goodbye.
func (c *client) goodbye(t testing.TB) (server.Reason, string) {
	t.Helper()
	code, text, err := codec.ParseGoodbye(c.readUntil(t, codec.Goodbye).Payload)
	require.NoError(t, err)
	return server.Reason(code), text
}

// writeOn writes p again and again until the connection ends.
func (c *client) writeOn(pause time.Duration, p []byte) error {
	for {
		if _, err := c.Write(p); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

// wasReset checks that the connection ended with an RST; if a write has met it, no read does.
func (c *client) wasReset(t testing.TB, wrote error) {
	t.Helper()
	if isReset(wrote) {
		return
	}
	var err error
	for err == nil {
		_, err = c.read()
	}
	assert.True(t, isReset(err), "an RST, not %v", err)
}

// Everything that was queued arrives, then the Goodbye, and then the server waits for the client.
func TestCloseFlushes(t *testing.T) {
	t.Parallel()
	const n, size = 128, 64 << 10
	cfg := calm()
	cfg.BacklogMax = 32 << 20
	h := newRecorder()
	_, cl, s := open(t, h, cfg)
	for i := range n {
		require.NoError(t, s.Send(binary.BigEndian.AppendUint32(make([]byte, 0, size), uint32(i))[:size]))
	}
	require.NoError(t, s.Close(server.SessionReplaced, "on another phone"))
	require.ErrorIs(t, s.Send(nil), server.SessionReplaced)
	for i := range n {
		f, err := cl.read()
		require.NoError(t, err)
		require.Equal(t, codec.Data, f.Type)
		require.Len(t, f.Payload, size)
		require.EqualValues(t, i, binary.BigEndian.Uint32(f.Payload))
	}
	code, text := cl.goodbye(t)
	assert.Equal(t, server.SessionReplaced, code)
	assert.Equal(t, "on another phone", text)
	require.NoError(t, cl.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := cl.read()
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "the client closes first")
	assert.Empty(t, h.closes)
	cl.Close()
	end := h.nextClose(t).end
	assert.Equal(t, server.SessionReplaced, end.Reason)
	assert.Equal(t, "on another phone", end.Detail)
	assert.NoError(t, end.Err)
	assert.False(t, end.Record.Reset)
	assert.Zero(t, end.Record.Unsent)
	assert.EqualValues(t, n+1, end.Record.FramesOut)
	assert.EqualValues(t, n*(size+4)+4+2+len(text), end.Record.BytesOut)
}

func TestCloseText(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	for _, c := range []struct {
		give, want string
		cut        bool
	}{
		{"", "", false},
		{strings.Repeat("x", 123), strings.Repeat("x", 123), false},
		{strings.Repeat("x", 124), strings.Repeat("x", 123), true},
		{strings.Repeat("é", 62), strings.Repeat("é", 61), true},
		{"100% \xff", "100% \uFFFD", true},
	} {
		_, cl, s := open(t, h, calm())
		err := s.Close(server.AppReason, c.give)
		if c.cut {
			assert.Equal(t, server.ErrText, err)
		} else {
			assert.NoError(t, err)
		}
		code, text := cl.goodbye(t)
		assert.Equal(t, server.AppReason, code)
		assert.Equal(t, c.want, text)
		cl.Close()
		end := h.nextClose(t).end
		assert.Equal(t, server.AppReason, end.Reason)
		assert.Equal(t, c.want, end.Detail)
	}
}

// What only the library can know, and what is no reason at all, cannot be given.
func TestCloseWithNoReason(t *testing.T) {
	t.Parallel()
	_, cl, s := open(t, newRecorder(), calm())
	for _, r := range []server.Reason{0, 1, 99, 108, 199, 204, 299, 305, 398, 400, 450, 999, server.PeerClosed, server.PeerGoodbye,
		server.PeerReset, server.HeartbeatLost, server.PeerFrozen, server.PathDead, server.PathUnreachable, server.ServerFull, server.Internal} {
		err := s.Close(r, "")
		require.Error(t, err, "%d", r)
		assert.NotErrorIs(t, err, net.ErrClosed)
		assert.Contains(t, err.Error(), fmt.Sprintf(" %d ", uint16(r)))
	}
	cl.echoes(t)
}

// A reason below 200 resets at once, and the peer is told why.
func TestCloseAbruptly(t *testing.T) {
	t.Parallel()
	for _, r := range []server.Reason{server.PeerProtocol, server.PeerSlow, server.PeerFlood, server.PeerUnready, server.PeerStalledFrame} {
		h := newRecorder()
		_, cl, s := open(t, h, calm())
		require.NoError(t, s.Send([]byte("last")))
		require.NoError(t, s.Close(r, "it cheats"))
		end := h.nextClose(t).end
		assert.Equal(t, r, end.Reason)
		assert.Equal(t, "it cheats", end.Detail)
		assert.True(t, end.Record.Reset)
		assert.Equal(t, []string{"last"}, cl.data(t, 1))
		code, text := cl.goodbye(t)
		assert.Equal(t, r, code)
		assert.Equal(t, "it cheats", text)
		cl.wasReset(t, nil)
	}
}

// Whatever a client does after our Goodbye but closing, it is reset after CloseTimeout, and not
// before; nothing of it is delivered.
func TestGoodbyeIgnored(t *testing.T) {
	t.Parallel()
	for name, ignore := range map[string]func(cl *client) error{
		"silent":             func(*client) error { return nil },
		"flooding":           func(cl *client) error { return cl.writeOn(0, frame(codec.Data, make([]byte, 1000))) },
		"trickling":          func(cl *client) error { return cl.writeOn(20*time.Millisecond, []byte{1}) },
		"garbage":            func(cl *client) error { _, err := cl.Write(make([]byte, 100)); return err },
		"saying Goodbye too": func(cl *client) error { _, err := cl.Write(frame(codec.Goodbye, nil)); return err },
	} {
		t.Run(name, busy.Test(func(t *busy.T) {
			t.Parallel()
			cfg := quick()
			cfg.Loops = 1
			h := newRecorder()
			messages := atomic.NewInt64(0)
			h.onMessage = func(*server.Session, []byte) error { messages.Inc(); return nil }
			_, cl, s := open(t, h, cfg)
			asked := time.Now()
			require.NoError(t, s.Close(server.ServerClosed, ""))
			cl.goodbye(t)
			assert.Empty(t.IfQuiet(20*time.Millisecond), h.closes)
			wrote := make(chan error, 1)
			go func() { wrote <- ignore(cl) }()
			e := h.nextClose(t)
			assert.GreaterOrEqual(t, e.at.Sub(asked), cfg.CloseTimeout)
			t.NotLater(asked, e.at, cfg.CloseTimeout+2*cfg.Tick+slack, "the reset")
			assert.Equal(t, server.ServerClosed, e.end.Reason)
			assert.True(t, e.end.Record.Reset)
			cl.wasReset(t, <-wrote)
			assert.Zero(t, messages.Load())
		}))
	}
}

// While what was queued has not left, the write timeout rules, not CloseTimeout.
func TestCloseOfOneThatDoesNotRead(t *testing.T) { busy.Try(t, testCloseOfOneThatDoesNotRead) }

func testCloseOfOneThatDoesNotRead(t *busy.T) {
	t.Parallel()
	cfg := calm()
	cfg.WriteTimeout, cfg.CloseTimeout, cfg.BacklogMax = 400*time.Millisecond, time.Millisecond, 64<<20
	h := newRecorder()
	_, _, s := open(t, h, cfg)
	begun := time.Now()
	onLoop(t, s, func() {
		for range 192 {
			require.NoError(t, s.Send(make([]byte, 64<<10)))
		}
	})
	require.NoError(t, s.Close(server.ServerShutdown, ""))
	e := h.nextClose(t)
	assert.GreaterOrEqual(t, e.at.Sub(begun), cfg.WriteTimeout)
	t.NotLater(begun, e.at, cfg.WriteTimeout+5*time.Second, "the end") // its kernel takes a little more now and then, which is progress
	assert.Equal(t, server.ServerShutdown, e.end.Reason)
	assert.ErrorIs(t, e.end, server.PeerSlow, "why it did not end in good order")
	assert.True(t, e.end.Record.Reset)
	assert.Positive(t, e.end.Record.Unsent)
}

// A client that reads slowly, but reads, gets everything, however short CloseTimeout is: what the
// kernel holds for it has not left.
func TestCloseOfASlowReader(t *testing.T) {
	t.Parallel()
	const n, size = 40, 60 << 10
	cfg := calm()
	cfg.CloseTimeout, cfg.BacklogMax = 50*time.Millisecond, 32<<20
	h := newRecorder()
	_, cl, s := open(t, h, cfg)
	require.NoError(t, cl.Conn.(*net.TCPConn).SetReadBuffer(64<<10))
	onLoop(t, s, func() {
		for range n {
			require.NoError(t, s.Send(make([]byte, size)))
		}
	})
	require.NoError(t, s.Close(server.SessionReplaced, ""))
	for i := range n {
		f, err := cl.read()
		require.NoError(t, err, "message %d of %d", i, n)
		require.Len(t, f.Payload, size)
		time.Sleep(10 * time.Millisecond) // as slow as that
	}
	code, _ := cl.goodbye(t)
	assert.Equal(t, server.SessionReplaced, code)
	cl.Close()
	assert.Equal(t, server.SessionReplaced, h.nextClose(t).end.Reason)
}

// Close may be called wherever the application is called.
func TestCloseInside(t *testing.T) {
	t.Parallel()
	kick := func(s *server.Session) {
		assert.NoError(t, s.Send([]byte("one more thing")))
		assert.NoError(t, s.Close(server.AppReason+1, "out"))
	}
	for name, prepare := range map[string]func(h *recorder) (act func(*client, *server.Session)){
		"OnOpen": func(h *recorder) func(*client, *server.Session) {
			h.onOpen = func(s *server.Session) error { kick(s); return server.PeerFlood } // first cause wins
			return nil
		},
		"OnMessage": func(h *recorder) func(*client, *server.Session) {
			h.onMessage = func(s *server.Session, _ []byte) error { kick(s); return server.PeerFlood }
			return func(cl *client, _ *server.Session) { cl.send(t, codec.Data, nil) }
		},
		"OnSuspect": func(h *recorder) func(*client, *server.Session) {
			h.onSuspect = kick
			return nil
		},
		"Post": func(*recorder) func(*client, *server.Session) {
			return func(_ *client, s *server.Session) { assert.NoError(t, s.Post(func() { kick(s) })) }
		},
		"After": func(*recorder) func(*client, *server.Session) {
			return func(_ *client, s *server.Session) { s.After(time.Millisecond, func() { kick(s) }) }
		},
	} {
		h := newRecorder()
		h.onClose = func(s *server.Session, end *server.CloseError) {
			ended := &server.EndedError{Session: s.ID(), Reason: end.Reason}
			assert.Equal(t, ended, s.Close(server.ServerClosed, "again"), "in OnClose the session has ended")
			assert.Equal(t, ended, s.Send(nil))
			assert.Equal(t, ended, s.Post(func() { assert.Fail(t, "a Post after the end") }))
			assert.Equal(t, ended, s.SetPolicy(heartbeat.Policy{}))
			s.After(0, func() { assert.Fail(t, "a timer after the end") })
		}
		act := prepare(h)
		srv, cl, s := open(t, h, quick())
		if act != nil {
			act(cl, s)
		}
		assert.Equal(t, []string{"one more thing"}, cl.data(t, 1), name)
		code, text := cl.goodbye(t)
		assert.EqualValues(t, 1001, code, name)
		assert.Equal(t, "out", text)
		cl.Close()
		end := h.nextClose(t).end
		assert.EqualValues(t, 1001, end.Reason, name)
		assert.False(t, end.Record.Reset, name)
		assert.EqualValues(t, 1, srv.Stats().Reasons[1001])
	}
}

func TestCloseFromManyGoroutines(t *testing.T) {
	t.Parallel()
	for round := range 20 {
		h := newRecorder()
		_, cl, s := open(t, h, calm())
		var won []server.Reason
		var mu sync.Mutex
		var all sync.WaitGroup
		errs := make([]error, 50)
		for i := range errs {
			all.Go(func() {
				r := server.AppReason + server.Reason(i)
				if i%7 == round%7 {
					r = server.PeerFlood // some reset
				}
				if errs[i] = s.Close(r, ""); errs[i] == nil {
					mu.Lock()
					won = append(won, r)
					mu.Unlock()
				}
			})
		}
		all.Wait()
		require.Len(t, won, 1)
		code, _ := cl.goodbye(t)
		assert.Equal(t, won[0], code)
		cl.Close()
		assert.Equal(t, won[0], h.nextClose(t).end.Reason)
		for _, err := range errs {
			if err != nil {
				assert.Equal(t, &server.EndedError{Session: s.ID(), Reason: won[0]}, err)
			}
		}
	}
}

// A peer's Goodbye is told at once; its socket then waits for its FIN, up to CloseTimeout.
func TestPeerGoodbye(t *testing.T) { busy.Try(t, testPeerGoodbye) }

func testPeerGoodbye(t *busy.T) {
	t.Parallel()
	cfg := quick()
	cfg.Loops = 1
	h := newRecorder()
	messages := atomic.NewInt64(0)
	h.onMessage = func(*server.Session, []byte) error { messages.Inc(); return nil }
	srv, polite, _ := open(t, h, cfg)
	bye, err := codec.AppendGoodbye(nil, 77, "see you")
	require.NoError(t, err)
	polite.send(t, codec.Goodbye, bye)
	end := h.nextClose(t).end
	assert.Equal(t, server.PeerGoodbye, end.Reason)
	assert.Equal(t, server.Reason(77), end.PeerCode)
	assert.Equal(t, "see you", end.Detail)
	assert.False(t, end.Record.Reset)
	assert.Equal(t, "ESTABLISHED", end.Record.TCPState.String())
	st := srv.Stats()
	assert.Equal(t, 0, st.Live)
	assert.Equal(t, 1, st.Conns, "it waits for the FIN")
	polite.Close()
	for srv.Stats().Conns != 0 {
		time.Sleep(time.Millisecond)
	}

	rude := dial(t, srv)
	require.NoError(t, rude.SetReadDeadline(time.Now().Add(30*time.Second)))
	h.nextOpen(t)
	said := time.Now()
	_, err = rude.Write(append(frame(codec.Goodbye, bye), frame(codec.Data, []byte("by the way"))...))
	require.NoError(t, err)
	assert.Equal(t, server.PeerGoodbye, h.nextClose(t).end.Reason)
	rude.wasReset(t, rude.writeOn(10*time.Millisecond, frame(codec.Data, []byte("and then")))) // which moves no deadline
	assert.GreaterOrEqual(t, time.Since(said), cfg.CloseTimeout)
	t.NotLater(said, time.Now(), cfg.CloseTimeout+2*cfg.Tick+slack, "the reset")
	assert.Zero(t, messages.Load())
	assert.Empty(t, h.closes, "told once")
}

// What a client said before it went, with our output unread, is told: the kernel keeps it although
// the connection is reset, and it came before the RST.
func TestLastWords(t *testing.T) {
	t.Parallel()
	bye, err := codec.AppendGoodbye(nil, 1042, "no time")
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		goodbye bool
		held    bool // the server sees words and RST at once: its next write fails before it reads
		backlog int  // bytes sent to the client, which reads none
		late    bool // something is sent after the RST
		want    server.Reason
	}{
		{"Goodbye, read in time", true, false, 16 << 20, false, server.PeerGoodbye},
		{"Goodbye and RST at once", true, true, 16 << 20, false, server.PeerGoodbye},
		{"Goodbye and RST at once, then a Send", true, true, 1 << 10, true, server.PeerGoodbye},
		{"Goodbye and RST at once, then a Send behind others", true, true, 16 << 20, true, server.PeerGoodbye},
		{"only words and RST at once", false, true, 16 << 20, false, server.PeerReset},
		{"only words and RST at once, then a Send", false, true, 1 << 10, true, server.PeerReset},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := calm()
			cfg.BacklogMax = 64 << 20
			h := newRecorder()
			var heard []string // the loop's
			h.onMessage = func(s *server.Session, p []byte) error { heard = append(heard, string(p)); return nil }
			_, cl, s := open(t, h, cfg)
			onLoop(t, s, func() {
				for left := c.backlog; left > 0; left -= 1 << 10 {
					require.NoError(t, s.Send(make([]byte, 1<<10-4)))
				}
			})
			onLoop(t, s, func() {}) // by now it has been written
			cl.r.Peek(1)            // and something of it is here, unread
			release := func() {}
			if c.held {
				release = hold(t, s)
			}
			words := frame(codec.Data, []byte("last words"))
			if c.goodbye {
				words = append(words, frame(codec.Goodbye, bye)...)
			}
			_, err := cl.Write(words)
			require.NoError(t, err)
			if !c.held {
				e := h.nextClose(t) // before the client goes
				h.closes <- e
			}
			cl.rst(t)
			if c.late {
				require.NoError(t, s.Send([]byte("are you there?")))
			}
			release()
			end := h.nextClose(t).end
			assert.Equal(t, c.want, end.Reason, "%v", end)
			assert.Equal(t, []string{"last words"}, heard)
			if c.goodbye {
				assert.Equal(t, server.Reason(1042), end.PeerCode)
				assert.Equal(t, "no time", end.Detail)
			}
			assert.Empty(t, h.closes)
		})
	}
}
