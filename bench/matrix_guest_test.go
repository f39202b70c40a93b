//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
)

// ours is the "method" of a connection that is a session of pulsewheel.
const ours = methods

// A guest is a client: of the server (ours), or of a plain observer.
type guest struct {
	kind  method
	rep   int  // of so many like it, whose phases are spread
	beats bool // sends a byte each second, as the heartbeat wants it
	talks bool // ours: also sends by itself, a Pong every 200 ms
	conn  *net.TCPConn
	in    *bufio.Reader
	wrote func() // ours: called just before each write; may be nil

	deaf atomic.Bool // reads no more
	mute atomic.Bool // says nothing any more
	quit chan struct{}
	done sync.WaitGroup
}

func newGuest(kind method, rep int, conn *net.TCPConn) *guest {
	return &guest{kind: kind, rep: rep, beats: kind == byHeartbeat, conn: conn, in: bufio.NewReader(conn),
		wrote: func() {}, quit: make(chan struct{})}
}

// addr is the address by which the server knows it.
func (g *guest) addr() netip.AddrPort { return addrOf(g.conn) }

func addrOf(c net.Conn) netip.AddrPort { return addrPort(c.LocalAddr()) }

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// join has one of ours say its first frame, and waits for the answer.
func (g *guest) join() error {
	if g.kind != ours {
		return nil
	}
	if err := g.write(codec.Ping, nil); err != nil {
		return err
	}
	f, err := readFrame(g.in)
	if err == nil && f.Type != codec.Pong {
		err = fmt.Errorf("a %v frame came, not a Pong", f.Type)
	}
	return err
}

func (g *guest) write(typ codec.Type, payload []byte) error {
	g.wrote()
	_, err := g.conn.Write(frame(typ, payload))
	return err
}

// live has it behave, until the connection ends or it leaves.
func (g *guest) live() {
	g.done.Add(1)
	go func() {
		defer g.done.Done()
		g.read()
	}()
	switch {
	case g.kind == ours && g.talks:
		g.every(200*time.Millisecond, func() error { return g.write(codec.Pong, nil) })
	case g.kind != ours && g.beats:
		g.every(beatEvery, func() error { _, err := g.conn.Write([]byte{'.'}); return err })
	}
}

func (g *guest) read() {
	buf := make([]byte, 4096)
	for !g.deaf.Load() {
		if g.kind != ours {
			if _, err := g.conn.Read(buf); err != nil {
				return
			}
			continue
		}
		f, err := readFrame(g.in)
		if err != nil {
			return
		}
		if f.Type == codec.Ping && !g.mute.Load() && g.write(codec.Pong, f.Payload) != nil {
			return
		}
	}
}

// every has it say something again and again, in its own phase.
func (g *guest) every(pace time.Duration, say func() error) {
	g.done.Add(1)
	go func() {
		defer g.done.Done()
		wait := pace * time.Duration(g.rep%streamPhases) / streamPhases
		for {
			select {
			case <-time.After(wait):
			case <-g.quit:
				return
			}
			if !g.mute.Load() && say() != nil {
				return
			}
			wait = pace
		}
	}()
}

// unread is how many bytes it has been sent and has not read.
func (g *guest) unread() (n int) {
	raw, err := g.conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	if err != nil {
		return 0
	}
	return n
}

// leave closes the connection and waits until nothing of the guest runs any more.
func (g *guest) leave() {
	close(g.quit)
	_ = g.conn.Close()
	g.done.Wait()
}

// guests are those who have to leave in the end.
type guests struct {
	mu  sync.Mutex
	all []*guest
}

func (gs *guests) add(g *guest) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.all = append(gs.all, g)
}

func (gs *guests) leave() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.all {
		g.leave()
	}
}

// dialSession connects a guest of the server's.
func (m *matrix) dialSession(leg, rep int) (*guest, *trial, error) {
	c, err := m.lab.Leg(leg).Dial(m.port)
	if err != nil {
		return nil, nil, err
	}
	g := newGuest(ours, rep, c)
	m.guests.add(g)
	return g, &trial{entry: m.book.of(g.addr())}, nil
}

// dialPlain connects a guest of an observer's.
func (m *matrix) dialPlain(leg int, how method, rep int) (*guest, *plain, error) {
	c, err := m.lab.Leg(leg).Dial(m.observers[how].port)
	if err != nil {
		return nil, nil, err
	}
	g := newGuest(how, rep, c)
	m.guests.add(g)
	p, err := m.observers[how].await(g.addr())
	return g, p, err
}
