//go:build linux

package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

// A pathKind is what passes between a healthy client and its server, Pings and Pongs aside.
type pathKind struct {
	name   string
	talks  bool          // the client sends an input every pathTalk
	echo   bool          // the server sends every input back
	stream int           // bytes of a message that the server sends every so often; 0: none
	every  time.Duration // how often
}

const pathTalk = 100 * time.Millisecond

// A pathClient is a healthy client, and what the server says about it.
type pathClient struct {
	kind    pathKind
	conn    *net.TCPConn
	joining chan struct{} // closed once its first message has arrived
	session *server.Session

	mu        sync.Mutex // guards what follows
	socket    int        // a duplicate of the server's end; -1: none, or the session has ended
	suspected map[server.Suspicion]int
	recovered int
	end       *server.CloseError
	endedAt   time.Time
	reading   pathReading

	// What the kernel of the server's end has seen since a moment at which the link was away.
	silent time.Time // since when nothing had been heard then; zero: that moment has not come
	acked  time.Time // when something was first acknowledged after it
	heard  time.Time // when something first arrived in order after it
}

// A pathReading is what the kernel says about the server's end of a connection.
type pathReading struct{ acked, received uint64 }

// A pathGame is a server and its clients. It plays on several legs of one lab.
type pathGame struct {
	server.Base
	srv  *server.Server
	port int
	door *pathDoor

	mu      sync.Mutex // guards clients until all have joined
	clients []*pathClient

	quit chan struct{}
	ran  sync.WaitGroup
}

// newPathGame serves in the lab until the test ends. rtoMax is TCP_RTO_MAX_MS of the server's
// sockets; 0: the kernel's default. The error is unix.ENOPROTOOPT if the kernel does not have that
// option.
func newPathGame(t *testing.T, lab *netlab.Lab, cfg server.Config, rtoMax time.Duration) (*pathGame, error) {
	t.Helper()
	ln, err := lab.Listen(0)
	if err != nil {
		return nil, err
	}
	g := &pathGame{
		port: ln.Addr().(*net.TCPAddr).Port,
		door: &pathDoor{TCPListener: ln.(*net.TCPListener), sockets: map[string]int{}, rtoMax: rtoMax},
		quit: make(chan struct{}),
	}
	if rtoMax > 0 {
		if err := g.door.setRTOMax(); err != nil {
			return nil, errors.Join(err, ln.Close())
		}
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	g.srv, err = server.New(g, cfg)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- g.srv.Serve(g.door) }()
	t.Cleanup(func() {
		close(g.quit)
		assert.NoError(t, g.srv.Close())
		assert.ErrorIs(t, <-served, server.ErrServerClosed)
		for _, c := range g.clients {
			if c.conn != nil {
				_ = c.conn.SetLinger(0)
				c.conn.Close()
			}
		}
		g.ran.Wait()
		g.door.closeSockets()
	})
	return g, nil
}

// join connects n clients of each kind by the leg, at random moments within d, and returns when
// the server has all of them. The caller has to look whether the test has failed.
func (g *pathGame) join(t *testing.T, leg *netlab.Leg, kinds []pathKind, n int, d time.Duration) {
	t.Helper()
	var joined sync.WaitGroup
	for _, k := range kinds {
		for range n {
			c := &pathClient{kind: k, joining: make(chan struct{}), socket: -1, suspected: map[server.Suspicion]int{}}
			g.mu.Lock()
			number := len(g.clients)
			g.clients = append(g.clients, c)
			g.mu.Unlock()
			joined.Go(func() {
				time.Sleep(rand.N(d))
				conn, err := leg.Dial(g.port)
				if !assert.NoError(t, err, k.name) {
					return
				}
				c.conn = conn
				g.ran.Go(c.read)
				_, err = conn.Write(frame(codec.Data, binary.BigEndian.AppendUint64(nil, uint64(number))))
				assert.NoError(t, err, k.name)
				select {
				case <-c.joining:
					g.play(c)
				case <-time.After(20 * time.Second):
					t.Errorf("a client did not join: %s", k.name)
				}
			})
		}
	}
	joined.Wait()
}

// play begins what the client's kind says.
func (g *pathGame) play(c *pathClient) {
	if c.kind.talks {
		g.ran.Go(func() { g.repeat(pathTalk, func() error { return c.say(codec.Data, make([]byte, 32)) }) })
	}
	if c.kind.stream > 0 {
		message := make([]byte, c.kind.stream)
		g.ran.Go(func() { g.repeat(c.kind.every, func() error { return c.session.Send(message) }) })
	}
}

// repeat calls f every so often, from a random moment on, until it fails or the test ends.
func (g *pathGame) repeat(every time.Duration, f func() error) {
	next := time.NewTimer(rand.N(every))
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-g.quit:
			return
		}
		next.Reset(every)
		if f() != nil {
			return
		}
	}
}

// read answers Pings until the connection ends.
func (c *pathClient) read() {
	r := bufio.NewReaderSize(c.conn, 512)
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		switch f.Type {
		case codec.Ping:
			if c.say(codec.Pong, f.Payload) != nil {
				return
			}
		case codec.Goodbye:
			c.conn.Close()
		}
	}
}

func (c *pathClient) say(typ codec.Type, payload []byte) error {
	_, err := c.conn.Write(frame(typ, payload)) // a Write is whole, whoever else writes
	return err
}

func pathClientOf(s *server.Session) *pathClient {
	c, _ := s.Value().(*pathClient)
	return c
}

// OnMessage learns from the first message who that is. It answers it, so that the kernel has
// measured the path.
func (g *pathGame) OnMessage(s *server.Session, p []byte) error {
	c := pathClientOf(s)
	if c == nil {
		g.mu.Lock()
		c = g.clients[binary.BigEndian.Uint64(p)]
		g.mu.Unlock()
		s.SetValue(c)
		c.mu.Lock()
		c.session, c.socket = s, g.door.take(s.RemoteAddr().String())
		c.mu.Unlock()
		close(c.joining)
		return s.Send(p)
	}
	if c.kind.echo {
		return s.Send(p)
	}
	return nil
}

func (g *pathGame) OnSuspect(s *server.Session, why server.Suspicion) {
	if c := pathClientOf(s); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.suspected[why]++
	}
}

func (g *pathGame) OnRecover(s *server.Session) {
	if c := pathClientOf(s); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.recovered++
	}
}

func (g *pathGame) OnClose(s *server.Session, end *server.CloseError) {
	c := pathClientOf(s)
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.sample()
	c.end, c.endedAt = end, time.Now()
	if c.socket >= 0 { // as long as it is open the connection is not reset
		_ = unix.Close(c.socket)
		c.socket = -1
	}
}

// begin is called while the link is away: what is acknowledged or heard from now on came after
// that.
func (c *pathClient) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.socket < 0 {
		return nil
	}
	now := time.Now()
	ti, err := unix.GetsockoptTCPInfo(c.socket, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return err
	}
	c.silent = now.Add(-time.Duration(ti.Last_data_recv) * time.Millisecond)
	c.reading = pathReading{ti.Bytes_acked, ti.Bytes_received}
	return nil
}

// sample asks the kernel what has come since begin. The caller holds c.mu.
func (c *pathClient) sample() error {
	if c.socket < 0 || c.silent.IsZero() || !c.acked.IsZero() && !c.heard.IsZero() {
		return nil
	}
	now := time.Now()
	ti, err := unix.GetsockoptTCPInfo(c.socket, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return err
	}
	if c.acked.IsZero() && ti.Bytes_acked > c.reading.acked {
		c.acked = now.Add(-time.Duration(ti.Last_ack_recv) * time.Millisecond)
	}
	if c.heard.IsZero() && ti.Bytes_received > c.reading.received {
		c.heard = now.Add(-time.Duration(ti.Last_data_recv) * time.Millisecond)
	}
	return nil
}

// A pathDoor is a listener that keeps a duplicate of each socket that it accepts.
type pathDoor struct {
	*net.TCPListener
	rtoMax time.Duration

	mu                  sync.Mutex // guards what follows
	sockets             map[string]int
	accepted, inherited int // inherited: so many had rtoMax before it was set on them
}

// tcpRTOMax is TCP_RTO_MAX_MS (include/uapi/linux/tcp.h, since Linux 6.15): how long the kernel
// waits at most before it sends something again. At least 1,000 ms.
const tcpRTOMax = 44

// setRTOMax sets the option on the listener.
func (d *pathDoor) setRTOMax() error {
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, tcpRTOMax, int(d.rtoMax.Milliseconds()))
	})
	return errors.Join(err, failed)
}

// Accept accepts a connection.
func (d *pathDoor) Accept() (net.Conn, error) {
	c, err := d.AcceptTCP()
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accepted++
	var failed error
	err = raw.Control(func(fd uintptr) {
		if want := int(d.rtoMax.Milliseconds()); want > 0 {
			if v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, tcpRTOMax); err == nil && v == want {
				d.inherited++
			} else if failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, tcpRTOMax, want); failed != nil {
				return
			}
		}
		var dup int
		if dup, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); failed == nil {
			d.sockets[c.RemoteAddr().String()] = dup
		}
	})
	if err != nil {
		return nil, err
	}
	return c, failed
}

// take returns the duplicate of the socket to that address. It is the caller's.
func (d *pathDoor) take(addr string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	fd, ok := d.sockets[addr]
	if !ok {
		return -1
	}
	delete(d.sockets, addr)
	return fd
}

// closeSockets closes those that nobody has taken.
func (d *pathDoor) closeSockets() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, fd := range d.sockets {
		_ = unix.Close(fd)
	}
}

// pathReasons puts counts of reasons into words, in the order of their numbers.
func pathReasons(counts map[server.Reason]int) string {
	var all []server.Reason
	for r := range counts {
		all = append(all, r)
	}
	slices.Sort(all)
	var words []string
	for _, r := range all {
		words = append(words, fmt.Sprintf("%d %v", counts[r], r))
	}
	return strings.Join(words, ", ")
}

// pathBlames reports whether the reason says that it is the peer's fault.
func pathBlames(r server.Reason) bool { return r < 200 || r == server.PeerFrozen }
