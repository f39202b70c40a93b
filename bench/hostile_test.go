//go:build linux

package bench

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
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
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

var hostile = flag.Int("hostile", 2000, "TestHostileLog: how many hostile connections")

func init() { roles["hostile"] = hostileRole }

const (
	hostileAtOnce = 100
	hostilePlaces = 60 // so that some are refused
	logLinesMax   = 1000
)

// hostileActs are what a hostile client does with a connection before it resets it.
var hostileActs = []func(net.Conn){
	func(net.Conn) {},
	func(c net.Conn) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); drain(c) },
	func(c net.Conn) { _, _ = c.Write([]byte{byte(codec.Data), 0xff, 0xff, 0xff}); drain(c) },
	func(c net.Conn) { _, _ = c.Write(frame(codec.Data, make([]byte, 100))[:50]) },
	func(c net.Conn) { _, _ = c.Write(frame(codec.Data, []byte("panic"))); drain(c) },
	func(c net.Conn) { _, _ = c.Write(frame(codec.Data, []byte("error"))); drain(c) },
	func(c net.Conn) { _, _ = c.Write(frame(codec.Pong, []byte("what?"))) },
	func(c net.Conn) { drain(c) },
}

// drain reads until the server has ended it.
func drain(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, _ = io.Copy(io.Discard, c)
}

// hostileRole makes args[1] connections to args[0].
func hostileRole(args []string) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		panic(err)
	}
	next := make(chan int)
	var all sync.WaitGroup
	for range hostileAtOnce {
		all.Go(func() {
			for i := range next {
				c, err := net.Dial("tcp", args[0])
				if err != nil {
					continue // the reset of one refused may come before the dial is through
				}
				hostileActs[i%len(hostileActs)](c)
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

// fragile is an application that can be made to panic.
type fragile struct{ server.Base }

var panicked atomic.Uint64

func (fragile) OnMessage(_ *server.Session, p []byte) error {
	switch string(p) {
	case "panic":
		panicked.Add(1)
		panic("a bug")
	case "error":
		return fmt.Errorf("an error: %q", p)
	}
	return nil
}

// countedLines is a slog.Handler that counts.
type countedLines struct {
	mu    sync.Mutex
	lines map[string]int // by message
	held  map[string]int // suppressed, as told
}

func (l *countedLines) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}
func (l *countedLines) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *countedLines) WithGroup(string) slog.Handler      { return l }

func (l *countedLines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[r.Message]++
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "suppressed" {
			l.held[r.Message] += int(a.Value.Int64())
			return false
		}
		return true
	})
	return nil
}

// TestHostileLog: however many hostile connections there are, the log stays short, and says what it leaves out.
func TestHostileLog(t *testing.T) {
	log := &countedLines{lines: map[string]int{}, held: map[string]int{}}
	srv, err := server.New(fragile{}, server.Config{Logger: slog.New(log), ConnsMax: hostilePlaces, HandshakeTimeout: time.Second, FrameTimeout: time.Second,
		Policy: heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second}})
	require.NoError(t, err)
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()

	begun := time.Now()
	var cmds []*exec.Cmd
	for range 2 {
		cmd := role(t, "hostile", ln.Addr().String(), strconv.Itoa(*hostile/2))
		require.NoError(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		require.NoError(t, cmd.Wait())
	}
	took := time.Since(begun)
	require.NoError(t, srv.Close())
	require.ErrorIs(t, <-served, server.ErrServerClosed)

	st := srv.Stats()
	lines, held := 0, 0
	var kinds []string
	log.mu.Lock()
	defer log.mu.Unlock()
	for kind, n := range log.lines {
		lines += n
		held += log.held[kind]
		kinds = append(kinds, fmt.Sprintf("%d x %q and %d suppressed", n, strings.TrimPrefix(kind, "pulsewheel: "), log.held[kind]))
	}
	fmt.Printf("%d hostile connections in %v: %d accepted, %d sessions, %d refused, %d failed; %d log lines, %d suppressed: %v\nreasons: %v\n",
		*hostile, took.Round(time.Millisecond), st.Accepted, st.Opened, st.Refused, st.Failed, lines, held, kinds, st.Reasons)
	assert.Less(t, lines, logLinesMax)
	assert.Equal(t, st.Accepted, st.Opened+st.Refused+st.Failed)
	assert.Equal(t, st.Opened, st.Closed)
	const panics = "pulsewheel: panic"
	told := log.lines[panics] + log.held[panics]
	assert.Positive(t, log.held[panics], "more than a few sessions have panicked")
	assert.GreaterOrEqual(t, uint64(told), panicked.Load(), "every panic is written or counted")
}
