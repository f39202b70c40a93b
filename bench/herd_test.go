package bench

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// A sheep is a client that behaves: it answers Pings and closes when it is told Goodbye. It may talk:
// numbered messages, each of which it expects back, in order.
type sheep struct {
	net.Conn
	sent   atomic.Uint64 // numbered messages
	echoed atomic.Uint64 // of them, come back
	slow   atomic.Int64  // nanoseconds that the slowest of them took
	onPing func()        // if not nil
	over   chan struct{} // closed when the connection has ended
	err    error         // why it has; after over
}

// sheepMessage is the payload of a numbered message: its number, and when it was sent.
const sheepMessage = 16

var sheepEpoch = time.Now()

func newSheep(nc net.Conn, onPing func()) *sheep {
	s := &sheep{Conn: nc, onPing: onPing, over: make(chan struct{})}
	go func() {
		defer close(s.over)
		defer nc.Close()
		s.err = s.live()
	}()
	return s
}

// live reads until the connection ends.
func (s *sheep) live() error {
	r := bufio.NewReaderSize(s, 512)
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		switch f.Type {
		case codec.Ping:
			if s.onPing != nil {
				s.onPing()
			}
			if _, err := s.Write(frame(codec.Pong, f.Payload)); err != nil {
				return err
			}
		case codec.Goodbye:
			code, text, _ := codec.ParseGoodbye(f.Payload)
			return fmt.Errorf("goodbye %d: %s", code, text)
		case codec.Data:
			if err := s.back(f.Payload); err != nil {
				return err
			}
		}
	}
}

// back takes an echo.
func (s *sheep) back(p []byte) error {
	if len(p) != sheepMessage {
		return nil // nothing of ours
	}
	if n := binary.BigEndian.Uint64(p); n != s.echoed.Load()+1 {
		return fmt.Errorf("message %d came back where %d was due", n, s.echoed.Load()+1)
	}
	if took := int64(time.Since(sheepEpoch)) - int64(binary.BigEndian.Uint64(p[8:])); took > s.slow.Load() {
		s.slow.Store(took)
	}
	s.echoed.Add(1)
	return nil
}

// say sends one numbered message. One goroutine at a time may call it.
func (s *sheep) say() error {
	p := binary.BigEndian.AppendUint64(nil, s.sent.Load()+1)
	p = binary.BigEndian.AppendUint64(p, uint64(time.Since(sheepEpoch)))
	if _, err := s.Write(frame(codec.Data, p)); err != nil {
		return err
	}
	s.sent.Add(1)
	return nil
}

// A herd is many sheep.
type herd struct {
	sheep []*sheep
	quit  chan struct{} // closed: they fall silent. nil: they are
	talks sync.WaitGroup
}

// gather dials n sheep, some at a time. each may be nil.
func gather(n int, dial func() (net.Conn, error), each func(*sheep) error, onPing func()) (*herd, error) {
	h := &herd{sheep: make([]*sheep, n)}
	errs := make([]error, n)
	var all sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			nc, err := dial()
			if err != nil {
				errs[i] = err
				return
			}
			h.sheep[i] = newSheep(nc, onPing)
			if each != nil {
				errs[i] = each(h.sheep[i])
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		h.disperse()
		return nil, err
	}
	return h, nil
}

// talk has each of the herd send a numbered message every so often, all at different moments, until
// hush.
func (h *herd) talk(every time.Duration) {
	quit := make(chan struct{})
	h.quit = quit
	for i, s := range h.sheep {
		phase := every * time.Duration(i) / time.Duration(len(h.sheep))
		h.talks.Go(func() {
			select {
			case <-time.After(phase):
			case <-quit:
				return
			}
			beat := time.NewTicker(every)
			defer beat.Stop()
			for s.say() == nil {
				select {
				case <-beat.C:
				case <-quit:
					return
				}
			}
		})
	}
}

// hush ends what talk began.
func (h *herd) hush() {
	if h.quit != nil {
		close(h.quit)
		h.talks.Wait()
		h.quit = nil
	}
}

// gone are those whose connection has ended, and why.
func (h *herd) gone() []string {
	var gone []string
	for i, s := range h.sheep {
		select {
		case <-s.over:
			gone = append(gone, fmt.Sprintf("%d: %v", i, s.err))
		default:
		}
	}
	return gone
}

// echoes counts the messages that were sent and those that have come back.
func (h *herd) echoes() (sent, echoed uint64) {
	for _, s := range h.sheep {
		sent, echoed = sent+s.sent.Load(), echoed+s.echoed.Load()
	}
	return sent, echoed
}

// disperse closes every connection and waits until nothing of the herd runs.
func (h *herd) disperse() {
	h.hush()
	for _, s := range h.sheep {
		if s != nil {
			_ = s.Close()
		}
	}
	for _, s := range h.sheep {
		if s != nil {
			<-s.over
		}
	}
}

// inThisProcess gathers n sheep at addr that live until the test ends.
func inThisProcess(t testing.TB, n int, addr string) *herd {
	t.Helper()
	h, err := gather(n, func() (net.Conn, error) { return net.Dial("tcp", addr) }, nil, nil)
	require.NoError(t, err)
	t.Cleanup(h.disperse)
	return h
}

// eventually is busy.Wait.
func eventually(t testing.TB, within time.Duration, ok func() bool, what string, args ...any) {
	t.Helper()
	busy.Wait(t, within, ok, what, args...)
}

func init() { roles["herd"] = herdRole }

// herdRole is a process that is a herd: address, number, name. Each says the herd's name as its first
// message; the process says "ready" when all have. A line on its standard input makes them act, and
// is answered with a line of JSON when that is done:
//
//	talk 50ms     a numbered message every 50 ms from each, from now on
//	hush          no more of them
//	say           one message each, all at once: nanoseconds that took
//	pings 5s 5ms  counts Pings for 5 s, in bins of 5 ms
//	gone          the connections that have ended, and why
//
// At the end of its input it exits.
func herdRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	var pings atomic.Pointer[histogram]
	h, err := gather(n, func() (net.Conn, error) { return net.Dial("tcp", args[0]) }, func(s *sheep) error {
		_, err := s.Write(frame(codec.Data, []byte(args[2])))
		return err
	}, func() { pings.Load().count() })
	fatal(err)
	fmt.Println(`"ready"`)
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var answer any
		switch f := strings.Fields(in.Text()); f[0] {
		case "talk":
			every, err := time.ParseDuration(f[1])
			fatal(err)
			h.talk(every)
		case "hush":
			h.hush()
		case "say":
			begun := time.Now()
			for _, s := range h.sheep {
				fatal(s.say())
			}
			answer = time.Since(begun)
		case "pings":
			d, err := time.ParseDuration(f[1])
			fatal(err)
			bin, err := time.ParseDuration(f[2])
			fatal(err)
			hist := newHistogram(d, bin)
			pings.Store(hist)
			time.Sleep(d)
			pings.Store(nil)
			answer = hist.counts()
		case "gone":
			answer = h.gone()
		}
		fatal(out.Encode(answer))
	}
}

// fatal ends a process that is a role.
func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, strings.Join(os.Args[1:], " ")+":", err)
		os.Exit(1)
	}
}

// A histogram counts what happens in the bins of a stretch of time that begins when it is made.
type histogram struct {
	begun time.Time
	bin   time.Duration
	bins  []atomic.Int64
}

func newHistogram(d, bin time.Duration) *histogram {
	return &histogram{time.Now(), bin, make([]atomic.Int64, (d+bin-1)/bin)}
}

// count counts one in the bin of now. A nil histogram counts nothing.
func (h *histogram) count() {
	if h == nil {
		return
	}
	if i := int(time.Since(h.begun) / h.bin); i < len(h.bins) {
		h.bins[i].Add(1)
	}
}

func (h *histogram) counts() []int {
	c := make([]int, len(h.bins))
	for i := range h.bins {
		c[i] = int(h.bins[i].Load())
	}
	return c
}

// A child is another process of this test binary that takes commands, a line each, and answers each
// with a line of JSON.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// spawn starts cmd and waits for its first line, which goes to answer. It is killed when the test
// ends, if it is there still.
func spawn(t testing.TB, cmd *exec.Cmd, answer any) *child {
	t.Helper()
	c := &child{cmd: cmd}
	var err error
	c.in, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	c.out = bufio.NewReader(out)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // a process that is stopped, too
		_ = cmd.Wait()
	})
	c.read(t, answer)
	return c
}

// ask sends a command and reads the answer. answer may be nil.
func (c *child) ask(t testing.TB, command string, answer any) {
	t.Helper()
	_, err := fmt.Fprintln(c.in, command)
	require.NoError(t, err)
	c.read(t, answer)
}

func (c *child) read(t testing.TB, answer any) {
	t.Helper()
	line, err := c.out.ReadBytes('\n')
	require.NoError(t, err, "%v: %q", c.cmd.Args, line)
	if answer != nil {
		require.NoError(t, json.Unmarshal(line, answer), "%q", line)
	}
}

// leave ends its input and waits for it to exit.
func (c *child) leave(t testing.TB) {
	t.Helper()
	_ = c.in.Close()
	assert.NoError(t, c.cmd.Wait())
}

// serveOn serves h on ln until the test ends. What the library logs is shown with the test.
func serveOn(t testing.TB, h server.Handler, cfg server.Config, ln net.Listener) *server.Server {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	srv, err := server.New(h, cfg)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		assert.NoError(t, srv.Close())
		assert.ErrorIs(t, <-served, server.ErrServerClosed)
	})
	return srv
}
