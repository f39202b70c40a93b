//go:build unix

package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

func init() { roles["inherit"] = inheritRole }

// inheritRole is a process that serves on the sockets it has inherited: it says "ready" and, at the end of its
// input, drains and says how many sessions it had.
func inheritRole([]string) {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "inherit:", err)
			os.Exit(1)
		}
	}
	lns, err := inherited()
	must(err)
	srv, err := server.New(newRecorder(), calm())
	must(err)
	for _, ln := range lns {
		go func() { _ = srv.Serve(ln) }()
	}
	for !srv.Ready() {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	must(srv.Drain(ctx))
	fmt.Println(srv.Stats().Opened)
}

// inheritor starts a process that inherits ln as descriptor 3, as systemd would start it.
func inheritor(t *testing.T, ln net.Listener) (leave func() (opened int)) {
	t.Helper()
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	require.NoError(t, err)
	defer f.Close()
	cmd := role(t, "inherit")
	sh, err := exec.LookPath("sh")
	require.NoError(t, err)
	// What is executed keeps the shell's process, and its number.
	cmd.Path, cmd.Args = sh, []string{"sh", "-c", `export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0"`, os.Args[0]}
	cmd.ExtraFiles = []*os.File{f}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	out := bufio.NewReader(pipe)
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return func() (opened int) {
		t.Helper()
		require.NoError(t, in.Close())
		_, err := fmt.Fscan(out, &opened)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
		return opened
	}
}

// The socket is somebody else's, as systemd's: processes that inherit it come and go, and who dials while there is
// none is served by the next one.
func TestInherited(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			ln, err := net.Listen(network, addr)
			require.NoError(t, err)
			defer ln.Close()
			connect := func() *client {
				nc, err := net.Dial(network, ln.Addr().String())
				require.NoError(t, err)
				t.Cleanup(func() { nc.Close() })
				require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
				return &client{nc, bufio.NewReader(nc)}
			}

			leave := inheritor(t, ln)
			cl := connect()
			cl.echoes(t)
			var left sync.WaitGroup
			left.Go(func() { _, _ = cl.beat() })
			assert.Equal(t, 1, leave())
			left.Wait()

			waiting := connect()
			waiting.send(t, codec.Data, []byte("anybody there?"))
			leave = inheritor(t, ln)
			assert.Equal(t, "anybody there?", string(waiting.readUntil(t, codec.Data).Payload))
			require.NoError(t, waiting.Close())
			assert.Equal(t, 1, leave())
			connect() // it is still there, and so is a Unix socket's path
		})
	}
}

// Who has been accepted when Drain begins, and is on its way to a loop, becomes a session and is told.
func TestDrainTellsWhoIsOnTheWay(t *testing.T) {
	t.Parallel()
	const n = 50 // more than are handed to gnet at a time
	h := newRecorder()
	srv, cl, s := open(t, h, calm()) // one loop
	release := hold(t, s)
	all := []*client{cl}
	for range n {
		all = append(all, dial(t, srv))
	}
	eventually(t, 10*time.Second, func() bool { return srv.Stats().Conns == 1+n }, "all are accepted")
	drained := make(chan error, 1)
	go func() { drained <- srv.Drain(t.Context()) }()
	eventually(t, 10*time.Second, func() bool { return !srv.Ready() }, "Drain has begun")
	assert.EqualValues(t, 1, srv.Stats().Opened)
	release()
	for _, cl := range all {
		cl.retryAfter(t)
		require.NoError(t, cl.Close())
	}
	require.NoError(t, within(t, drained, "the end of Drain"))
	assert.EqualValues(t, 1+n, srv.Stats().Reasons[server.ServerShutdown])
}

// A listening socket goes from server to server while clients come without a pause, as in a hot restart.
// Each of them is served, or told to go: none is refused, or reset.
func TestHandOver(t *testing.T) {
	t.Parallel()
	const generations, clients = 20, 8
	ln := listen(t, "127.0.0.1:0")
	f, err := ln.(*net.TCPListener).File()
	require.NoError(t, err)
	defer f.Close()
	next := func() *server.Server {
		ln, err := net.FileListener(f)
		require.NoError(t, err)
		return serveOn(t, newRecorder(), calm(), ln)
	}
	srv := next()
	require.NoError(t, ln.Close()) // the socket lives on in its duplicates
	addr := srv.Addr().String()

	var served, told atomic.Int64
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range clients {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				switch answer, err := ask(addr); {
				case err != nil:
					assert.NoError(t, err)
					return
				case answer == codec.Data:
					served.Inc()
				case answer == codec.Goodbye:
					told.Inc()
				}
			}
		})
	}
	for range generations {
		for n := served.Load(); served.Load() < n+20 && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		old := srv
		srv = next()
		require.NoError(t, old.Drain(t.Context()))
	}
	close(stop)
	all.Wait()
	t.Logf("%d servers: %d clients were served, %d told to go", generations, served.Load(), told.Load())
}

// ask dials, says something, and returns the type of the first frame that comes; then it resets, which leaves
// no TIME_WAIT.
func ask(addr string) (codec.Type, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	_ = nc.(*net.TCPConn).SetLinger(0)
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := nc.Write(frame(codec.Data, []byte("hello"))); err != nil {
		return 0, err
	}
	f, err := (&client{nc, bufio.NewReader(nc)}).read()
	return f.Type, err
}
