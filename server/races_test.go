//go:build unix

package server_test

import (
	"bufio"
	"errors"
	"flag"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

var races = flag.Int("races", 0, "how many calls TestRaces makes; 0: 200,000, and 50,000 under the race detector")

func init() { roles["restless"] = restless }

// restless is a process of so many clients that read all that comes, say something now and then, go when they
// are told to, and come back. Each has an address of its own, by which it is known. It leaves when its
// input ends.
func restless(args []string) {
	n, _ := strconv.Atoi(args[1])
	var leaving atomic.Bool
	var mu sync.Mutex
	conns := make([]net.Conn, n)
	for i := range n {
		go func() {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(3+i/250), byte(1+i%250))}}
			for !leaving.Load() {
				nc, err := d.Dial("tcp", args[0])
				if err != nil {
					time.Sleep(10 * time.Millisecond) // the server is closing, or the machine is short of something
					continue
				}
				mu.Lock()
				conns[i] = nc
				mu.Unlock()
				(&client{nc, bufio.NewReaderSize(nc, 512)}).chat()
				nc.Close()
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	leaving.Store(true)
	mu.Lock()
	defer mu.Unlock()
	for _, nc := range conns {
		if nc != nil {
			nc.Close()
		}
	}
}

// chat says something at first, and after each 16 messages, until it is told to go.
func (c *client) chat() {
	c.ask("hello")
	for heard := 1; ; heard++ {
		f, err := c.read()
		if err != nil || f.Type == codec.Goodbye {
			return
		}
		if f.Type == codec.Data && heard%16 == 0 {
			c.ask("and")
		}
	}
}

// melee is an application all of whose goroutines call everything on everybody's sessions.
type melee struct {
	server.Base
	t      *testing.T
	places []atomic.Pointer[server.Session] // by address: who is there, or was last
	groups [16]server.Group
	calls  [len(meleeCalls)]struct{ all, ended atomic.Int64 }

	opens, closes, posted, ran, timers, fired atomic.Int64
	inside, closed                            atomic.Int64 // calls made by the Handler's methods; of Close that ended a session
}

var meleeCalls = [...]string{"Send", "Join", "Leave", "Broadcast", "Post", "After", "SetPolicy", "Close", "ask"}

// weights are how many of a thousand calls are which.
var weights = [len(meleeCalls)]int{300, 150, 300, 3, 90, 60, 40, 10, 47}

// call makes one call, of a kind drawn, on a session drawn.
func (m *melee) call() {
	kind, at := 0, rand.IntN(1000)
	for at >= weights[kind] {
		at -= weights[kind]
		kind++
	}
	if meleeCalls[kind] == "Close" && m.opens.Load()-m.closed.Load() < int64(len(m.places)*9/10) {
		kind = 0 // nine of ten are to be there, to be called something on
	}
	if s := m.places[rand.IntN(len(m.places))].Load(); s != nil {
		m.note(kind, m.do(kind, s))
	}
}

// do makes a call of that kind on s.
func (m *melee) do(kind int, s *server.Session) error {
	g := &m.groups[rand.IntN(len(m.groups))]
	switch meleeCalls[kind] {
	case "Send":
		return s.Send([]byte("a message of some length to a session, 64 bytes of it in all..."))
	case "Join":
		return g.Join(s)
	case "Leave":
		g.Leave(s)
	case "Broadcast":
		return g.Broadcast([]byte("to all"))
	case "Post":
		err := s.Post(func() { m.ran.Inc() })
		if err == nil {
			m.posted.Inc()
		}
		return err
	case "After":
		m.timers.Inc()
		stop := s.After(time.Duration(rand.IntN(20))*time.Millisecond, func() { m.fired.Inc() })
		if rand.IntN(2) == 0 {
			stop()
		}
	case "SetPolicy":
		return s.SetPolicy(heartbeat.Policy{Interval: time.Duration(1+rand.IntN(3)) * time.Minute})
	case "Close":
		err := s.Close([]server.Reason{server.ServerClosed, server.SessionReplaced, server.PeerFlood, server.AppReason}[rand.IntN(4)], "enough")
		if err == nil {
			m.closed.Inc()
		}
		return err
	case "ask":
		_, _, _, _, _ = s.Value(), s.RTT(), s.Idle(), s.Suspicion(), s.RemoteAddr()
		_, _ = g.Len(), s.Done()
		s.SetValue(s.Value())
	}
	return nil
}

// note counts a call, and what it returned: nothing else than nil or the session's end is right.
func (m *melee) note(kind int, err error) {
	c := &m.calls[kind]
	c.all.Inc()
	if err == nil {
		return
	}
	c.ended.Inc()
	var ended *server.EndedError
	if !errors.Is(err, net.ErrClosed) || !errors.As(err, &ended) { // each assertion takes a lock, for which the loops would queue up
		assert.Fail(m.t, meleeCalls[kind], "%v", err)
	}
}

func (m *melee) OnOpen(s *server.Session) error {
	m.opens.Inc()
	s.SetValue(atomic.NewInt64(0)) // calls of OnClose
	ip := s.RemoteAddr().Addr().As4()
	m.places[int(ip[2]-3)*250+int(ip[3])-1].Store(s)
	return nil
}

func (m *melee) OnMessage(*server.Session, []byte) error {
	m.inside.Inc()
	m.call()
	return nil
}

// OnClose finds that everything about its own session is over, and may do what it likes to others.
func (m *melee) OnClose(s *server.Session, end *server.CloseError) {
	m.closes.Inc()
	assert.EqualValues(m.t, 1, s.Value().(*atomic.Int64).Inc(), "calls of OnClose")
	m.over(s, end.Reason)
	m.inside.Inc()
	m.call()
}

// over checks that s says of itself, in all that can fail, that it has ended, and why.
func (m *melee) over(s *server.Session, why server.Reason) {
	for kind, name := range meleeCalls {
		switch name {
		case "Send", "Join", "Post", "SetPolicy", "Close":
			err := m.do(kind, s)
			assert.ErrorIs(m.t, err, net.ErrClosed, name)
			if why != 0 {
				assert.ErrorIs(m.t, err, why, name)
			}
		default:
			if name != "Broadcast" { // what it costs, for every session that ends
				assert.NoError(m.t, m.do(kind, s), name)
			}
		}
	}
}

// TestRaces makes very many calls of everything on 1,000 sessions at the same time: from goroutines, from loops, from
// methods of the Handler for another session and for one that is ending, while clients come and go, while
// the server is closed, and after it.
//
//	go test ./server -race -run TestRaces -v -races 1000000
func TestRaces(t *testing.T) {
	const sessions, goroutines = 1000, 16
	n := *races
	switch {
	case n > 0:
	case raceEnabled:
		n = 50_000
	default:
		n = 200_000
	}
	cfg := calm()
	cfg.Policy, cfg.Loops, cfg.Logger = heartbeat.Policy{Interval: 2 * time.Minute}, 2, slog.New(slog.DiscardHandler)
	cfg.BacklogMax = 1 << 30 // all that can be sent meanwhile: a loop may be slow
	m := &melee{t: t, places: make([]atomic.Pointer[server.Session], sessions)}
	srv := start(t, m, cfg)
	clients := role(t, "restless", srv.Addr().String(), strconv.Itoa(sessions))
	leave, err := clients.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, clients.Start())
	t.Cleanup(func() { leave.Close(); assert.NoError(t, clients.Wait()) })
	eventually(t, 30*time.Second, func() bool { return srv.Stats().Live == sessions }, "%d sessions", sessions)

	begun := time.Now()
	var all, closing sync.WaitGroup
	gone := make(chan struct{})
	for range goroutines {
		all.Go(func() {
			for range n / goroutines {
				m.call()
			}
		})
		closing.Go(func() { // and on, while the server ends
			all.Wait()
			for range 1000 {
				m.call()
			}
			for {
				select {
				case <-gone:
					return
				default:
					m.call()
				}
			}
		})
	}
	all.Wait()
	took, st := time.Since(begun), srv.Stats()
	require.NoError(t, srv.Close())
	close(gone)
	closing.Wait()

	for i := range m.places {
		m.over(m.places[i].Load(), 0)
	}
	for i := range m.groups {
		assert.Zero(t, m.groups[i].Len(), "members of a group that has none")
		assert.NoError(t, m.groups[i].Broadcast(nil))
	}
	calls := int64(0)
	for kind, name := range meleeCalls {
		c := &m.calls[kind]
		calls += c.all.Load()
		t.Logf("%-9s %8d calls, %6d told that the session has ended", name, c.all.Load(), c.ended.Load())
	}
	t.Logf("%d calls, %d of them in methods of the Handler; the first %d took %v; %d sessions had been opened by then, %d closed",
		calls, m.inside.Load(), n, took.Round(time.Millisecond), st.Opened, st.Closed)
	for r, k := range srv.Stats().Reasons {
		t.Logf("%-16v %6d", r, k)
	}
	end := srv.Stats()
	assert.GreaterOrEqual(t, calls, int64(n)*9/10, "a place may be empty at first")
	assert.Equal(t, m.opens.Load(), m.closes.Load(), "opens and closes")
	assert.EqualValues(t, m.closes.Load(), end.Closed)
	assert.Equal(t, m.posted.Load(), m.ran.Load(), "a Post that was taken runs")
	assert.LessOrEqual(t, m.fired.Load(), m.timers.Load())
	for _, r := range []server.Reason{server.Internal, server.HandlerFailed, server.PeerSlow, server.PeerProtocol} {
		assert.Zero(t, end.Reasons[r], "%v", r)
	}
	if err := m.places[0].Load().Send(nil); !errors.Is(err, net.ErrClosed) {
		assert.Fail(t, "a Send after the server has closed", "%v", err)
	}
}
