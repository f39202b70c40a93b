//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
)

// patience is for what has no deadline of its own: only a hang takes that long.
const patience = 30 * time.Second

// slack is what a told deadline may be late beyond its two ticks on a machine that is not busy:
// the time in which the server's process gets the CPU, and its line gets here. What the machine adds
// by being busy is measured, see watchMachine.
const slack = 60 * time.Millisecond

// requireWithin checks a deadline: never early, at most two ticks late, and what is granted to the machine.
func requireWithin(t *busy.T, what string, got, deadline, grant time.Duration) {
	t.Helper()
	t.Logf("deadline %v, tick %v: told after %v %s; %v of lateness granted", deadline, tick, got.Round(time.Millisecond/10), what, slack+grant)
	require.GreaterOrEqual(t, got, deadline, "early, %s", what)
	now := time.Now()
	t.NotLater(now.Add(-got), now, deadline+2*tick+slack+grant, "%s: the verdict", what)
}

// watchMachine measures how late this process is woken, which on a busy machine is what happens to
// the server too. late returns the worst until now, twice: the server is woken, and then we are.
func watchMachine(t testing.TB) (late func() time.Duration) {
	const nap = 2 * time.Millisecond
	var worst atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			due := time.Now().Add(nap)
			select {
			case <-stop:
				return
			case <-time.After(nap):
				worst.Store(max(worst.Load(), int64(time.Since(due))))
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
	return func() time.Duration { return (2 * time.Duration(worst.Load())).Round(time.Microsecond) }
}

// build builds the program, with the race detector if the tests have it.
func build(t testing.TB) string {
	program := filepath.Join(t.TempDir(), "echo")
	args := []string{"build", "-o", program}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				args = append(args, "-race")
			}
		}
	}
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// process is the program at work.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	addr   string
	texts  chan told // what it says on stdout
	stderr syncBuffer
	seen   []line // those taken from texts
}

type told struct {
	text string
	at   time.Time
}

// line is one object on stdout.
type line struct {
	told
	msg    string
	keys   []string       // in their order
	values map[string]any // objects as json.RawMessage
	closed *closed        // if msg is "closed"
	seen   []line         // those before it, and itself
}

// launch starts the program and collects what it says. When the test ends it is gone.
func launch(t testing.TB, program string, flags ...string) *process {
	args := append([]string{"-listen", "127.0.0.1:0", "-log", "json"}, flags...)
	p := &process{t: t, cmd: exec.Command(program, args...), texts: make(chan told, 4096)}
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.cmd.Stderr = &p.stderr
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.texts)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			p.texts <- told{in.Text(), time.Now()}
		}
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			for _, l := range p.seen {
				t.Log(l.text)
			}
			t.Logf("stderr: %s", &p.stderr)
		}
	})
	return p
}

// start is launch with -log json, up to the line that tells the address.
func start(t testing.TB, program string, flags ...string) *process {
	p := launch(t, program, flags...)
	l := p.next()
	require.Equal(t, []string{"msg", "addr"}, l.keys)
	require.Equal(t, "listening", l.msg)
	p.addr = l.values["addr"].(string)
	return p
}

func (p *process) take() (told, bool) {
	select {
	case l, ok := <-p.texts:
		return l, ok
	case <-time.After(patience):
		p.t.Fatalf("it said nothing for %v", patience)
		return told{}, false
	}
}

func (p *process) nextText() string {
	l, ok := p.take()
	require.True(p.t, ok, "it said nothing more")
	return l.text
}

// next returns the next line.
func (p *process) next() line {
	l, ok := p.take()
	require.True(p.t, ok, "it said nothing more")
	return p.parse(l)
}

// await returns the next line about msg.
func (p *process) await(msg string) line {
	for {
		if l := p.next(); l.msg == msg {
			return l
		}
	}
}

func (p *process) parse(text told) line {
	l := line{told: text, keys: keysOf(p.t, []byte(text.text))}
	var raw map[string]json.RawMessage
	require.NoError(p.t, json.Unmarshal([]byte(text.text), &raw))
	require.Len(p.t, raw, len(l.keys), "no key twice")
	l.values = map[string]any{}
	for key, value := range raw {
		var v any
		require.NoError(p.t, json.Unmarshal(value, &v))
		if _, object := v.(map[string]any); object || v == nil {
			v = value
		}
		l.values[key] = v
	}
	l.msg = l.values["msg"].(string)
	if l.msg == "closed" {
		require.NoError(p.t, json.Unmarshal([]byte(text.text), &l.closed))
	}
	p.seen = append(p.seen, l)
	l.seen = p.seen
	return l
}

// keysOf returns the keys of a JSON object in their order.
func keysOf(t testing.TB, object []byte) (keys []string) {
	d := json.NewDecoder(bytes.NewReader(object))
	first, err := d.Token()
	require.NoError(t, err, "%s", object)
	require.Equal(t, json.Delim('{'), first, "%s", object)
	for d.More() {
		key, err := d.Token()
		require.NoError(t, err, "%s", object)
		keys = append(keys, key.(string))
		var value json.RawMessage
		require.NoError(t, d.Decode(&value), "%s", object)
	}
	_, err = d.Token()
	require.NoError(t, err, "%s", object)
	require.False(t, d.More(), "one object a line: %s", object)
	return keys
}

// all returns the lines about msg up to l.
func (l line) all(msg string) (found []line) {
	for _, before := range l.seen {
		if before.msg == msg {
			found = append(found, before)
		}
	}
	return found
}

// before returns the first line about msg up to l, or nil.
func (l line) before(msg string) *line {
	if found := l.all(msg); len(found) > 0 {
		return &found[0]
	}
	return nil
}

func (p *process) signal(s os.Signal) {
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// asleep calls f while the program is stopped.
func (p *process) asleep(f func()) {
	p.signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	for !status.Stopped() {
		_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if err != syscall.EINTR {
			require.NoError(p.t, err)
		}
		require.False(p.t, status.Exited() || status.Signaled(), "it has ended")
	}
	f()
	p.signal(syscall.SIGCONT)
}

// drain asks the program to end; the last line comes back.
func (p *process) drain() line {
	p.signal(syscall.SIGTERM)
	last := p.exit(0)
	require.Equal(p.t, "drained", last.msg)
	require.Len(p.t, last.all("closed"), len(last.all("opened")))
	return last
}

// exit waits for the program's end.
func (p *process) exit(status int) (last line) {
	for {
		l, ok := p.take()
		if !ok {
			break
		}
		last = p.parse(l)
	}
	guard := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer guard.Stop()
	_ = p.cmd.Wait()
	require.Equal(p.t, status, p.cmd.ProcessState.ExitCode())
	require.NotContains(p.t, p.stderr.String(), "DATA RACE")
	return last
}

// syncBuffer is stderr as package exec's goroutine fills it.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// client is a plain socket in this process.
type client struct {
	net.Conn
	t testing.TB
}

func dial(t testing.TB, p *process) *client {
	network, address := "tcp", p.addr
	if path, ok := strings.CutPrefix(p.addr, "unix://"); ok {
		network, address = "unix", path
	}
	c, err := net.Dial(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return &client{c, t}
}

func (c *client) send(kind codec.Type, payload string) {
	b, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: kind, Payload: []byte(payload)})
	require.NoError(c.t, err)
	_, err = c.Write(b)
	require.NoError(c.t, err)
}

func (c *client) say(word string) { c.send(codec.Data, word) }

// read returns the next frame that is no Ping.
func (c *client) read() codec.Frame {
	for {
		b := make([]byte, codec.HeaderSize)
		_, err := io.ReadFull(c, b)
		require.NoError(c.t, err)
		b = append(b, make([]byte, codec.Binary{}.Need(b)-len(b))...)
		_, err = io.ReadFull(c, b[codec.HeaderSize:])
		require.NoError(c.t, err)
		f, _, err := codec.Binary{}.Decode(b)
		require.NoError(c.t, err)
		if f.Type != codec.Ping {
			return f
		}
	}
}

func (c *client) expectData(want string) {
	f := c.read()
	require.Equal(c.t, codec.Data, f.Type)
	require.Equal(c.t, want, string(f.Payload))
}

func (c *client) expectGoodbye(code uint16) { requireGoodbye(c.t, c.read(), code) }
