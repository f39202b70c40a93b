//go:build unix

package server_test

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// Signals interrupt system calls (EINTR) and a write to a broken pipe raises SIGPIPE; neither is ever
// a disconnect. The process gets 1,000 signals a second of three kinds while 200 sessions talk, and
// others break their pipes next to them.
func TestSignalStorm(t *testing.T) { busy.Try(t, testSignalStorm) }

func testSignalStorm(t *busy.T) {
	const sessions, rate, lasts = 200, 1000, 3 * time.Second
	got := make(chan os.Signal, 64)
	signal.Notify(got, syscall.SIGUSR1, syscall.SIGUSR2)
	h := newRecorder()
	srv := start(t, h, server.Config{Loops: 2})

	var messages, caught atomic.Int64
	stop := make(chan struct{})
	done := make(chan error, sessions)
	for range sessions {
		c := dial(t, srv)
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if _, err := c.Write(frame(codec.Data, []byte("talk"))); err != nil {
					done <- err
					return
				}
				if _, err := c.read(); err != nil {
					done <- err
					return
				}
				messages.Inc()
				time.Sleep(time.Millisecond)
			}
		}()
	}
	for range sessions {
		h.nextOpen(t)
	}
	go func() {
		for range got {
			caught.Inc()
		}
	}()

	sent := 0
	begun := time.Now()
	kinds := []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE}
	for ; time.Since(begun) < lasts; sent++ {
		require.NoError(t, syscall.Kill(syscall.Getpid(), kinds[sent%len(kinds)]))
		if sent%100 == 50 { // a real broken pipe: the server writes to a peer that has gone
			c := dial(t, srv)
			s := h.nextOpen(t)
			c.rst(t)
			for range 3 {
				_ = s.Send([]byte("into the void"))
			}
			e := h.nextClose(t)
			assert.Contains(t, []server.Reason{server.PeerReset, server.PeerClosed}, e.end.Reason)
		}
		time.Sleep(time.Until(begun.Add(time.Duration(sent+1) * time.Second / rate)))
	}
	broken := srv.Stats().Closed
	close(stop)
	for range sessions {
		assert.NoError(t, <-done)
	}
	signal.Stop(got)
	close(got)
	t.Logf("%d signals in %v (%d handled by Go), %d messages echoed by %d sessions, %d pipes broken on purpose, sessions closed: %d",
		sent, lasts, caught.Load(), messages.Load(), sessions, broken, srv.Stats().Closed-broken)
	assert.Greater(t.IfQuiet(slack), sent, 9*rate*int(lasts/time.Second)/10)
	assert.Equal(t, sessions, srv.Stats().Live)
	assert.Zero(t, srv.Stats().Closed-broken)
	assert.Zero(t, srv.Stats().Reasons[server.Internal])
}
