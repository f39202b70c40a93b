package server_test

import (
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// echoer has one message under way, always.
func echoer(c *client) {
	message := frame(codec.Data, []byte("and again"))
	if _, err := c.Write(message); err != nil {
		return
	}
	for {
		f, err := c.read()
		if err != nil || f.Type == codec.Goodbye {
			return
		}
		answer := message
		if f.Type == codec.Ping {
			answer = frame(codec.Pong, f.Payload)
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// numbered are n messages that fit into one read, each with its number.
func numbered(n int) []byte {
	var b []byte
	for i := range n {
		b = append(b, frame(codec.Data, binary.BigEndian.AppendUint32(nil, uint32(i)))...)
	}
	return b
}

// taking is a Handler that takes some time for each numbered message, writes down the number, and
// echoes what else comes.
func taking(d time.Duration) (h *recorder, got chan uint32) {
	h, got = newRecorder(), make(chan uint32, 1<<16)
	h.onMessage = func(s *server.Session, p []byte) error {
		if len(p) != 4 {
			return s.Send(p)
		}
		time.Sleep(d)
		got <- binary.BigEndian.Uint32(p)
		return nil
	}
	return h, got
}

// inOrder checks that all n have come, in order.
func inOrder(t *testing.T, got <-chan uint32, n int) {
	t.Helper()
	require.Len(t, got, n)
	for i := range n {
		require.EqualValues(t, i, <-got)
	}
}

// A read full of messages for a slow Handler does not keep the loop from its other sockets.
func TestTurnBudget(t *testing.T) {
	t.Parallel()
	const n = 2000
	h, got := taking(time.Millisecond)
	srv, cl, _ := open(t, h, calm())
	other := dial(t, srv)
	other.echoes(t)
	_, err := cl.Write(numbered(n))
	require.NoError(t, err)
	eventually(t, 10*time.Second, func() bool { return len(got) > 0 }, "the first message")
	for range 5 {
		other.echoes(t)
	}
	assert.Less(t, len(got), n/2, "were delivered before another client was served five times")
	eventually(t, 30*time.Second, func() bool { return len(got) == n }, "all")
	inOrder(t, got, n)
}

// What has been read and not delivered when the connection ends is delivered before OnClose, in
// order.
func TestTurnRemainderAtTheEnd(t *testing.T) {
	t.Parallel()
	const n = 300
	for name, c := range map[string]struct {
		behind []byte
		end    func(t testing.TB, cl *client)
		want   server.Reason
	}{
		"FIN":     {nil, func(t testing.TB, cl *client) { require.NoError(t, cl.Close()) }, server.PeerClosed},
		"RST":     {nil, func(t testing.TB, cl *client) { cl.rst(t) }, server.PeerReset},
		"Goodbye": {frame(codec.Goodbye, nil), func(t testing.TB, cl *client) { require.NoError(t, cl.Close()) }, server.PeerGoodbye},
		"half a frame": {frame(codec.Data, []byte("xx"))[:5], func(t testing.TB, cl *client) { require.NoError(t, cl.Close()) },
			server.PeerClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, got := taking(time.Millisecond)
			var before atomic.Int64
			h.onClose = func(*server.Session, *server.CloseError) { before.Store(int64(len(got))) }
			_, cl, _ := open(t, h, calm())
			_, err := cl.Write(append(numbered(n), c.behind...))
			require.NoError(t, err)
			eventually(t, 10*time.Second, func() bool { return len(got) > 0 }, "the first message")
			c.end(t, cl)
			e := h.nextClose(t)
			assert.Equal(t, c.want, e.end.Reason, "%v", e.end)
			assert.EqualValues(t, n, before.Load(), "delivered before OnClose")
			inOrder(t, got, n)
			assert.EqualValues(t, n*(codec.HeaderSize+4)+len(c.behind), e.end.Record.BytesIn)
		})
	}
}

// A session that has ended delivers nothing more of what had been read.
func TestTurnRemainderAfterTheEnd(t *testing.T) {
	t.Parallel()
	const n = 1000
	h, got := taking(time.Millisecond)
	_, cl, s := open(t, h, calm())
	_, err := cl.Write(numbered(n))
	require.NoError(t, err)
	eventually(t, 10*time.Second, func() bool { return len(got) > 10 }, "some messages")
	require.NoError(t, s.Close(server.ServerClosed, ""))
	atMost := len(got) + 1
	require.NoError(t, cl.SetReadDeadline(time.Now().Add(10*time.Second)))
	cl.readUntil(t, codec.Goodbye)
	cl.Close()
	assert.Equal(t, server.ServerClosed, h.nextClose(t).end.Reason)
	assert.LessOrEqual(t, len(got), atMost)
}

// Who is silent because what it sent has not been delivered yet is not convicted for it, nor for a
// Pong that waits there.
func TestTurnRemainderAcquits(t *testing.T) {
	t.Parallel()
	const n = 1000
	h, got := taking(2 * time.Millisecond)
	cfg := quick()
	cfg.Loops = 1
	_, cl, _ := open(t, h, cfg)
	_, err := cl.Write(numbered(n))
	require.NoError(t, err)
	e := h.nextClose(t)
	assert.Equal(t, server.PeerFrozen, e.end.Reason)
	inOrder(t, got, n)
}

// A frame that is unfinished behind what has not been delivered has its whole time from then on.
func TestTurnRemainderBeforeAFrame(t *testing.T) {
	t.Parallel()
	const n = 500
	h, got := taking(time.Millisecond)
	cfg := calm()
	cfg.FrameTimeout = 300 * time.Millisecond
	_, cl, _ := open(t, h, cfg)
	_, err := cl.Write(append(numbered(n), frame(codec.Data, []byte("xx"))[:5]...))
	require.NoError(t, err)
	e := h.nextClose(t)
	assert.Equal(t, server.PeerStalledFrame, e.end.Reason)
	inOrder(t, got, n)
}

// Messages that wait for a slow Handler count once against the rate, when they are delivered; who
// keeps to it lives.
func TestTurnRemainderIsMetered(t *testing.T) {
	t.Parallel()
	const n = 500
	for rate, want := range map[int]int{n: n, n / 5: n / 5} {
		h, got := taking(0)
		h.onMessage = func(_ *server.Session, p []byte) error {
			if len(got) == 0 {
				time.Sleep(20 * time.Millisecond) // beyond the budget
			}
			got <- binary.BigEndian.Uint32(p)
			return nil
		}
		cfg := calm()
		cfg.Rate = server.Rate{Messages: 1, MessageBurst: rate}
		_, cl, _ := open(t, h, cfg)
		_, err := cl.Write(numbered(n))
		require.NoError(t, err)
		eventually(t, 10*time.Second, func() bool { return len(got) >= want }, "%d messages", want)
		if want < n {
			assert.Equal(t, server.PeerFlood, h.nextClose(t).end.Reason)
			assert.LessOrEqual(t, len(got), want+2)
		}
	}
}

// A timer is armed at the end of the turn that the loop is in, also if a round of epoll takes long.
func TestDeadlineOfATimerInALongRound(t *testing.T) {
	t.Parallel()
	const clients, each = 40, 25 * time.Millisecond // a second
	h := newRecorder()
	var turns atomic.Int64
	fired := make(chan int64, 1)
	h.onMessage = func(s *server.Session, _ []byte) error {
		if turns.Add(1) == 2 {
			s.After(0, func() { fired <- turns.Load() })
		}
		time.Sleep(each)
		return nil
	}
	srv, _, s := open(t, h, calm())
	var cs []net.Conn
	for range clients {
		cs = append(cs, dial(t, srv))
		h.nextOpen(t)
	}
	release := hold(t, s)
	for _, c := range cs {
		_, err := c.Write(frame(codec.Data, nil))
		require.NoError(t, err)
	}
	release()
	select {
	case n := <-fired:
		assert.Less(t, n, int64(clients/2), "turns")
	case <-time.After(20 * time.Second):
		assert.Fail(t, "the timer has not fired")
	}
}
