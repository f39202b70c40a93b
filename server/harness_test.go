package server_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// quick is a policy short enough for tests: suspect after 200 ms, dead after 600 ms, in ticks of 10.
func quick() server.Config {
	return server.Config{
		Policy:           heartbeat.Policy{Interval: 200 * time.Millisecond, Timeout: 600 * time.Millisecond},
		HandshakeTimeout: 400 * time.Millisecond,
		FrameTimeout:     300 * time.Millisecond,
		CloseTimeout:     300 * time.Millisecond,
		Tick:             10 * time.Millisecond,
		Loops:            2,
	}
}

// ending is what OnClose was given, and when.
type ending struct {
	s   *server.Session
	end *server.CloseError
	at  time.Time
}

// recorder is a Handler that echoes unless told otherwise, and writes down what it is told.
type recorder struct {
	onOpen    func(s *server.Session) error
	onMessage func(s *server.Session, p []byte) error
	onSuspect func(s *server.Session)
	onClose   func(s *server.Session, end *server.CloseError)

	opens    chan *server.Session
	closes   chan ending
	mu       sync.Mutex
	suspects map[uint64][]time.Time
	recovers map[uint64][]time.Time
}

func newRecorder() *recorder {
	return &recorder{opens: make(chan *server.Session, 1<<17), closes: make(chan ending, 1<<17),
		suspects: map[uint64][]time.Time{}, recovers: map[uint64][]time.Time{}}
}

func (r *recorder) OnOpen(s *server.Session) error {
	r.opens <- s
	if r.onOpen != nil {
		return r.onOpen(s)
	}
	return nil
}

func (r *recorder) OnMessage(s *server.Session, p []byte) error {
	if r.onMessage != nil {
		return r.onMessage(s, p)
	}
	return s.Send(p)
}

func (r *recorder) OnSuspect(s *server.Session, why server.Suspicion) {
	r.mu.Lock()
	r.suspects[s.ID()] = append(r.suspects[s.ID()], time.Now())
	r.mu.Unlock()
	if r.onSuspect != nil {
		r.onSuspect(s)
	}
}

func (r *recorder) OnRecover(s *server.Session) {
	r.mu.Lock()
	r.recovers[s.ID()] = append(r.recovers[s.ID()], time.Now())
	r.mu.Unlock()
}

func (r *recorder) OnClose(s *server.Session, end *server.CloseError) {
	if r.onClose != nil {
		r.onClose(s, end)
	}
	r.closes <- ending{s, end, time.Now()}
}

// patience is how long is waited for what must happen, if nothing else is said: only a hang takes that long.
const patience = busy.Patience

// nextOpen waits for the next OnOpen.
func (r *recorder) nextOpen(t testing.TB) *server.Session {
	t.Helper()
	select {
	case s := <-r.opens:
		return s
	case <-time.After(patience):
		require.FailNow(t, "no OnOpen", "within %v", patience)
		return nil
	}
}

// nextClose waits for the next OnClose.
func (r *recorder) nextClose(t testing.TB) ending {
	t.Helper()
	select {
	case e := <-r.closes:
		return e
	case <-time.After(patience):
		require.FailNow(t, "no OnClose", "within %v", patience)
		return ending{}
	}
}

// start serves h on a loopback port until the test ends.
func start(t testing.TB, h server.Handler, cfg server.Config) *server.Server {
	t.Helper()
	return startOn(t, h, cfg, "127.0.0.1:0")
}

func startOn(t testing.TB, h server.Handler, cfg server.Config, addr string) *server.Server {
	t.Helper()
	ln, err := server.Listen(addr)
	require.NoError(t, err)
	return serveOn(t, h, cfg, ln)
}

// serveOn serves h on ln until the test ends.
func serveOn(t testing.TB, h server.Handler, cfg server.Config, ln net.Listener) *server.Server {
	t.Helper()
	srv, err := server.New(h, cfg)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-served, server.ErrServerClosed)
		st := srv.Stats()
		require.Equal(t, st.Opened, st.Closed, "opens and closes")
		require.Zero(t, st.Conns)
		sum := uint64(0)
		for _, n := range st.Reasons {
			sum += n
		}
		require.Equal(t, st.Closed, sum, "reasons add up")
	})
	for srv.Addr() == nil {
		time.Sleep(time.Millisecond)
	}
	return srv
}

// client is a peer that does what the test tells it to, and nothing by itself.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, srv *server.Server) *client {
	t.Helper()
	a := srv.Addr()
	nc, err := net.Dial(a.Network(), a.String())
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	return &client{nc, bufio.NewReader(nc)}
}

// frame encodes a frame.
func frame(typ codec.Type, payload []byte) []byte {
	b, err := codec.Binary{PayloadMax: codec.PayloadLimit}.AppendFrame(nil, codec.Frame{Type: typ, Payload: payload})
	if err != nil {
		panic(err)
	}
	return b
}

func (c *client) send(t testing.TB, typ codec.Type, payload []byte) {
	t.Helper()
	_, err := c.Write(frame(typ, payload))
	require.NoError(t, err)
}

// read reads one frame.
func (c *client) read() (codec.Frame, error) {
	var head [codec.HeaderSize]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return codec.Frame{}, err
	}
	p := make([]byte, int(head[1])<<16|int(head[2])<<8|int(head[3]))
	_, err := io.ReadFull(c.r, p)
	return codec.Frame{Type: codec.Type(head[0]), Payload: p}, err
}

// readUntil reads frames until one of type typ, answering Pings on the way if answer is set.
func (c *client) readUntil(t testing.TB, typ codec.Type) codec.Frame {
	t.Helper()
	for {
		f, err := c.read()
		require.NoError(t, err, "waiting for a %v frame", typ)
		if f.Type == typ {
			return f
		}
	}
}

// beat answers Pings until the connection ends, and returns the Goodbye if one came.
func (c *client) beat() (goodbye *codec.Frame, err error) {
	for {
		f, err := c.read()
		if err != nil {
			return goodbye, err
		}
		switch f.Type {
		case codec.Ping:
			if _, err := c.Write(frame(codec.Pong, f.Payload)); err != nil {
				return goodbye, err
			}
		case codec.Goodbye:
			goodbye = &f
			c.Close()
		}
	}
}

// rst closes with an RST.
func (c *client) rst(t testing.TB) {
	t.Helper()
	require.NoError(t, c.Conn.(*net.TCPConn).SetLinger(0))
	require.NoError(t, c.Close())
}

// echoes checks that the connection still serves.
func (c *client) echoes(t testing.TB) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	c.send(t, codec.Data, []byte("still there?"))
	require.Equal(t, "still there?", string(c.readUntil(t, codec.Data).Payload))
	require.NoError(t, c.SetReadDeadline(time.Time{}))
}

// isReset tells whether err is an RST.
func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !errors.Is(err, io.EOF) && !op.Timeout()
}

// role runs this test binary as another process in the given role.
func role(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// eventually is busy.Wait.
func eventually(t testing.TB, within time.Duration, ok func() bool, what string, args ...any) {
	t.Helper()
	busy.Wait(t, within, ok, what, args...)
}

// lives fails if any session ends within d.
func lives(t testing.TB, h *recorder, d time.Duration) {
	t.Helper()
	select {
	case e := <-h.closes:
		assert.Fail(t, "a live client was ended", "%v; %v", e.end, e.end.Record)
	case <-time.After(d):
	}
}
