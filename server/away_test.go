//go:build unix

package server_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// stall blocks the only loop of s for d, and returns when it has begun.
func stall(t testing.TB, s *server.Session, d time.Duration) {
	t.Helper()
	begun := make(chan struct{})
	require.NoError(t, s.Post(func() { close(begun); time.Sleep(d) }))
	<-begun
}

// A client that only receives is not held to the time for which its loop was blocked: not by the
// handshake deadline, and not by the heartbeat.
func TestLoopAwayPastTheHandshake(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Loops = 1
	h := newRecorder()
	_, c, s := open(t, h, cfg)
	go c.beat()
	stall(t, s, cfg.Policy.Timeout+cfg.HandshakeTimeout)
	lives(t, h, cfg.Policy.Timeout+cfg.HandshakeTimeout+500*time.Millisecond)
}

// A frame that was held up by our own full receive buffer is not a stalled one, wherever the
// application blocked its loop.
func TestLoopAwayInAFrame(t *testing.T) {
	const block = 1200 * time.Millisecond
	for name, blocked := range map[string]func(t *testing.T, h *recorder, other *client, s *server.Session){
		"Post": func(t *testing.T, _ *recorder, _ *client, s *server.Session) { stall(t, s, block) },
		"After": func(_ *testing.T, _ *recorder, _ *client, s *server.Session) {
			begun := make(chan struct{})
			s.After(0, func() { close(begun); time.Sleep(block) })
			<-begun
		},
		"OnClose": func(_ *testing.T, h *recorder, other *client, _ *server.Session) {
			other.Close()
			<-h.opens // see onClose
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newRecorder()
			first := true
			h.onClose = func(*server.Session, *server.CloseError) {
				if first && name == "OnClose" {
					first = false
					h.opens <- nil // it has begun
					time.Sleep(block)
				}
			}
			awayInAFrame(t, h, func(other *client, s *server.Session) { blocked(t, h, other, s) })
		})
	}
}

func awayInAFrame(t *testing.T, h *recorder, block func(other *client, s *server.Session)) {
	cfg := quick()
	cfg.Loops = 1
	cfg.Policy = heartbeat.Policy{Interval: 5 * time.Second}
	cfg.FrameTimeout, cfg.HandshakeTimeout = time.Second, 5*time.Second
	cfg.PayloadMax = 8 << 20
	done := make(chan int, 1)
	h.onMessage = func(s *server.Session, p []byte) error { done <- len(p); return nil }
	srv := start(t, h, cfg)
	other := dial(t, srv)
	h.nextOpen(t)
	go func() { _, _ = other.beat() }()
	c := dial(t, srv)
	s := h.nextOpen(t)
	const size = 7 << 20
	all := frame(codec.Data, make([]byte, size))
	_, err := c.Write(all[:1000])
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond) // so that the frame has begun; should it not have, it only begins later
	block(other, s)
	_, err = c.Write(all[1000:])
	require.NoError(t, err)
	for {
		select {
		case n := <-done:
			assert.Equal(t, size, n)
			return
		case e := <-h.closes:
			if e.s == s {
				require.Fail(t, "ended", "%v", e.end)
			}
		}
	}
}

// The loop is not blocked by one long turn but by many short ones, between which it sweeps without
// asking epoll: what a peer has sent meanwhile lies unread, and acquits it all the same.
func TestBytesUnreadInABusyBatch(t *testing.T) {
	t.Parallel()
	const helpers, each = 30, 30 * time.Millisecond
	cfg := quick()
	cfg.Loops = 1
	cfg.Policy = heartbeat.Policy{Interval: 5 * time.Second}
	cfg.FrameTimeout, cfg.HandshakeTimeout = 400*time.Millisecond, 5*time.Second
	h := newRecorder()
	whole := make(chan int, 1)
	h.onMessage = func(_ *server.Session, p []byte) error {
		if len(p) == 100 {
			whole <- len(p)
			return nil
		}
		time.Sleep(each)
		return nil
	}
	srv := start(t, h, cfg)
	var busy []*client
	for range helpers {
		busy = append(busy, dial(t, srv))
		h.nextOpen(t)
	}
	c := dial(t, srv)
	h.nextOpen(t)
	all := frame(codec.Data, make([]byte, 100))
	_, err := c.Write(all[:10])
	require.NoError(t, err)
	time.Sleep(200 * time.Millisecond)
	for _, b := range busy {
		b.send(t, codec.Data, []byte("slow"))
	}
	time.Sleep(50 * time.Millisecond)
	_, err = c.Write(all[10:]) // in time, but the loop comes to read it only 900 ms after the first of the batch
	require.NoError(t, err)
	select {
	case <-whole:
	case e := <-h.closes:
		assert.Fail(t, "ended", "%v", e.end)
	}
}

// The peer's FIN came while the loop was blocked past CloseTimeout: it is honoured.
func TestLoopAwayWhileTheFINComes(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Loops = 1
	h := newRecorder()
	srv, helper, hs := open(t, h, cfg)
	go helper.beat()
	c := dial(t, srv)
	s := h.nextOpen(t)
	stall(t, hs, 30*time.Millisecond)
	require.NoError(t, s.Close(server.ServerClosed, "bye"))
	require.NoError(t, hs.Post(func() { time.Sleep(cfg.CloseTimeout + 200*time.Millisecond) }))
	c.readUntil(t, codec.Goodbye)
	c.Close()
	e := h.nextClose(t)
	assert.Equal(t, server.ServerClosed, e.end.Reason)
	assert.False(t, e.end.Record.Reset)
}

func init() { roles["stoppable"] = stoppable }

// stoppable is a server process that says its address, and at the end of its input what it told.
func stoppable([]string) {
	h := newRecorder()
	h.onMessage = func(s *server.Session, p []byte) error {
		for range binary.BigEndian.Uint16(p) {
			if err := s.Send(make([]byte, 64<<10)); err != nil {
				return err
			}
		}
		return nil
	}
	srv, err := server.New(h, server.Config{
		Policy: heartbeat.Policy{Interval: 400 * time.Millisecond, Timeout: 1200 * time.Millisecond},
		Tick:   10 * time.Millisecond, HandshakeTimeout: time.Second, Loops: 2, BacklogMax: 16 << 20})
	if err != nil {
		panic(err)
	}
	ln, err := server.Listen("127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = srv.Serve(ln) }()
	fmt.Println(ln.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	st := srv.Stats()
	fmt.Println(st.Opened, st.Closed, st.Reasons)
	_ = srv.Close()
}

// The server process is stopped for longer than every deadline, with 200 live clients, half of which
// have never sent a frame and half of which have, and with 10 that read what the kernel has for them, and wait for much more:
// nobody is convicted for it.
func TestProcessStopped(t *testing.T) {
	t.Parallel()
	const clients, hungry, messages, stop = 200, 10, 128, 4 * time.Second
	cmd := role(t, "stoppable")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	for i := range clients {
		nc, err := net.Dial("tcp", lines.Text())
		require.NoError(t, err)
		c := &client{nc, bufio.NewReader(nc)}
		t.Cleanup(func() { c.Close() })
		if i%2 == 0 {
			c.send(t, codec.Data, []byte{0, 0})
		}
		go c.beat()
	}
	var waiting []*client
	for range hungry {
		nc, err := net.Dial("tcp", lines.Text())
		require.NoError(t, err)
		c := &client{nc, bufio.NewReader(nc)}
		t.Cleanup(func() { c.Close() })
		c.send(t, codec.Data, []byte{0, messages})
		waiting = append(waiting, c)
	}
	time.Sleep(300 * time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	var fed atomic.Int32
	for _, c := range waiting {
		go func() {
			if c.takes(messages) == messages {
				fed.Inc()
			}
			_, _ = c.beat()
		}()
	}
	time.Sleep(stop)
	assert.Zero(t, fed.Load(), "the kernel had everything")
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	time.Sleep(3 * time.Second)
	eventually(t, 20*time.Second, func() bool { return fed.Load() == hungry }, "not all of those who waited for more have it")
	in.Close()
	require.True(t, lines.Scan())
	t.Logf("stopped for %v with %d live clients; opened, closed, reasons: %s", stop, clients+hungry, lines.Text())
	assert.Equal(t, fmt.Sprintf("%d 0 map[]", clients+hungry), lines.Text())
	require.NoError(t, cmd.Wait())
}
