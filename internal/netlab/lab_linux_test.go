package netlab

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/internal/busy"
)

// newLab makes a lab that lasts as long as the test.
func newLab(t testing.TB, legs int) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	l, err := New(legs)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// echo serves TCP in the server's namespace until the test ends: what comes goes back. It returns the
// port.
func echo(t testing.TB, l *Lab) int {
	t.Helper()
	ln, err := l.Listen(0)
	require.NoError(t, err)
	var (
		served sync.WaitGroup
		conns  []net.Conn
	)
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
			served.Go(func() { _, _ = io.Copy(c, c) })
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-accepted
		for _, c := range conns {
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		served.Wait()
	})
	return ln.Addr().(*net.TCPAddr).Port
}

func dial(t testing.TB, g *Leg, port int) *net.TCPConn {
	t.Helper()
	c, err := g.Dial(port)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.SetLinger(0)
		c.Close()
	})
	return c
}

// roundTrip sends s and reads it back, and returns how long that took.
func roundTrip(c net.Conn, s string, limit time.Duration) (time.Duration, error) {
	from := time.Now()
	if err := c.SetDeadline(from.Add(limit)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c, s); err != nil {
		return 0, err
	}
	buf := make([]byte, len(s))
	if _, err := io.ReadFull(c, buf); err != nil {
		return 0, err
	}
	if string(buf) != s {
		return 0, fmt.Errorf("%q came back as %q", s, buf)
	}
	return time.Since(from), nil
}

func TestEcho(t *testing.T) {
	from := time.Now()
	l := newLab(t, 3)
	took := time.Since(from)
	port := echo(t, l)
	for i := range 3 {
		c := dial(t, l.Leg(i), port)
		_, err := roundTrip(c, "hello", 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprintf("%s:%d", ServerAddr, port), c.RemoteAddr().String())
		assert.True(t, strings.HasPrefix(c.LocalAddr().String(), fmt.Sprintf("10.77.%d.5:", i+1)), c.LocalAddr())
	}
	t.Logf("3 legs in %v", took)
}

func TestManyLabs(t *testing.T) {
	a, b := newLab(t, 1), newLab(t, 1)
	port := echo(t, a)
	ln, err := b.Listen(port) // the same address and port, elsewhere
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	_, err = roundTrip(dial(t, a.Leg(0), port), "a", 5*time.Second)
	assert.NoError(t, err)
	_, err = b.Leg(0).Dial(port)
	assert.ErrorIs(t, err, unix.ECONNREFUSED)
}

func TestCut(t *testing.T) {
	l := newLab(t, 2)
	port := echo(t, l)
	c, other := dial(t, l.Leg(0), port), dial(t, l.Leg(1), port)
	_, err := roundTrip(c, "before", 5*time.Second)
	require.NoError(t, err)

	at, err := l.Leg(0).Cut()
	require.NoError(t, err)
	t.Logf("Cut took %v", time.Since(at))
	_, err = roundTrip(c, "lost for now", 300*time.Millisecond)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = roundTrip(other, "the other leg", 5*time.Second)
	assert.NoError(t, err)

	require.NoError(t, l.Leg(0).Mend())
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	back := make([]byte, len("lost for now"))
	_, err = io.ReadFull(c, back)
	require.NoError(t, err)
	assert.Equal(t, "lost for now", string(back), "TCP sends it again")
}

// What a client says all the time is heard no more a few milliseconds after the cut.
func TestCutIsInstant(t *testing.T) {
	for _, relayed := range []bool{false, true} {
		t.Run(fmt.Sprintf("relay=%v", relayed), busy.Test(func(t *busy.T) {
			l := newLab(t, 1)
			g := l.Leg(0)
			if relayed {
				require.NoError(t, g.Relay(Shape{}))
			}
			ln, err := l.Listen(0)
			require.NoError(t, err)
			defer ln.Close()
			c := dial(t, g, ln.Addr().(*net.TCPAddr).Port)
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			quit, quitted := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(quitted)
				for {
					select {
					case <-time.After(time.Millisecond):
						_, _ = c.Write([]byte{1})
					case <-quit:
						return
					}
				}
			}()
			defer func() {
				close(quit)
				_ = c.SetWriteDeadline(time.Now()) // after the cut its buffer may be full
				<-quitted
			}()
			heard := make(chan time.Time, 1)
			go func() {
				buf := make([]byte, 4096)
				var last time.Time
				for {
					_ = s.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
					if _, err := s.Read(buf); err != nil {
						heard <- last
						return
					}
					last = time.Now()
				}
			}()
			time.Sleep(100 * time.Millisecond) // it talks
			at, err := g.Cut()
			require.NoError(t, err)
			took, last := time.Since(at), <-heard
			t.Logf("Cut took %v; the last byte was heard %v after it began", took, last.Sub(at))
			assert.Greater(t.IfQuiet(busy.Doze), last.Sub(at), -50*time.Millisecond, "it was heard until then")
			t.NotLater(at, last, took+20*time.Millisecond, "silence")
		}))
	}
}

func TestCommands(t *testing.T) {
	l := newLab(t, 1)
	out, err := l.ServerCommand("ip", "-brief", "-4", "address", "show", "dev", "lo").CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), ServerAddr)

	cmd := l.Leg(0).Command("sh", "-c", `echo $$ $WORD; ip -brief -4 address show dev toserver`)
	cmd.Env = append(os.Environ(), "WORD=kept")
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r := bufio.NewScanner(pipe)
	require.True(t, r.Scan())
	assert.Equal(t, fmt.Sprint(cmd.Process.Pid, " kept"), r.Text(), "it is the process itself")
	require.True(t, r.Scan())
	assert.Contains(t, r.Text(), "10.77.1.5/30")
	require.NoError(t, cmd.Wait())
}

func TestIn(t *testing.T) {
	l := newLab(t, 1)
	here := func() string {
		s, err := os.Readlink(ofThread)
		require.NoError(t, err)
		return s
	}
	home := here()
	for range 100 {
		var server, client string
		require.NoError(t, l.InServer(func() error { server = here(); return nil }))
		require.NoError(t, l.Leg(0).In(func() error { client = here(); return nil }))
		assert.NotEqual(t, server, client)
		assert.NotEqual(t, home, server)
		assert.NotEqual(t, home, client)
		assert.Equal(t, home, here())
	}
	assert.ErrorIs(t, l.InServer(func() error { return io.ErrUnexpectedEOF }), io.ErrUnexpectedEOF)
}

// The interfaces of a namespace that has ended are gone, and with each its far end, which we can see
// from those that we keep: a client that has lost its router, a router that has lost both its ends.
func TestCloseLeavesNothing(t *testing.T) {
	l := newLab(t, 2)
	require.NoError(t, l.Leg(0).Relay(Shape{Delay: time.Millisecond}))
	t.Run("traffic", func(t *testing.T) { // its sockets are closed at its end
		_, err := roundTrip(dial(t, l.Leg(0), echo(t, l)), "hello", 5*time.Second)
		require.NoError(t, err)
	})
	keep := func(n namespace) namespace {
		fd, err := unix.FcntlInt(n.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		require.NoError(t, err)
		kept := namespace{os.NewFile(uintptr(fd), "kept")}
		t.Cleanup(func() { kept.close() })
		return kept
	}
	veths := func(n namespace) (names []string) {
		require.NoError(t, n.in(func() error {
			all, err := net.Interfaces()
			for _, ifi := range all {
				if ifi.Name == toClient || ifi.Name == toServer {
					names = append(names, ifi.Name)
				}
			}
			return err
		}))
		return names
	}
	client, router := keep(l.legs[0].client), keep(l.legs[1].router)
	require.Len(t, veths(client), 1)
	require.Len(t, veths(router), 2)
	from := time.Now()
	require.NoError(t, l.Close())
	require.Eventually(t, func() bool { return len(veths(client))+len(veths(router)) == 0 },
		20*time.Second, 10*time.Millisecond, "a namespace is left")
	t.Logf("all gone %v after Close", time.Since(from))
}

// What cannot be made is said, and nothing of it stays.
func TestNewFails(t *testing.T) {
	_, err := New(legsMax + 1)
	assert.Error(t, err)
	_, err = New(-1)
	assert.Error(t, err)
	t.Setenv("PATH", t.TempDir())
	_, err = New(1)
	require.Error(t, err)
	t.Log(err)
	if os.Geteuid() != 0 {
		return
	}
	// An ip(8) that fails at the router's.
	dir := t.TempDir()
	for tool, script := range map[string]string{
		"ip":      "#!/bin/sh\nif /bin/grep -q peer; then exit 0; fi\necho no such thing >&2\nexit 1\n",
		"nsenter": "#!/bin/sh\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, tool), []byte(script), 0o755))
	}
	t.Setenv("PATH", dir)
	before := descriptors(t)
	_, err = New(1)
	require.ErrorContains(t, err, "no such thing")
	t.Log(err)
	assert.Equal(t, before, descriptors(t))
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all)
}

func TestAfterClose(t *testing.T) {
	l := newLab(t, 1)
	g := l.Leg(0)
	assert.Equal(t, errNoRelay, g.Stall(time.Second))
	require.NoError(t, l.Close())
	_, err := g.Cut()
	assert.Equal(t, errClosed, err)
	assert.Equal(t, errClosed, g.Mend())
	assert.Equal(t, errClosed, g.Relay(Shape{}))
	_, err = g.Dial(1)
	assert.Error(t, err)
	_, err = l.Listen(0)
	assert.Error(t, err)
}
