//go:build unix

package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

func init() { roles["metered"] = metered }

// metered is a server process with a limit. It says its address, and at the end of its input what it told.
func metered([]string) {
	h := newRecorder()
	h.onMessage = func(*server.Session, []byte) error { return nil }
	cfg := calm()
	cfg.Rate = server.Rate{Messages: 100, MessageBurst: 5}
	srv, err := server.New(h, cfg)
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
	fmt.Println(st.Live, st.Reasons)
	_ = srv.Close()
}

// The server process is stopped: of what it finds in the kernel afterwards nobody is convicted.
func TestRateWhileTheProcessIsStopped(t *testing.T) {
	t.Parallel()
	const clients, stop = 20, 2 * time.Second
	cmd := role(t, "metered")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	done := make(chan error, clients)
	for range clients {
		cl, err := net.Dial("tcp", lines.Text())
		require.NoError(t, err)
		defer cl.Close()
		go func() {
			_, err := paced(cl, frame(codec.Data, []byte("legal")), 10*time.Millisecond, stop+time.Second)
			done <- err
		}()
	}
	time.Sleep(300 * time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(stop)
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	for range clients {
		assert.NoError(t, <-done)
	}
	in.Close()
	require.True(t, lines.Scan())
	assert.Equal(t, fmt.Sprintf("%d map[]", clients), lines.Text(), "live sessions, and reasons")
	require.NoError(t, cmd.Wait())
}

// A peer that only answers Pings is within any limit.
func TestRateOfAnswers(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Rate = server.Rate{Messages: 1, MessageBurst: 1, Bytes: 200}
	h := newRecorder()
	got := make(chan int, 1)
	h.onMessage = func(_ *server.Session, p []byte) error { got <- len(p); return nil }
	_, cl, s := open(t, h, cfg)
	go func() { _, _ = cl.beat() }()
	lives(t, h, 2*time.Second)
	cl.send(t, codec.Data, []byte("the one message of this second"))
	select {
	case <-got:
	case e := <-h.closes:
		require.Fail(t, "ended", "%v", e.end)
	}
	assert.Positive(t, s.RTT(), "it did answer")
	require.NoError(t, s.SetRate(server.Rate{Messages: 1, MessageBurst: 1}))
	lives(t, h, time.Second)
}
