package server_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// Who sends more than it may is told peer_flood and reset, whatever it sends. What came within the limit has been served.
func TestFlood(t *testing.T) {
	t.Parallel()
	small := frame(codec.Data, []byte("12345678"))
	for _, c := range []struct {
		name  string
		rate  server.Rate
		frame []byte
		most  uint64 // frames that may come at once
		says  string
	}{
		{"messages", server.Rate{Messages: 100, MessageBurst: 50}, small, 50, `\d+ messages in .*: the limit is 100 a second, and 50 at once`},
		{"Pings", server.Rate{Messages: 100, MessageBurst: 50}, frame(codec.Ping, make([]byte, 8)), 50, `messages in`},
		{"Pongs", server.Rate{Messages: 100, MessageBurst: 50}, frame(codec.Pong, make([]byte, 8)), 50, `messages in`},
		{"bytes", server.Rate{Bytes: 10_000, ByteBurst: 70_000}, frame(codec.Data, make([]byte, 996)), 70,
			`\d+ bytes in .*: the limit is 10000 a second, and 70000 at once`},
		{"bytes of frames that are not whole", server.Rate{Bytes: 10_000, ByteBurst: 8<<20 + codec.HeaderSize}, frame(codec.Data, make([]byte, 8<<20)), 8 << 10,
			`bytes in .*: the limit is 10000 a second, and 8388612 at once`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := calm()
			cfg.Rate = c.rate
			h := newRecorder()
			served := atomic.NewUint64(0)
			h.onMessage = func(*server.Session, []byte) error { served.Inc(); return nil }
			cfg.PayloadMax = max(codec.DefaultPayloadMax, len(c.frame)-codec.HeaderSize)
			srv, cl, _ := open(t, h, cfg)
			_, honest, _ := dialed(t, srv, h)
			wrote := cl.writeOn(0, bytes.Repeat(c.frame, 1+99_999/len(c.frame)))
			e := h.nextClose(t)
			assert.Equal(t, server.PeerFlood, e.end.Reason, "%v", e.end)
			assert.Regexp(t, c.says, e.end.Detail)
			assert.True(t, e.end.Record.Reset)
			assert.LessOrEqual(t, served.Load(), e.end.Record.FramesIn)
			assert.GreaterOrEqual(t, e.end.Record.FramesIn+e.end.Record.BytesIn/1000, c.most, "not before it was too much")
			cl.wasReset(t, wrote)
			honest.send(t, codec.Ping, []byte("12345678"))
			honest.readUntil(t, codec.Pong)
		})
	}
}

// dialed opens one more session of srv.
func dialed(t testing.TB, srv *server.Server, h *recorder) (*server.Server, *client, *server.Session) {
	t.Helper()
	cl := dial(t, srv)
	require.NoError(t, cl.SetReadDeadline(time.Now().Add(30*time.Second)))
	return srv, cl, h.nextOpen(t)
}

// The flooder reads why it was reset, if it stops to read.
func TestFloodIsTold(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Rate = server.Rate{Messages: 1, MessageBurst: 10}
	h := newRecorder()
	_, cl, _ := open(t, h, cfg)
	_, err := cl.Write(bytes.Repeat(frame(codec.Data, []byte("x")), 15))
	require.NoError(t, err)
	assert.Equal(t, []string{"x", "x", "x", "x", "x", "x", "x", "x", "x", "x"}, cl.data(t, 10), "what was within the limit is served")
	code, text := cl.goodbye(t)
	assert.Equal(t, server.PeerFlood, code)
	assert.Regexp(t, `^11 messages in .*: the limit is 1 a second, and 10 at once$`, text)
	cl.wasReset(t, nil)
	assert.Equal(t, text, h.nextClose(t).end.Detail)
}

// paced sends frames one by one, never more than the rate by any reckoning, until d has passed.
func paced(cl net.Conn, f []byte, every, d time.Duration) (sent int, err error) {
	for end := time.Now().Add(d); time.Now().Before(end); sent++ {
		if _, err = cl.Write(f); err != nil {
			break
		}
		time.Sleep(every)
	}
	return sent, err
}

// A handler that blocks its loop for three seconds finds three seconds' worth of what legal senders have sent
// meanwhile, many bursts of it. Nobody is ended for that, wherever it blocked; who floods afterwards is.
func TestRateWhileTheLoopIsAway(t *testing.T) {
	const every = 5 * time.Millisecond
	const size, rate = 4000, int(time.Second / every)
	for where, block := range map[string]time.Duration{
		"OnMessage": 3 * time.Second, "OnMessage of the sender": time.Second, "Post": time.Second, "OnClose": time.Second,
	} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			h := newRecorder()
			received := atomic.NewInt64(0)
			away := func() { time.Sleep(block) }
			h.onMessage = func(_ *server.Session, p []byte) error {
				if string(p) == "block" {
					away()
				} else if received.Inc() == 20 && where == "OnMessage of the sender" {
					away()
				}
				return nil
			}
			h.onClose = func(_ *server.Session, end *server.CloseError) {
				if end.Reason == server.PeerClosed {
					away()
				}
			}
			srv, other, os := open(t, h, calm())
			var floods [2]func()
			var sent [2]chan int
			for i, r := range []server.Rate{
				{Messages: rate, MessageBurst: 5},
				{Bytes: rate * (size + codec.HeaderSize), ByteBurst: codec.DefaultPayloadMax + codec.HeaderSize},
			} {
				f := frame(codec.Data, make([]byte, size))
				_, cl, s := dialed(t, srv, h)
				require.NoError(t, s.SetRate(r))
				onLoop(t, s, func() {})
				sent[i] = make(chan int, 1)
				go func() {
					n, err := paced(cl, f, every, block+300*time.Millisecond)
					assert.NoError(t, err)
					sent[i] <- n
				}()
				floods[i] = func() { _ = cl.writeOn(0, bytes.Repeat(f, 100)) }
			}
			time.Sleep(50 * time.Millisecond) // they have begun, or have not
			switch where {
			case "OnMessage":
				other.send(t, codec.Data, []byte("block"))
			case "Post":
				require.NoError(t, os.Post(away))
			case "OnClose":
				other.Close()
				require.Equal(t, server.PeerClosed, h.nextClose(t).end.Reason)
			}
			n := <-sent[0] + <-sent[1]
			eventually(t, 20*time.Second, func() bool { return int(received.Load()) == n || len(h.closes) > 0 }, "%d received", n)
			require.Empty(t, h.closes)
			for _, flood := range floods {
				go flood()
			}
			for range floods {
				e := h.nextClose(t)
				assert.Equal(t, server.PeerFlood, e.end.Reason, "%v", e.end)
			}
		})
	}
}

// A rate of a session's own holds from when it is set: more than the server's, less, or none.
func TestSetRate(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Rate = server.Rate{Messages: 10, MessageBurst: 10}
	h := newRecorder()
	_, cl, s := open(t, h, cfg)
	much := func(n int) { // the others' answers tell that it has been read
		_, err := cl.Write(bytes.Repeat(frame(codec.Data, []byte("x")), n))
		require.NoError(t, err)
		require.Len(t, cl.data(t, n), n)
	}
	much(10)
	require.NoError(t, s.SetRate(server.Rate{}))
	onLoop(t, s, func() {})
	much(5000)
	require.NoError(t, s.SetRate(server.Rate{Messages: 1, MessageBurst: 100}))
	onLoop(t, s, func() {})
	much(100)
	for _, r := range []server.Rate{{Messages: -1}, {ByteBurst: 1}, {Bytes: 1, ByteBurst: 1}} {
		err := s.SetRate(r)
		require.Error(t, err)
		assert.NotErrorIs(t, err, net.ErrClosed)
		assert.Contains(t, err.Error(), "SetRate: Rate.")
	}
	_, err := cl.Write(bytes.Repeat(frame(codec.Data, []byte("x")), 1000)) // no second has passed 100 times since
	require.NoError(t, err)
	end := h.nextClose(t).end
	assert.Equal(t, server.PeerFlood, end.Reason)
	assert.Contains(t, end.Detail, "the limit is 1 a second, and 100 at once")
	assert.ErrorIs(t, s.SetRate(server.Rate{}), server.PeerFlood)

	free := calm() // a server without limits
	h = newRecorder()
	_, cl, s = open(t, h, free)
	much(5000)
	require.NoError(t, s.SetRate(server.Rate{Messages: 1}))
	onLoop(t, s, func() {})
	go func() { _ = cl.writeOn(0, bytes.Repeat(frame(codec.Data, nil), 1000)) }()
	assert.Equal(t, server.PeerFlood, h.nextClose(t).end.Reason)
}
