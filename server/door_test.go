package server_test

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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

// within waits for what comes on c.
func within[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		require.FailNow(t, "not within 20 s: "+what)
	}
	return v
}

// serve calls Serve on a goroutine.
func serve(srv *server.Server, ln net.Listener) <-chan error {
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	return served
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	ln, err := server.Listen(addr)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// wrap makes a client of a connection.
func wrap(t testing.TB, nc net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(30*time.Second)))
	return &client{nc, bufio.NewReader(nc)}
}

// dialAt connects to one of several listeners.
func dialAt(t testing.TB, a net.Addr) *client {
	t.Helper()
	nc, err := net.Dial(a.Network(), a.String())
	require.NoError(t, err)
	return wrap(t, nc)
}

func TestUnix(t *testing.T) { busy.Try(t, testUnix) }

func testUnix(t *busy.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "pw") // t.TempDir may be too long for a socket's name
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	h := newRecorder()
	srv := startOn(t, h, quick(), "unix://"+path)
	assert.Equal(t, path, srv.Addr().String())
	for _, local := range []*net.UnixAddr{nil, {Net: "unix", Name: filepath.Join(dir, "c")}, {Net: "unix", Name: "@pulsewheel-" + filepath.Base(dir)}} {
		nc, err := net.DialUnix("unix", local, &net.UnixAddr{Net: "unix", Name: path})
		if local != nil && strings.HasPrefix(local.Name, "@") && err != nil {
			t.Logf("no abstract names here: %v", err)
			continue
		}
		require.NoError(t, err)
		cl := wrap(t, nc)
		s := h.nextOpen(t)
		assert.Equal(t, netip.AddrPort{}, s.RemoteAddr())
		cl.echoes(t)
		big := make([]byte, 60<<10)
		go cl.Write(frame(codec.Data, big))
		assert.Len(t, cl.readUntil(t, codec.Data).Payload, len(big))
		require.NoError(t, s.Close(server.SessionReplaced, "moved"))
		code, text := cl.goodbye(t)
		assert.Equal(t, server.SessionReplaced, code)
		assert.Equal(t, "moved", text)
		cl.Close()
		end := h.nextClose(t).end
		assert.Equal(t, server.SessionReplaced, end.Reason)
		assert.False(t, end.Record.Reset)
		assert.False(t, end.Record.TCP.Known())
	}
	for want, act := range map[server.Reason]func(cl *client){
		server.PeerClosed:    func(cl *client) { cl.Close() },
		server.PeerGoodbye:   func(cl *client) { cl.send(t, codec.Goodbye, nil) },
		server.PeerProtocol:  func(cl *client) { cl.Write(make([]byte, 9)) },
		server.PeerUnready:   func(*client) {},
		server.HeartbeatLost: func(cl *client) { cl.send(t, codec.Ping, nil) },
	} {
		cl := dial(t, srv)
		begun := time.Now()
		act(cl)
		e := h.nextClose(t)
		assert.Equal(t, want, e.end.Reason)
		if want == server.HeartbeatLost {
			assert.GreaterOrEqual(t, e.at.Sub(begun), quick().Policy.Timeout)
			t.NotLater(begun, e.at, quick().Policy.Timeout+2*quick().Tick+slack, "the verdict")
		}
	}
}

func TestListenWrong(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"udp://127.0.0.1:0", "quic://127.0.0.1:0", "://127.0.0.1:0", "unixgram:///tmp/x"} {
		_, err := server.Listen(addr)
		require.Error(t, err)
		network, _, _ := strings.Cut(addr, "://")
		assert.ErrorContains(t, err, addr)
		assert.ErrorContains(t, err, `"`+network+`"`)
	}
	_, err := server.Listen("tcp://127.0.0.1:http-but-not-really")
	require.Error(t, err)
	_, err = server.Listen("unix:///no/such/directory/s")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A port in use is an error at once, and changes nothing.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	taken := listen(t, "127.0.0.1:0")
	h := newRecorder()
	srv := start(t, h, calm())
	served := make(chan error, 1)
	go func() { served <- srv.ListenAndServe("tcp://" + taken.Addr().String()) }()
	assert.ErrorIs(t, within(t, served, "the error"), syscall.EADDRINUSE)
	dial(t, srv).echoes(t)

	// A port that was given up is free at once, although connections of it live on: a restart.
	used := listen(t, "127.0.0.1:0")
	where := used.Addr().String()
	served2 := serve(srv, used)
	cl := dialAt(t, used.Addr())
	cl.echoes(t)
	require.NoError(t, used.Close())
	assert.ErrorIs(t, within(t, served2, "the end of Serve"), net.ErrClosed)
	again, err := server.Listen(where)
	require.NoError(t, err)
	require.NoError(t, again.Close())
	cl.echoes(t)
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ listen, dial, remote string }{
		{"tcp6://[::1]:0", "::1", "::1"},
		{"[::1]:0", "::1", "::1"},
		{"tcp4://127.0.0.1:0", "127.0.0.1", "127.0.0.1"},
		{"tcp://127.0.0.1:0", "127.0.0.1", "127.0.0.1"},
		{":0", "127.0.0.1", "127.0.0.1"}, // unmapped
	} {
		if ln, err := net.Listen("tcp", "[::1]:0"); err == nil {
			ln.Close()
		} else if strings.Contains(c.listen, "::1") {
			t.Logf("no IPv6 here: %v", err)
			continue
		}
		h := newRecorder()
		srv := startOn(t, h, calm(), c.listen)
		_, port, err := net.SplitHostPort(srv.Addr().String())
		require.NoError(t, err)
		nc, err := net.Dial("tcp", net.JoinHostPort(c.dial, port))
		require.NoError(t, err)
		cl := wrap(t, nc)
		cl.echoes(t)
		remote := h.nextOpen(t).RemoteAddr()
		assert.Equal(t, c.remote, remote.Addr().String())
		assert.Equal(t, nc.LocalAddr().String(), remote.String())
	}
}

// A link-local peer has a zone in its address, whose memory gnet must not get hold of.
func TestZone(t *testing.T) {
	t.Parallel()
	addrs, err := net.Interfaces()
	require.NoError(t, err)
	for _, i := range addrs {
		nets, err := i.Addrs()
		require.NoError(t, err)
		for _, a := range nets {
			n, ok := a.(*net.IPNet)
			if !ok || n.IP.To4() != nil || !n.IP.IsLinkLocalUnicast() {
				continue
			}
			probe, err := net.Listen("tcp6", "["+n.IP.String()+"%"+i.Name+"]:0")
			if err != nil {
				continue
			}
			probe.Close()
			h := newRecorder()
			srv := startOn(t, h, calm(), "tcp6://["+n.IP.String()+"%"+i.Name+"]:0")
			for range 50 {
				cl := dial(t, srv)
				cl.echoes(t)
				assert.Equal(t, n.IP.String(), h.nextOpen(t).RemoteAddr().Addr().WithZone("").String())
				cl.Close()
				h.nextClose(t)
			}
			still, err := net.InterfaceByName(i.Name)
			require.NoError(t, err)
			assert.Equal(t, i.Index, still.Index)
			assert.True(t, strings.HasSuffix(srv.Addr().(*net.TCPAddr).Zone, i.Name))
			return
		}
	}
	t.Skip("no interface with a link-local IPv6 address to listen on")
}

// wrapped is what a listener gives that does TLS, say.
type wrapped struct{ net.Conn }

// doctored is a listener whose Accept is another.
type doctored struct {
	net.Listener
	accept func() (net.Conn, error)
}

func (d doctored) Accept() (net.Conn, error) { return d.accept() }

func TestWrappedConn(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	srv := start(t, h, calm())
	ln := listen(t, "127.0.0.1:0")
	served := serve(srv, &doctored{ln, func() (net.Conn, error) {
		nc, err := ln.Accept()
		return wrapped{nc}, err
	}})
	cl := dialAt(t, ln.Addr())
	err := within(t, served, "the error")
	require.ErrorContains(t, err, "server_test.wrapped")
	require.NotErrorIs(t, err, server.ErrServerClosed)
	_, err = cl.read()
	assert.Error(t, err, "it is closed")
	dial(t, srv).echoes(t)
	assert.EqualValues(t, 1, srv.Stats().Opened)
	assert.Equal(t, 1, srv.Stats().Conns)
}

func TestTwoListeners(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	srv := start(t, h, calm())
	first := srv.Addr()
	ln := listen(t, "127.0.0.1:0")
	served := serve(srv, ln)
	other := dialAt(t, ln.Addr())
	other.echoes(t)
	dial(t, srv).echoes(t)
	assert.Equal(t, first, srv.Addr())

	// The user shuts one door; who came through it stays, and the other door stays open.
	require.NoError(t, ln.Close())
	err := within(t, served, "the end of Serve")
	require.ErrorIs(t, err, net.ErrClosed)
	require.NotErrorIs(t, err, server.ErrServerClosed)
	other.echoes(t)
	dial(t, srv).echoes(t)

	served = serve(srv, listen(t, "127.0.0.1:0"))
	require.NoError(t, srv.Close())
	assert.ErrorIs(t, within(t, served, "the end of Serve"), server.ErrServerClosed)
}

func TestConnsMax(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.ConnsMax = 2
	h := newRecorder()
	srv := start(t, h, cfg)
	inside := []*client{dial(t, srv), dial(t, srv)}
	for i := range inside {
		inside[i].echoes(t)
		h.nextOpen(t)
	}
	for range 3 {
		cl := dial(t, srv)
		code, text := cl.goodbye(t)
		assert.Equal(t, server.ServerFull, code)
		assert.Equal(t, "the server is full", text)
		cl.wasReset(t, nil)
	}
	st := srv.Stats()
	assert.EqualValues(t, 3, st.Refused)
	assert.EqualValues(t, 2, st.Opened)
	assert.Equal(t, 2, st.Conns)
	assert.Zero(t, st.Closed)
	inside[0].Close()
	h.nextClose(t)
	for srv.Stats().Conns == 2 { // until its socket is closed
		time.Sleep(time.Millisecond)
	}
	dial(t, srv).echoes(t)
	h.nextOpen(t)
	dial(t, srv).goodbye(t)
	assert.EqualValues(t, 4, srv.Stats().Refused)
	assert.EqualValues(t, 3, srv.Stats().Opened)
	assert.Empty(t, h.opens)
}

// Accept that fails for want of descriptors is tried again, and said once.
func TestAcceptFails(t *testing.T) {
	t.Parallel()
	log := &lines{}
	cfg := calm()
	cfg.Logger = log.logger()
	h := newRecorder()
	srv := start(t, h, cfg)
	ln := listen(t, "127.0.0.1:0")
	calls := atomic.NewInt64(0)
	begun := time.Now()
	served := serve(srv, &doctored{ln, func() (net.Conn, error) {
		if calls.Inc() <= 3 {
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: ln.Addr(), Err: os.NewSyscallError("accept4", syscall.EMFILE)}
		}
		return ln.Accept()
	}})
	dialAt(t, ln.Addr()).echoes(t)
	assert.GreaterOrEqual(t, time.Since(begun), 35*time.Millisecond, "it pauses, 5 ms and then twice as long each time")
	assert.EqualValues(t, 3, srv.Stats().AcceptErrors)
	assert.Len(t, log.with("level=WARN", "accept fails", "too many open files"), 1)
	assert.Len(t, log.with("level=WARN", "accept works again"), 1)
	assert.Len(t, log.with("level="), 2)

	broken := errors.New("the listener is broken")
	assert.ErrorIs(t, srv.Serve(&doctored{listen(t, "127.0.0.1:0"), func() (net.Conn, error) { return nil, broken }}), broken)
	require.NoError(t, ln.Close())
	assert.ErrorIs(t, within(t, served, "the end of Serve"), net.ErrClosed)
}

// TestTooManyLoops: the log says so, once, and only then.
func TestTooManyLoops(t *testing.T) {
	for _, more := range []int{0, 1} {
		var log bytes.Buffer
		cfg := quick()
		cfg.Loops = runtime.GOMAXPROCS(0) + more
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		srv := start(t, newRecorder(), cfg)
		require.NoError(t, srv.Close())
		assert.Equal(t, more, strings.Count(log.String(), "more event loops than GOMAXPROCS"), log.String())
	}
}
