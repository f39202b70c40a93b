package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// tap echoes, and tells of what opens. To "die" it answers with an end that resets at once.
type tap struct {
	Base
	opens chan *Session
}

func (h tap) OnOpen(s *Session) error {
	s.SetValue(s.c.fd)
	h.opens <- s
	return nil
}

func (h tap) OnMessage(s *Session, p []byte) error {
	if string(p) == "die" {
		return PeerProtocol
	}
	return s.Send(p)
}

// tapped serves a tap on one loop. The policy is long unless cfg has another.
func tapped(t *testing.T, cfg Config) (tap, string) {
	t.Helper()
	if cfg.Policy.Interval == 0 {
		cfg.Policy.Interval = time.Minute
	}
	cfg.Loops = 1
	h := tap{opens: make(chan *Session, 100)}
	srv, err := New(h, cfg)
	require.NoError(t, err)
	ln, err := Listen("127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		assert.NoError(t, srv.Close())
		assert.ErrorIs(t, <-served, ErrServerClosed)
	})
	return h, ln.Addr().String()
}

// reach connects; before, if not nil, is called when the client's own socket is there.
func reach(t *testing.T, addr string, before func()) *net.TCPConn {
	t.Helper()
	d := net.Dialer{Control: func(string, string, syscall.RawConn) error {
		if before != nil {
			before()
		}
		return nil
	}}
	nc, err := d.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(30*time.Second)))
	return nc.(*net.TCPConn)
}

// options reads the server's socket of s.
func options(t *testing.T, s *Session) map[string]int {
	t.Helper()
	got := make(chan map[string]int, 1)
	require.NoError(t, s.Post(func() {
		m := map[string]int{}
		for name, opt := range map[string][2]int{
			"NODELAY":      {unix.IPPROTO_TCP, unix.TCP_NODELAY},
			"KEEPALIVE":    {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
			"KEEPIDLE":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
			"KEEPINTVL":    {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
			"USER_TIMEOUT": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
		} {
			v, err := unix.GetsockoptInt(int(s.c.fd), opt[0], opt[1])
			assert.NoError(t, err, name)
			m[name] = v
		}
		got <- m
	}))
	return <-got
}

func TestSocketOptions(t *testing.T) {
	t.Parallel()
	ms := func(d time.Duration) int { return int(d / time.Millisecond) }
	for _, c := range []struct {
		cfg     Config
		seconds int
		least   time.Duration // which TCP_USER_TIMEOUT must be longer than
	}{
		{Config{}, 60, 3 * time.Minute},
		{Config{Policy: heartbeat.Policy{Interval: 5 * time.Second}}, 5, 15 * time.Second},
		{Config{Policy: heartbeat.Policy{Interval: 200 * time.Millisecond, Timeout: 600 * time.Millisecond}}, 1, 600 * time.Millisecond},
		{Config{Policy: heartbeat.Policy{Interval: 2001 * time.Millisecond}}, 3, 6003 * time.Millisecond},
		{Config{Policy: heartbeat.Policy{Interval: 2 * time.Second}, WriteTimeout: 20 * time.Second}, 2, 20 * time.Second},
		{Config{Policy: heartbeat.Policy{Interval: 2 * time.Second}, WriteTimeout: time.Second}, 2, 6 * time.Second},
	} {
		h, addr := tapped(t, c.cfg)
		cl := reach(t, addr, nil)
		s := <-h.opens
		check := func(p heartbeat.Policy, seconds int, least time.Duration) {
			t.Helper()
			got := options(t, s)
			assert.NotZero(t, got["NODELAY"])
			assert.NotZero(t, got["KEEPALIVE"])
			assert.Equal(t, seconds, got["KEEPIDLE"])
			assert.Equal(t, seconds, got["KEEPINTVL"])
			assert.Greater(t, got["USER_TIMEOUT"], ms(least))
			assert.LessOrEqual(t, got["USER_TIMEOUT"], ms(userTimeouts*least+p.Interval+2*s.c.srv.cfg.Tick), "and not much longer")
		}
		check(s.c.srv.cfg.Policy, c.seconds, c.least)

		phone := heartbeat.Policy{Interval: 45 * time.Second, Timeout: 4 * time.Minute}
		require.NoError(t, s.SetPolicy(phone))
		check(phone, 45, max(4*time.Minute, s.c.srv.cfg.WriteTimeout))
		require.Error(t, s.SetPolicy(heartbeat.Policy{Interval: -1}))
		check(phone, 45, max(4*time.Minute, s.c.srv.cfg.WriteTimeout))
		cl.Close()
	}
}

// Whatever a connection has inherited from its listening socket, or has not: it was accepted before Serve began, say, or
// the net package has set a keepalive of its own.
func TestSocketOptionsOfAnyListener(t *testing.T) {
	t.Parallel()
	listen := func(f func() (net.Listener, error)) net.Listener {
		ln, err := f()
		require.NoError(t, err)
		return ln
	}
	theirs := func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	for name, ln := range map[string]net.Listener{
		"Listen":               listen(func() (net.Listener, error) { return Listen("127.0.0.1:0") }),
		"net.Listen":           listen(theirs),
		"of a type of its own": struct{ net.Listener }{listen(theirs)},
	} {
		early := reach(t, ln.Addr().String(), nil)
		h := tap{opens: make(chan *Session, 2)}
		srv, err := New(h, Config{Policy: heartbeat.Policy{Interval: 7 * time.Second, Timeout: 22 * time.Second}})
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		first := options(t, <-h.opens)
		late := reach(t, ln.Addr().String(), nil)
		second := options(t, <-h.opens)
		for _, got := range []map[string]int{first, second} {
			want := map[string]int{"NODELAY": 1, "KEEPALIVE": 1, "KEEPIDLE": 7, "KEEPINTVL": 7, "USER_TIMEOUT": int(srv.kernelOptions().UserTimeout / time.Millisecond)}
			assert.Equal(t, want, got, name)
		}
		early.Close()
		late.Close()
		require.NoError(t, srv.Close())
		<-served
	}
}

// segments is how many segments with data the server has sent to s, those sent again left out.
func segments(t *testing.T, s *Session) int {
	t.Helper()
	n := make(chan int)
	require.NoError(t, s.Post(func() {
		ti, err := unix.GetsockoptTCPInfo(int(s.c.fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		assert.NoError(t, err)
		n <- int(ti.Data_segs_out) - int(ti.Total_retrans)
	}))
	return <-n
}

// What one turn of the loop has to say to a peer leaves in one write.
func TestOneWriteForOneTurn(t *testing.T) {
	t.Parallel()
	h, addr := tapped(t, Config{})
	cl := reach(t, addr, nil)
	s := <-h.opens
	request, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: []byte("request")})
	require.NoError(t, err)
	ping, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Ping, Payload: []byte("ping")})
	require.NoError(t, err)
	for name, act := range map[string]func() (answer int){
		"16 pipelined requests": func() int {
			var all []byte
			for range 16 {
				all = append(all, request...)
			}
			_, err := cl.Write(all)
			require.NoError(t, err)
			return len(all)
		},
		"requests and Pings": func() int {
			var all []byte
			for range 8 {
				all = append(append(all, request...), ping...)
			}
			_, err := cl.Write(all)
			require.NoError(t, err)
			return len(all)
		},
		"16 Sends in a Post": func() int {
			require.NoError(t, s.Post(func() {
				for range 16 {
					assert.NoError(t, s.Send([]byte("request")))
				}
			}))
			return 16 * len(request)
		},
		"16 Sends of others while the loop is busy": func() int {
			held, let := make(chan struct{}), make(chan struct{})
			require.NoError(t, s.Post(func() { close(held); <-let }))
			<-held
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() { assert.NoError(t, s.Send([]byte("request"))) })
			}
			all.Wait()
			close(let)
			return 16 * len(request)
		},
	} {
		before := segments(t, s)
		_, err := io.ReadFull(cl, make([]byte, act()))
		require.NoError(t, err)
		assert.Equal(t, 1, segments(t, s)-before, name)
	}
}

// A session that has ended cannot reach whoever has its descriptor's number next: gnet would write
// to it (bench/ shows that).
func TestDescriptorReused(t *testing.T) {
	t.Parallel()
	h, addr := tapped(t, Config{})
	witness := reach(t, addr, nil)
	loop := <-h.opens
	same, tries := 0, 0
	for ; same < 30 && tries < 2000; tries++ {
		a := reach(t, addr, nil)
		sa := <-h.opens
		stop := make(chan struct{})
		var all sync.WaitGroup
		refused := atomic.NewInt64(0)
		for i := range 4 { // they send all the while, before and after the end
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if errors.Is(sa.Send(fmt.Appendf(nil, "secret of A %d", i)), net.ErrClosed) {
						refused.Inc()
					}
					time.Sleep(20 * time.Microsecond)
				}
			})
		}
		die, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: []byte("die")})
		require.NoError(t, err)
		// A dies when B's client has its socket but the server has none for B.
		b := reach(t, addr, func() {
			_, err := a.Write(die)
			assert.NoError(t, err)
			_, err = io.Copy(io.Discard, a)
			assert.ErrorIs(t, err, unix.ECONNRESET)
		})
		sb := <-h.opens
		reused := make(chan bool, 1)
		require.NoError(t, loop.Post(func() { // a turn in which both have something to say
			defer func() { reused <- sb.c.fd == sa.Value() }()
			for range 100 {
				assert.ErrorIs(t, sa.Send([]byte("secret of A")), net.ErrClosed)
			}
			assert.NoError(t, sb.Send([]byte("B's own")))
			assert.ErrorIs(t, sa.Close(ServerClosed, "secret of A"), net.ErrClosed)
			assert.ErrorIs(t, sa.Post(func() {}), net.ErrClosed)
		}))
		if <-reused {
			same++
		}
		for n := refused.Load(); refused.Load() < n+20; {
			time.Sleep(50 * time.Microsecond)
		}
		require.NoError(t, sb.Close(ServerClosed, "end of B"))
		close(stop)
		all.Wait()

		// B's peer reads B's words and nothing else.
		want, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: []byte("B's own")})
		require.NoError(t, err)
		payload, err := codec.AppendGoodbye(nil, uint16(ServerClosed), "end of B")
		require.NoError(t, err)
		want, err = codec.Binary{}.AppendFrame(want, codec.Frame{Type: codec.Goodbye, Payload: payload})
		require.NoError(t, err)
		got := make([]byte, len(want))
		_, err = io.ReadFull(bufio.NewReader(b), got)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
		require.NoError(t, b.CloseWrite())
		rest, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Empty(t, rest, "foreign bytes")
		<-sb.Done()
		a.Close()
		b.Close()
	}
	t.Logf("the same descriptor in %d of %d", same, tries)
	require.Equal(t, 30, same, "no descriptor was used again: the test has tested nothing")
	require.NoError(t, witness.Close())
}
