//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

const (
	fewDescriptors = 256
	manyConnects   = 1000
	goAway         = 200
)

func init() { roles["descriptors"] = descriptorsRole }

// descriptorsRole is a server with few descriptors, pulsewheel's or bare gnet's. It says its address, and "ended" with the
// reason when it does not serve any more. When its input ends it says its counters.
func descriptorsRole(args []string) {
	few := unix.Rlimit{Cur: fewDescriptors, Max: fewDescriptors}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		fmt.Println("ended: setrlimit:", err)
		return
	}
	if args[0] == "gnet" {
		go func() {
			err := gnet.Run(&bareEcho{addr: args[1]}, "tcp://"+args[1], gnet.WithLogger(gnetSays{}))
			fmt.Printf("ended: gnet.Run returned %v\n", err)
		}()
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	srv, err := server.New(echo{}, server.Config{Loops: 1, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err == nil {
		var ln net.Listener
		if ln, err = server.Listen("127.0.0.1:0"); err == nil {
			fmt.Println("addr", ln.Addr())
			go func() { fmt.Println("ended:", srv.Serve(ln)) }()
		}
	}
	if err != nil {
		fmt.Println("ended:", err)
		return
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	st := srv.Stats()
	fmt.Printf("counters: %d accepted, %d opened, %d refused, %d failed, %d times accept or enrolment failed\n", st.Accepted, st.Opened, st.Refused, st.Failed, st.AcceptErrors)
}

// echo sends back what it is sent.
type echo struct{ server.Base }

func (echo) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

// bareEcho is the same on bare gnet.
type bareEcho struct {
	gnet.BuiltinEventEngine
	addr string
}

func (b *bareEcho) OnBoot(gnet.Engine) gnet.Action {
	fmt.Println("addr", b.addr)
	return gnet.None
}

func (b *bareEcho) OnTraffic(c gnet.Conn) gnet.Action {
	p, err := c.Next(-1)
	if err == nil {
		_, err = c.Write(p)
	}
	if err != nil {
		return gnet.Close
	}
	return gnet.None
}

// gnetSays is silent.
type gnetSays struct{}

func (gnetSays) Debugf(string, ...any) {}
func (gnetSays) Infof(string, ...any)  {}
func (gnetSays) Warnf(string, ...any)  {}
func (gnetSays) Errorf(string, ...any) {}
func (gnetSays) Fatalf(string, ...any) {}

// A visitor says something as soon as it is connected, and waits for the answer.
type visitor struct {
	net.Conn
	echoes atomic.Int32
	gone   atomic.Bool
	own    bool // we closed it
}

func (v *visitor) run() {
	defer v.gone.Store(true)
	r := bufio.NewReader(v)
	if _, err := v.Write(frame(codec.Data, []byte("hello"))); err != nil {
		return
	}
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		switch f.Type {
		case codec.Ping:
			_, _ = v.Write(frame(codec.Pong, f.Payload))
		case codec.Data:
			v.echoes.Add(1)
		}
	}
}

// visit is what came of many connects to a server with few descriptors.
type visit struct {
	refusedConnect, served, lost int           // at first: lost: closed by the server
	stillServed                  int           // of those served, when all had come
	later                        int           // served after others had gone, within ten seconds
	first                        time.Duration // when the first of those was
	ended, counters              string        // what the server said
}

func runVisit(t *testing.T, which string) (v visit) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	cmd := role(t, "descriptors", which, free.Addr().String())
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := make(chan string, 10)
	go func() {
		defer close(said)
		for s := bufio.NewScanner(out); s.Scan(); {
			said <- s.Text()
		}
	}()
	addr, ok := strings.CutPrefix(<-said, "addr ")
	require.True(t, ok)

	var all []*visitor
	for range manyConnects {
		nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			v.refusedConnect++
			continue
		}
		w := &visitor{Conn: nc}
		all = append(all, w)
		go w.run()
	}
	defer func() {
		for _, w := range all {
			_ = w.Close()
		}
	}()
	count := func(is func(*visitor) bool) (n int) {
		for _, w := range all {
			if is(w) {
				n++
			}
		}
		return n
	}
	served := func(w *visitor) bool { return w.echoes.Load() > 0 }
	settle(func() int { return count(served) })
	v.served, v.lost = count(served), count(func(w *visitor) bool { return w.gone.Load() })

	var inside []*visitor
	for _, w := range all {
		if served(w) && !w.gone.Load() {
			inside = append(inside, w)
			_, _ = w.Write(frame(codec.Data, []byte("again")))
		}
	}
	again := func() int { return count(func(w *visitor) bool { return w.echoes.Load() > 1 }) }
	settle(again)
	v.stillServed = again()

	for _, w := range inside[:min(goAway, len(inside))] {
		w.own = true
		require.NoError(t, w.Conn.(*net.TCPConn).SetLinger(0))
		_ = w.Close()
	}
	begun := time.Now()
	for v.later < goAway && time.Since(begun) < 10*time.Second && (which == "pulsewheel" || v.later > 0 || time.Since(begun) < 3*time.Second) {
		if v.later = count(served) - v.served; v.later > 0 && v.first == 0 {
			v.first = time.Since(begun)
		}
		time.Sleep(time.Millisecond)
	}
	_ = in.Close()
	for line := range said {
		if what, ok := strings.CutPrefix(line, "ended: "); ok {
			v.ended = what
		} else {
			v.counters = line
		}
	}
	require.NoError(t, cmd.Wait())
	return v
}

// settle waits until n does not change any more.
func settle(n func() int) {
	for last, since, begun := n(), time.Now(), time.Now(); time.Since(since) < time.Second && time.Since(begun) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
		if now := n(); now != last {
			last, since = now, time.Now()
		}
	}
}

func (v visit) String() string {
	s := fmt.Sprintf("%d of %d connects failed; served %d, closed by the server %d; still served when all had come %d; of those that waited, served once %d had gone: %d",
		v.refusedConnect, manyConnects, v.served, v.lost, v.stillServed, goAway, v.later)
	if v.later > 0 {
		s += fmt.Sprintf(", the first after %v", v.first.Round(100*time.Microsecond))
	}
	for _, more := range []string{v.counters, v.ended} {
		if more != "" {
			s += "; " + more
		}
	}
	return s
}

// TestDescriptors: a server that runs out of descriptors serves those that it has, and the others as soon as there are
// descriptors again. What bare gnet does is printed for comparison: its acceptor ends the engine.
func TestDescriptors(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	ours := runVisit(t, "pulsewheel")
	fmt.Printf("RLIMIT_NOFILE %d, %d connects\npulsewheel: %v\n", fewDescriptors, manyConnects, ours)
	assert.Empty(t, ours.ended, "it lives")
	assert.Zero(t, ours.refusedConnect)
	assert.Zero(t, ours.lost, "nobody who has been accepted is thrown out")
	assert.Greater(t, ours.served, fewDescriptors*3/4)
	assert.Equal(t, ours.served, ours.stillServed)
	assert.LessOrEqual(t, ours.first, time.Second)
	assert.GreaterOrEqual(t, ours.later, goAway*9/10)
	fmt.Printf("bare gnet:  %v\n", runVisit(t, "gnet"))
}
