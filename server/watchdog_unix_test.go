//go:build unix

package server_test

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

func init() { roles["watched"] = watchedRole }

// watchedTurn is how long a turn of that process takes, and watchedMost what the watchdog finds too long.
const (
	watchedTurn = 400 * time.Millisecond
	watchedMost = time.Second
)

// watchedRole is a server in a process of its own that does on its loop what a client tells it to: "stop me" takes a while,
// and it says so on its standard output. On a line of input it says how many turns were found too long.
func watchedRole([]string) {
	h := newRecorder()
	h.onMessage = func(s *server.Session, p []byte) error {
		switch string(p) {
		case "stop me":
			for i := range watchedTurn / (10 * time.Millisecond) { // it is not past it at once when it goes on
				time.Sleep(10 * time.Millisecond)
				if i == 10 { // the watchdog has seen it by now
					fmt.Println("begun")
				}
			}
		case "timer":
			s.After(watchedTurn, func() {}) // is due while the process is stopped
		case "exit":
			runtime.Goexit()
		}
		return s.Send(p)
	}
	cfg := calm()
	cfg.Loops, cfg.BlockWarning, cfg.Logger = 1, watchedMost, slog.New(slog.NewTextHandler(os.Stdout, nil))
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
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println("blocks", srv.Stats().Blocks, "lags", srv.Loops()[0].Lags)
	}
}

// watchedProcess starts it and connects to it.
func watchedProcess(t *testing.T) (say func(string), next func() string, cl *client, signal func(syscall.Signal)) {
	t.Helper()
	cmd := role(t, "watched")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	out := bufio.NewScanner(pipe)
	next = func() string {
		require.True(t, out.Scan(), "the process has ended")
		return out.Text()
	}
	nc, err := net.Dial("tcp", next())
	require.NoError(t, err)
	cl = wrap(t, nc)
	return func(line string) { fmt.Fprintln(in, line) }, next, cl,
		func(sig syscall.Signal) { require.NoError(t, cmd.Process.Signal(sig)) }
}

// A process that is stopped in the middle of a turn was not held up by that turn, and its loop does not lag.
func TestWatchdogOfAStoppedProcess(t *testing.T) {
	t.Parallel()
	say, next, cl, signal := watchedProcess(t)
	cl.send(t, codec.Data, []byte("stop me"))
	require.Equal(t, "begun", next())
	signal(syscall.SIGSTOP)
	time.Sleep(2*watchedMost + watchedTurn) // else this tests nothing
	signal(syscall.SIGCONT)
	assert.Equal(t, "stop me", string(cl.readUntil(t, codec.Data).Payload))
	time.Sleep(10 * quick().Tick) // the ticker has looked
	say("blocks?")
	assert.Equal(t, "blocks 0 lags 0", next())
}

// A timer that is late because the process was stopped is late, but its loop does not lag.
func TestLoopsOfAStoppedProcess(t *testing.T) {
	t.Parallel()
	say, next, cl, signal := watchedProcess(t)
	cl.send(t, codec.Data, []byte("timer"))
	require.Equal(t, "timer", string(cl.readUntil(t, codec.Data).Payload))
	signal(syscall.SIGSTOP)
	time.Sleep(2*watchedMost + watchedTurn) // else this tests nothing
	signal(syscall.SIGCONT)
	time.Sleep(10 * quick().Tick)
	say("lags?")
	assert.Equal(t, "blocks 0 lags 0", next())
}

// A handler that ends the goroutine of its loop takes the loop with it, which nothing can undo; but it is
// told.
func TestWatchdogOfGoexit(t *testing.T) {
	t.Parallel()
	_, next, cl, _ := watchedProcess(t)
	cl.send(t, codec.Data, []byte("exit"))
	line := next()
	assert.Contains(t, line, heldUpLine)
	assert.Contains(t, line, "runtime.Goexit")
}
