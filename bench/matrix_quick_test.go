//go:build linux

package bench

import (
	"net"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// The legs of the network: one for all whose cable stays, and one for each that loses it.
const (
	legSound = iota
	legIdle
	legStream
	legPatient
	legGone
	legHeavy
	legMidFrame
	legFirstFrame
	legClosed
	legOneWay
	legDownIdle
	legDownStream
	legRouteIdle
	legRouteStream
	legs
)

// A quick case is told by the kernel, or by the peer itself, at once.
type quickCase struct {
	name   string
	truth  server.Reason
	unread bool // the client has something to read when it is done
	act    func(c *net.TCPConn) error
	expect [methods]string
}

// What plain methods see of an end that the kernel knows. The options only matter to a silence, but their
// sockets have errors like any other: an RST is one.
var (
	seesFIN     = [methods]string{byRecv: "0", byTCPInfo: "CLOSE_WAIT", byEpoll: "IN+RDHUP", byHeartbeat: "silent"}
	seesRST     = [methods]string{"ECONNRESET", "CLOSE", "IN+RDHUP+HUP+ERR", "ECONNRESET", "silent", "ECONNRESET"}
	seesGarbage = [methods]string{byEpoll: "IN", byHeartbeat: "silent"}
)

// quickCases have one truth each: what decides between FIN and RST, whether something was unread, is
// known, because the server sends nothing of itself before a session is half a second old.
var quickCases = []quickCase{
	{name: "`close()`", truth: server.PeerClosed, act: (*net.TCPConn).Close, expect: seesFIN},
	{name: "`close()`, data unread", truth: server.PeerReset, unread: true, act: (*net.TCPConn).Close, expect: seesRST},
	{name: "RST", truth: server.PeerReset, expect: seesRST, act: func(c *net.TCPConn) error {
		if err := c.SetLinger(0); err != nil {
			return err
		}
		return c.Close()
	}},
	{name: "Goodbye, then FIN", truth: server.PeerGoodbye, expect: seesFIN, act: func(c *net.TCPConn) error {
		if _, err := c.Write(frame(codec.Goodbye, nil)); err != nil {
			return err
		}
		return c.CloseWrite()
	}},
	{name: "garbage", truth: server.PeerProtocol, expect: seesGarbage, act: func(c *net.TCPConn) error {
		_, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		return err
	}},
}

// apart is the time between two quick acts, for what the one stirs up to settle.
const apart = 2 * time.Millisecond

// quick does a quick case to one connection after the other.
func (m *matrix) quick(q quickCase) *row {
	r := &row{name: q.name, truth: []server.Reason{q.truth}, expect: q.expect, limit: turnLimit, alone: true}
	for rep := range *matrixReps {
		g, tr, err := m.dialSession(legSound, rep)
		require.NoError(m, err)
		require.NoError(m, g.join())
		if q.unread {
			s, err := tr.entry.opened()
			require.NoError(m, err)
			require.NoError(m, s.Send(make([]byte, 100)))
			m.awaitUnread(g)
		}
		time.Sleep(apart)
		tr.acted(m.now())
		require.NoError(m, q.act(g.conn))
		tr.entry.ended(10 * time.Second)
		r.trials = append(r.trials, tr)
		for how := range methods {
			g, p, err := m.dialPlain(legSound, how, rep)
			require.NoError(m, err)
			if q.unread {
				p.send(make([]byte, 100))
				m.awaitUnread(g)
			}
			time.Sleep(apart)
			act := monotonic()
			require.NoError(m, q.act(g.conn))
			r.watching = append(r.watching, watched{p, act})
		}
	}
	return r
}

func (m *matrix) awaitUnread(g *guest) {
	for deadline := time.Now().Add(10 * time.Second); g.unread() == 0; time.Sleep(100 * time.Microsecond) {
		require.True(m, time.Now().Before(deadline), "nothing came within 10 s")
	}
}

// A kill case is a process that is killed with a session and a connection for each observer.
type killCase struct {
	name   string
	truth  server.Reason
	unread bool
	expect [methods]string
}

// killCases have one truth each as well: the sessions are given a long interval, so that no Ping happens to be unread.
var killCases = []killCase{
	{name: "`kill -9`", truth: server.PeerClosed, expect: seesFIN},
	{name: "`kill -9`, data unread", truth: server.PeerReset, unread: true, expect: seesRST},
}

// kill kills one process after the other. A process takes a while to die, so the limit counts from the first
// that is seen of its connections by any of the plain methods.
func (m *matrix) kill(k killCase) *row {
	r := &row{name: k.name, truth: []server.Reason{k.truth}, expect: k.expect, limit: turnLimit, alone: true, since: true}
	for range *matrixReps {
		c, err := m.startParty(legSound, 1, k.unread)
		require.NoError(m, err)
		require.NoError(m, c.wait("ready"))
		tr := c.trials[0]
		s, err := tr.entry.opened()
		require.NoError(m, err)
		require.NoError(m, s.SetPolicy(patientPolicy))
		if k.unread {
			require.NoError(m, s.Send(make([]byte, 100)))
		}
		var plains []*plain
		for how, peers := range c.plains {
			p, err := m.observers[how].await(peers[0])
			require.NoError(m, err)
			if k.unread {
				p.send(make([]byte, 100))
			}
			plains = append(plains, p)
		}
		if k.unread {
			require.NoError(m, c.wait("unread"))
		}
		time.Sleep(5 * apart) // its start is over
		tr.acted(m.now())
		act := tr.act.at
		require.NoError(m, unix.Kill(c.pid, unix.SIGKILL))
		tr.entry.ended(10 * time.Second)
		r.trials = append(r.trials, tr)
		first := tr.entry.verdict().told
		for _, p := range plains {
			r.watching = append(r.watching, watched{p, act})
			if s := p.sighting(0); s.what != "" {
				first.at = min(first.at, s.at)
			}
		}
		tr.began(moment{first.at, tr.act.held})
	}
	return r
}
