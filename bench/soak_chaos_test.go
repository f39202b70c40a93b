//go:build linux

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func init() { roles["chaos"] = chaosRole }

const (
	chaosWorkers  = 60   // of one process, each with a connection or a storm of them
	chaosConnsMax = 1500 // of one process at a time
	chaosPatience = 5 * time.Second
)

// chaosReport is what a process did.
type chaosReport struct {
	Acts   map[string]int // how often
	Dialed int64
	Failed int64 // dials
	Wrote  int64 // bytes
}

// chaos is a process that does anything to a server. What its workers do is drawn from the seed; when they come to
// do it is the machine's.
type chaos struct {
	addr   string
	places chan struct{}
	over   chan struct{} // closed at the end

	dialed, failed, wrote atomic.Int64
	next                  atomic.Uint32 // local address

	mu    sync.Mutex // guards the rest
	acts  map[string]int
	conns map[net.Conn]bool
}

// chaosRole is that process: address, seed, number of the process. When its input ends, so does it; then it
// reports. Before it stops itself it says for how long it wants to be stopped, in milliseconds.
func chaosRole(args []string) {
	seed, err := strconv.ParseUint(args[1], 10, 64)
	fatal(err)
	number, err := strconv.ParseUint(args[2], 10, 8)
	fatal(err)
	c := &chaos{addr: args[0], places: make(chan struct{}, chaosConnsMax), over: make(chan struct{}),
		acts: map[string]int{}, conns: map[net.Conn]bool{}}
	c.next.Store(uint32(number) * 250)
	var all sync.WaitGroup
	for w := range chaosWorkers {
		all.Go(func() { c.work(w, &worker{c, rand.New(rand.NewPCG(seed, number<<32|uint64(w)))}) })
	}
	all.Go(func() { c.freeze(rand.New(rand.NewPCG(seed, number<<32|chaosWorkers))) })
	_, _ = io.Copy(io.Discard, os.Stdin)
	close(c.over)
	c.mu.Lock()
	for nc := range c.conns {
		_ = nc.Close()
	}
	c.mu.Unlock()
	all.Wait()
	b, err := json.Marshal(chaosReport{c.acts, c.dialed.Load(), c.failed.Load(), c.wrote.Load()})
	fatal(err)
	fmt.Println(string(b))
}

func (c *chaos) ended() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

// sleep waits, but not beyond the end.
func (c *chaos) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.over:
	}
}

// work does one thing after the other. Each worker begins with another, so that all are done.
func (c *chaos) work(number int, w *worker) {
	for next := number % len(chaosActs); !c.ended(); next = w.rnd.IntN(len(chaosActs)) {
		act := chaosActs[next]
		c.mu.Lock()
		c.acts[act.name]++
		c.mu.Unlock()
		act.do(w)
	}
}

// freeze has the process stopped now and then. Who started it continues it.
func (c *chaos) freeze(rnd *rand.Rand) {
	for {
		c.sleep(time.Duration(500+rnd.IntN(2500)) * time.Millisecond)
		if c.ended() {
			return
		}
		d := 50 + rnd.IntN(500)
		if rnd.IntN(4) == 0 {
			d = 3000 + rnd.IntN(1500) // beyond the timeout
		}
		c.mu.Lock()
		c.acts["SIGSTOP"]++
		c.mu.Unlock()
		fmt.Println(d)
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
}

// A worker does one thing after the other, by its own lot.
type worker struct {
	*chaos
	rnd *rand.Rand
}

// dial connects from an address of its own, of which there are some, so that ports do not run out. window is the
// receive buffer; 0: as the system has it. It returns nil at the end, and if it cannot.
func (c *chaos) dial(window int) *chaosConn {
	select {
	case c.places <- struct{}{}:
	case <-c.over:
		return nil
	}
	n := c.next.Add(1)
	d := net.Dialer{Timeout: chaosPatience, KeepAlive: -1,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(20+n/250%4), byte(1+n%250))}}
	d.SetMultipathTCP(false)
	d.Control = func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			if window != 0 {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, window)
			}
		})
	}
	nc, err := d.Dial("tcp", c.addr)
	if err != nil {
		<-c.places
		c.failed.Add(1)
		c.sleep(time.Millisecond)
		return nil
	}
	c.dialed.Add(1)
	cc := &chaosConn{TCPConn: nc.(*net.TCPConn), c: c}
	c.mu.Lock()
	c.conns[nc] = true
	c.mu.Unlock()
	if c.ended() {
		cc.end()
		return nil
	}
	_ = nc.SetDeadline(time.Now().Add(chaosPatience))
	return cc
}

// A chaosConn is a connection, or what is left of it. It lasts for chaosPatience at most.
type chaosConn struct {
	*net.TCPConn
	c *chaos
}

// end closes it and gives its place up.
func (cc *chaosConn) end() {
	_ = cc.TCPConn.Close()
	cc.c.mu.Lock()
	delete(cc.c.conns, cc.TCPConn)
	cc.c.mu.Unlock()
	<-cc.c.places
}

// rst ends it with an RST.
func (cc *chaosConn) rst() {
	_ = cc.SetLinger(0)
	cc.end()
}

// say writes, and tells whether all went out.
func (cc *chaosConn) say(b []byte) bool {
	n, err := cc.Write(b)
	cc.c.wrote.Add(int64(n))
	return err == nil
}

// drink reads to the end.
func (cc *chaosConn) drink() { _, _ = io.Copy(io.Discard, cc.TCPConn) }

// part ends it in one of the ways there are.
func (w *worker) part(cc *chaosConn) {
	switch w.rnd.IntN(5) {
	case 0:
		cc.rst()
	case 1: // half, and reads on
		_ = cc.CloseWrite()
		cc.drink()
		cc.end()
	case 2: // the other half
		_ = cc.CloseRead()
		cc.say(w.frames(3))
		cc.end()
	default:
		cc.end()
	}
}

// bytes returns n random bytes.
func (w *worker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rnd.Uint32())
	}
	return b
}

// frames returns up to n frames: most of them right, of all types and lengths, most of them short.
func (w *worker) frames(n int) []byte {
	var all bytes.Buffer
	for range 1 + w.rnd.IntN(n) {
		all.Write(w.frame())
	}
	return all.Bytes()
}
