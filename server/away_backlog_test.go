//go:build unix

package server_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// Who has taken all that the kernel had for him while the loop was away, in one long turn or in many short ones, and
// waits for what it has not handed over, is not slow: neither while he is served, nor when he has been let go.
func TestLoopAwayBehindABacklog(t *testing.T) {
	for _, addr := range []string{"tcp://127.0.0.1:0", "unix://"} {
		for _, closing := range []bool{false, true} {
			t.Run(fmt.Sprintf("%.4s closing=%v", addr, closing), func(t *testing.T) {
				t.Parallel()
				on := addr
				if addr == "unix://" {
					on += filepath.Join(t.TempDir(), "s")
				}
				awayBehindABacklog(t, on, closing)
			})
		}
	}
}

func awayBehindABacklog(t *testing.T, addr string, closing bool) {
	const messages, helpers, each = 256, 30, 80 * time.Millisecond
	cfg := calm()
	cfg.WriteTimeout, cfg.BacklogMax = helpers*each/3, 32<<20
	h, busy := busyBatch(each)
	srv := startOn(t, h, cfg, addr)
	away := busy(t, srv, helpers)
	cl := dial(t, srv)
	s := h.nextOpen(t)
	n := cl.sips(t, h, func() {
		for range messages {
			assert.NoError(t, s.Send(make([]byte, 64<<10)))
		}
		if closing {
			assert.NoError(t, s.Close(server.SessionReplaced, "bye"))
		}
		time.Sleep(50 * time.Millisecond) // the kernel is full, and gnet has the rest
	})
	away()
	cl.gets(t, h, messages-n)
}

// sips has c take little while f runs, and returns how many messages that were.
func (c *client) sips(t *testing.T, h *recorder, f func()) (n int) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	for {
		select {
		case <-done:
			return n
		case <-time.After(20 * time.Millisecond):
			c.gets(t, h, 1)
			n++
		}
	}
}

// busyBatch returns a handler that sleeps for each message, and busy: it opens so many helpers, and the function that it
// returns has them all send one, so that the only loop is away for as long, in as many turns of one round.
func busyBatch(each time.Duration) (h *recorder, busy func(t *testing.T, srv *server.Server, helpers int) (away func())) {
	h = newRecorder()
	h.onMessage = func(*server.Session, []byte) error { time.Sleep(each); return nil }
	return h, func(t *testing.T, srv *server.Server, helpers int) func() {
		var all []*client
		for range helpers {
			c := dial(t, srv)
			h.nextOpen(t)
			go c.beat()
			all = append(all, c)
		}
		return func() {
			for _, c := range all {
				c.send(t, codec.Data, []byte("slow"))
			}
		}
	}
}

// takes reads so many messages, answers each Ping, and returns how many messages came.
func (c *client) takes(messages int) (n int) {
	for n < messages {
		f, err := c.read()
		if err != nil {
			return n
		}
		switch f.Type {
		case codec.Data:
			n++
		case codec.Ping:
			if _, err := c.Write(frame(codec.Pong, f.Payload)); err != nil {
				return n
			}
		}
	}
	return n
}

// gets fails unless c gets so many messages.
func (c *client) gets(t *testing.T, h *recorder, messages int) {
	t.Helper()
	if n := c.takes(messages); n < messages {
		require.Fail(t, "ended", "after %d of %d: %v", n, messages, h.nextClose(t).end)
	}
}

// Nor is he frozen if a Ping, too, waits behind what the loop has not handed over.
func TestLoopAwayBeforeAPing(t *testing.T) {
	t.Parallel()
	const messages, helpers, each = 256, 30, 80 * time.Millisecond
	cfg, policy := calm(), heartbeat.Policy{Interval: 300 * time.Millisecond, Timeout: 900 * time.Millisecond}
	cfg.WriteTimeout, cfg.BacklogMax = 10*time.Second, 32<<20
	h, busy := busyBatch(each)
	srv := start(t, h, cfg)
	away := busy(t, srv, helpers)
	cl := dial(t, srv)
	s := h.nextOpen(t)
	require.NoError(t, s.SetPolicy(policy))
	n := cl.sips(t, h, func() {
		for range messages {
			assert.NoError(t, s.Send(make([]byte, 64<<10)))
		}
		time.Sleep(policy.Interval) // a Ping is due behind them
	})
	away()
	cl.gets(t, h, messages-n)
	go cl.beat()
	lives(t, h, policy.Timeout)
}

// Nor is he unready, if the Ping that was to have something to answer waits there.
func TestLoopAwayBeforeTheFirstPing(t *testing.T) {
	for _, addr := range []string{"tcp://127.0.0.1:0", "unix://"} {
		t.Run(addr[:4], func(t *testing.T) {
			t.Parallel()
			on := addr
			if addr == "unix://" {
				on += filepath.Join(t.TempDir(), "s")
			}
			const messages, helpers, each = 128, 30, 100 * time.Millisecond
			cfg := calm()
			cfg.HandshakeTimeout, cfg.BacklogMax = helpers*each/3, 32<<20
			h, busy := busyBatch(each)
			srv := startOn(t, h, cfg, on)
			away := busy(t, srv, helpers)
			cl := dial(t, srv)
			s := h.nextOpen(t)
			n := cl.sips(t, h, func() {
				for range messages {
					assert.NoError(t, s.Send(make([]byte, 64<<10)))
				}
				time.Sleep(50 * time.Millisecond) // the kernel is full, and gnet has the rest
			})
			away()
			cl.gets(t, h, messages-n)
			go cl.beat()
			lives(t, h, 2*cfg.HandshakeTimeout)
		})
	}
}

// Nor has he too much waiting for him, if it is sent while the loop is away and he has taken what was there before.
func TestLoopAwayWhileMuchIsSent(t *testing.T) {
	t.Parallel()
	const size, meanwhile = 64 << 10, 15
	cfg := calm()
	cfg.BacklogMax = 1 << 20
	h := newRecorder()
	srv, cl, s := open(t, h, cfg)
	dial(t, srv)
	helper := h.nextOpen(t)
	sent := 0
	for s.Backlog() < cfg.BacklogMax/2 {
		require.NoError(t, s.Send(make([]byte, size)))
		onLoop(t, s, func() {}) // it has been written
		sent++
	}
	stall(t, helper, 300*time.Millisecond)
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		cl.gets(t, h, sent+meanwhile)
	}()
	time.Sleep(100 * time.Millisecond) // he has taken what the kernel had
	for range meanwhile {
		require.NoError(t, s.Send(make([]byte, size)))
	}
	<-taken
}

// The same, where the loop comes to write what was sent meanwhile before gnet comes to write what was there.
func TestLoopAwayWhileMuchIsSentInARound(t *testing.T) {
	t.Parallel()
	const size, meanwhile, helpers, each = 64 << 10, 13, 20, 50 * time.Millisecond
	cfg := calm()
	cfg.BacklogMax = 1 << 20
	h, busy := busyBatch(each)
	srv, cl, s := open(t, h, cfg)
	away := busy(t, srv, helpers)
	dial(t, srv)
	other := h.nextOpen(t)
	sent := 0
	for s.Backlog() < cfg.BacklogMax/2 {
		require.NoError(t, s.Send(make([]byte, size)))
		onLoop(t, s, func() {}) // it has been written
		sent++
	}
	stall(t, other, 300*time.Millisecond)
	away() // they are read in the next round
	time.Sleep(100 * time.Millisecond)
	require.NoError(t, other.Post(func() {})) // and so is the seed, behind them
	time.Sleep(300 * time.Millisecond)        // that round has begun
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		cl.gets(t, h, sent+meanwhile)
	}()
	time.Sleep(200 * time.Millisecond) // he has taken what the kernel had
	for range meanwhile {
		if err := s.Send(make([]byte, size)); err != nil {
			break // the loop was faster
		}
	}
	<-taken
}
