package server_test

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// How much later than its rule a verdict may be told on a loaded machine before the test says that
// it is late. The rules themselves are checked to the tick on the never-early side.
const slack = 400 * time.Millisecond

// TestEndings does one thing to a client at a time and checks what the server makes of it, while a
// second client on the same server must not notice anything.
func TestEndings(t *testing.T) {
	cfg := quick()
	policy := cfg.Policy
	goodbye, err := codec.AppendGoodbye(nil, 1234, "off to bed")
	require.NoError(t, err)
	for _, c := range []struct {
		name  string
		act   func(t testing.TB, c *client)
		want  server.Reason
		not   time.Duration // not told before, counted from the act
		by    time.Duration
		check func(t testing.TB, end *server.CloseError)
		told  bool // the client gets a Goodbye with the reason
	}{
		{name: "FIN", act: func(t testing.TB, c *client) { c.Close() }, want: server.PeerClosed},
		{name: "RST", act: func(t testing.TB, c *client) { c.rst(t) }, want: server.PeerReset,
			check: func(t testing.TB, end *server.CloseError) {
				assert.ErrorIs(t, end, syscall.ECONNRESET)
				call, errno := end.Errno()
				assert.Equal(t, "read", call)
				assert.Equal(t, syscall.ECONNRESET, errno)
			}},
		{name: "Goodbye", act: func(t testing.TB, c *client) { c.send(t, codec.Goodbye, goodbye) }, want: server.PeerGoodbye,
			check: func(t testing.TB, end *server.CloseError) {
				assert.Equal(t, server.Reason(1234), end.PeerCode)
				assert.Equal(t, "off to bed", end.Detail)
			}},
		{name: "Goodbye and FIN at once", act: func(t testing.TB, c *client) { c.send(t, codec.Goodbye, nil); c.Close() }, want: server.PeerGoodbye},
		{name: "malformed Goodbye", act: func(t testing.TB, c *client) { c.send(t, codec.Goodbye, []byte{1}) }, want: server.PeerProtocol, told: true,
			check: func(t testing.TB, end *server.CloseError) { assert.ErrorIs(t, end, codec.ErrGoodbye) }},
		{name: "zero run", act: func(t testing.TB, c *client) { c.Write(make([]byte, 100)) }, want: server.PeerProtocol, told: true,
			check: func(t testing.TB, end *server.CloseError) { assert.ErrorIs(t, end, codec.ErrType) }},
		{name: "text", act: func(t testing.TB, c *client) { c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }, want: server.PeerProtocol, told: true},
		{name: "over-long", act: func(t testing.TB, c *client) { c.Write([]byte{1, 0xff, 0xff, 0xff}) }, want: server.PeerProtocol, told: true,
			check: func(t testing.TB, end *server.CloseError) { assert.ErrorIs(t, end, codec.ErrTooLong) }},
		{name: "Hello", act: func(t testing.TB, c *client) { c.send(t, codec.Hello, nil) }, want: server.PeerProtocol, told: true},
		{name: "Welcome", act: func(t testing.TB, c *client) { c.send(t, codec.Welcome, nil) }, want: server.PeerProtocol, told: true},
		{name: "Ack", act: func(t testing.TB, c *client) { c.send(t, codec.Ack, nil) }, want: server.PeerProtocol, told: true},
		{name: "type 8", act: func(t testing.TB, c *client) { c.Write([]byte{8, 0, 0, 0}) }, want: server.PeerProtocol, told: true,
			check: func(t testing.TB, end *server.CloseError) { assert.ErrorIs(t, end, codec.ErrType) }},
		{name: "garbage after a message", act: func(t testing.TB, c *client) { c.Write(append(frame(codec.Data, []byte("x")), 0, 0, 0)) },
			want: server.PeerProtocol, told: true,
			check: func(t testing.TB, end *server.CloseError) { assert.EqualValues(t, 2, end.Record.FramesIn) }},
		{name: "half a frame", act: func(t testing.TB, c *client) { c.Write(frame(codec.Data, make([]byte, 100))[:50]) },
			want: server.PeerStalledFrame, not: cfg.FrameTimeout, by: cfg.FrameTimeout + 2*cfg.Tick, told: true},
		{name: "silence", act: func(t testing.TB, c *client) {}, want: server.PeerFrozen, told: true,
			not: policy.Timeout, by: policy.Timeout + 2*cfg.Tick,
			check: func(t testing.TB, end *server.CloseError) {
				assert.GreaterOrEqual(t, end.Record.Pings, 2)
				assert.EqualValues(t, 0, end.Record.TCP.Unacked)
				assert.Equal(t, "ESTABLISHED", end.Record.TCPState.String())
			}},
	} {
		t.Run(c.name, busy.Test(func(t *busy.T) {
			t.Parallel()
			h := newRecorder()
			srv := start(t, h, cfg)
			witness := dial(t, srv)
			h.nextOpen(t)
			witness.echoes(t)
			stop := make(chan struct{})
			defer close(stop)
			go func() { // the witness beats all the while
				for {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
						witness.Write(frame(codec.Ping, nil))
					}
				}
			}()

			cl := dial(t, srv)
			s := h.nextOpen(t)
			cl.echoes(t)
			acted := time.Now()
			c.act(t, cl)
			e := h.nextClose(t)
			took := e.at.Sub(acted)

			require.Same(t, s, e.s)
			require.Equal(t, c.want, e.end.Reason, "%v, after %v", e.end, took)
			assert.ErrorIs(t, e.end, c.want)
			assert.ErrorIs(t, e.end, net.ErrClosed)
			if c.not > 0 { // the echo before the act was heard up to a moment earlier
				assert.GreaterOrEqual(t, took, c.not-20*time.Millisecond)
			}
			t.NotLater(acted, e.at, c.by+slack, "%v", c.want)
			if c.check != nil {
				c.check(t, e.end)
			}
			if c.told {
				payload := cl.readUntil(t, codec.Goodbye).Payload
				code, text, err := codec.ParseGoodbye(payload)
				require.NoError(t, err)
				assert.Equal(t, c.want, server.Reason(code))
				assert.NotEmpty(t, text)
				_, err = cl.read()
				assert.True(t, isReset(err), "an RST follows, not %v", err)
				assert.True(t, e.end.Record.Reset)
			}
			assert.ErrorIs(t, s.Send([]byte("late")), c.want)
			assert.ErrorIs(t, s.Send([]byte("late")), net.ErrClosed)
			assert.ErrorIs(t, s.Close(server.ServerClosed, ""), c.want, "the first cause stays")
			assert.ErrorIs(t, s.Post(func() {}), net.ErrClosed)
			assert.Nil(t, srv.Session(s.ID()))
			<-s.Done()
			witness.echoes(t)
			select {
			case again := <-h.closes:
				assert.Fail(t, "another OnClose", "%v", again.end)
			default:
			}
		}))
	}
}

func TestUnready(t *testing.T) { busy.Try(t, testUnready) }

func testUnready(t *busy.T) {
	cfg := quick()
	cfg.Policy.Interval, cfg.Policy.Timeout = 2*time.Second, 6*time.Second
	h := newRecorder()
	srv := start(t, h, cfg)
	asked := time.Now()
	cl := dial(t, srv)
	ping := cl.readUntil(t, codec.Ping)
	assert.GreaterOrEqual(t, time.Since(asked), cfg.HandshakeTimeout/2-slack, "asked at half the deadline")
	t.NotLater(asked, time.Now(), cfg.HandshakeTimeout/2+slack, "half the deadline")
	e := h.nextClose(t)
	assert.Equal(t, server.PeerUnready, e.end.Reason)
	assert.GreaterOrEqual(t, e.end.Record.Age, cfg.HandshakeTimeout)
	t.NotLater(e.at.Add(-e.end.Record.Age), e.at, cfg.HandshakeTimeout+2*cfg.Tick+slack, "the deadline")
	assert.Len(t, ping.Payload, 8)

	// A client that only receives, but answers, is never unready.
	cl = dial(t, srv)
	cl.SetReadDeadline(time.Now().Add(2 * cfg.HandshakeTimeout))
	_, err := cl.beat()
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	assert.True(t, timeout.Timeout(), "still there: %v", err)
}

// A trickle of single bytes is a stalled frame, not an unready peer and not a silent one.
func TestTrickle(t *testing.T) { busy.Try(t, testTrickle) }

func testTrickle(t *busy.T) {
	cfg := quick()
	h := newRecorder()
	srv := start(t, h, cfg)
	cl := dial(t, srv)
	s := h.nextOpen(t)
	begun := time.Now()
	go func() {
		for _, b := range frame(codec.Data, make([]byte, 1000)) {
			if _, err := cl.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	e := h.nextClose(t)
	require.Same(t, s, e.s)
	assert.Equal(t, server.PeerStalledFrame, e.end.Reason, "%v", e.end)
	assert.GreaterOrEqual(t, e.at.Sub(begun), cfg.FrameTimeout)
	t.NotLater(begun, e.at, cfg.FrameTimeout+2*cfg.Tick+slack, "the deadline")
}

// A peer that does not read, but beats: by the byte limit, and by the write timeout.
func TestSlowPeer(t *testing.T) {
	for _, c := range []struct {
		name    string
		limit   int
		timeout time.Duration
		detail  string
	}{
		{"by the limit", 1 << 20, time.Minute, "Config.BacklogMax"},
		{"by the timeout", 64 << 20, 500 * time.Millisecond, "it has taken none of"},
	} {
		t.Run(c.name, busy.Test(func(t *busy.T) {
			t.Parallel()
			cfg := quick()
			cfg.WriteTimeout = c.timeout
			cfg.BacklogMax = c.limit
			h := newRecorder()
			srv := start(t, h, cfg)
			cl := dial(t, srv)
			s := h.nextOpen(t)
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
						cl.Write(frame(codec.Pong, nil))
					}
				}
			}()
			filled := make(chan time.Time, 1)
			require.NoError(t, s.Post(func() { // in one turn, so that the kernel's buffers are full at once
				for sent := 0; sent < 24<<20; sent += 32 << 10 {
					if err := s.Send(make([]byte, 32<<10)); err != nil {
						assert.ErrorIs(t, err, server.ErrBacklogFull)
						break
					}
				}
				filled <- time.Now()
			}))
			last := <-filled
			for c.limit < 24<<20 && !errors.Is(s.Send(make([]byte, 32<<10)), net.ErrClosed) {
				time.Sleep(time.Millisecond) // go on until it is over the limit
			}
			e := h.nextClose(t)
			assert.Equal(t, server.PeerSlow, e.end.Reason, "%v", e.end)
			if !errors.Is(e.end, syscall.ETIMEDOUT) { // on a machine that is too busy the kernel's own timeout is first
				assert.Contains(t, e.end.Detail, c.detail)
			}
			assert.Positive(t, e.end.Record.Unsent)
			if c.limit > 24<<20 {
				assert.GreaterOrEqual(t, e.at.Sub(last), cfg.WriteTimeout-100*time.Millisecond)
				t.NotLater(last, e.at, cfg.WriteTimeout+2*cfg.Tick+2*slack, "the deadline")
			}
		}))
	}
}

// The first message of several queues a Goodbye's worth of trouble: everything before an end in the
// same read is delivered, nothing after it.
func TestNothingAfterTheEnd(t *testing.T) {
	h := newRecorder()
	var got []string
	h.onMessage = func(s *server.Session, p []byte) error {
		got = append(got, string(p))
		if string(p) == "kick me" {
			require.NoError(t, s.Close(server.SessionReplaced, "by yourself"))
			require.ErrorIs(t, s.Send([]byte("too late")), server.SessionReplaced)
		}
		return nil
	}
	srv := start(t, h, quick())
	cl := dial(t, srv)
	h.nextOpen(t)
	var all []byte
	for _, m := range []string{"a", "b", "kick me", "c", "d"} {
		all = append(all, frame(codec.Data, []byte(m))...)
	}
	_, err := cl.Write(all)
	require.NoError(t, err)
	code, text, err := codec.ParseGoodbye(cl.readUntil(t, codec.Goodbye).Payload)
	require.NoError(t, err)
	assert.Equal(t, "session_replaced by yourself", strings.Join([]string{server.Reason(code).String(), text}, " "))
	cl.Close()
	e := h.nextClose(t)
	assert.Equal(t, server.SessionReplaced, e.end.Reason)
	assert.False(t, e.end.Record.Reset)
	assert.Equal(t, []string{"a", "b", "kick me"}, got)
}
