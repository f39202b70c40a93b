//go:build linux

package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

// world is what a plan is carried out in: a server in this process, and legs with client processes on
// them.
type world struct {
	t       *busy.T
	lab     *netlab.Lab // nil: everything is on the loopback, and nothing is cut
	witness *witness
	srv     *server.Server
	port    int
	lines   chan procLine
	procs   []*clientProc
}

// procLine is what a client process says; an empty text is its end.
type procLine struct {
	from *clientProc
	text string
}

// clientProc is one client process; when it is killed, another one takes its place.
type clientProc struct {
	index, leg    int
	cmd           *exec.Cmd
	in            io.WriteCloser
	ready, frozen bool
	dead          bool
	done          chan struct{} // closed when it has been waited for
}

// newWorld starts the server. With a lab, its slow legs begin to be slow.
func newWorld(t *busy.T, lab *netlab.Lab, p *plan) *world {
	w := &world{t: t, lab: lab, witness: newWitness(), lines: make(chan procLine, 1<<14)}
	cfg := modelConfig
	cfg.Logger = slog.New(slog.DiscardHandler) // a panic is one of the acts
	var err error
	w.srv, err = server.New(w.witness, cfg)
	require.NoError(t, err)
	var ln net.Listener
	if lab == nil {
		ln, err = server.Listen("127.0.0.1:0")
	} else {
		ln, err = lab.Listen(0)
	}
	require.NoError(t, err)
	w.port = ln.Addr().(*net.TCPAddr).Port
	served := make(chan error, 1)
	go func() { served <- w.srv.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, w.srv.Close())
		require.ErrorIs(t, <-served, server.ErrServerClosed)
	})
	for i, leg := range p.legs {
		if leg.kind == slowLeg {
			require.NoError(t, lab.Leg(i).Relay(netlab.Shape{Delay: 60 * time.Millisecond, Jitter: 20 * time.Millisecond,
				Loss: 0.001, Seed: p.seed}))
		}
	}
	w.procs = make([]*clientProc, len(p.procs))
	for i := range p.procs {
		w.start(i, p.procs[i].leg)
	}
	return w
}

// start starts a client process. It is killed at the end of the test, if not before.
func (w *world) start(index, leg int) {
	host := netlab.ServerAddr
	if w.lab == nil {
		host = "127.0.0.1"
	}
	cmd := role(w.t, "model", fmt.Sprintf("%s:%d", host, w.port))
	if w.lab != nil {
		in := w.lab.Leg(leg).Command(cmd.Path, cmd.Args[1:]...)
		in.Env, in.Stderr = cmd.Env, cmd.Stderr
		cmd = in
	}
	cmd.Env = append(cmd.Env, "GOMAXPROCS=1") // there are many of them
	p := &clientProc{index: index, leg: leg, cmd: cmd, done: make(chan struct{})}
	var err error
	p.in, err = cmd.StdinPipe()
	require.NoError(w.t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, cmd.Start())
	ctx, over := context.WithCancel(context.Background())
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			w.pass(ctx, procLine{p, lines.Text()})
		}
		_ = cmd.Wait()
		w.pass(ctx, procLine{from: p})
	}()
	w.t.Cleanup(func() {
		over()
		_ = cmd.Process.Kill()
		<-p.done
	})
	w.procs[index] = p
}

// pass hands a line to whoever listens, or drops it at the end of the test.
func (w *world) pass(ctx context.Context, l procLine) {
	select {
	case w.lines <- l:
	case <-ctx.Done():
	}
}

// order has one client do something.
func (p *clientProc) order(word string, number int, args ...string) {
	fmt.Fprintf(p.in, "%s %d %s\n", word, number, strings.Join(args, " "))
}

// signal sends sig, and returns the time just before.
func (p *clientProc) signal(sig syscall.Signal) (time.Time, error) {
	at := time.Now()
	return at, p.cmd.Process.Signal(sig)
}

// must ends the test if a tool of the model itself fails.
func (w *world) must(err error) {
	w.t.Helper()
	require.NoError(w.t, err)
}
