package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A relay takes the IPv4 packets that come out of one of a router's veths and sends them out of the
// other, each way with its own queue.
type relay struct {
	ways [2]*way
	ran  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	shape   Shape
	cut     bool
	stalled time.Time // until when everything is held back
	closed  bool
}

// A way is one direction of a relay.
type way struct {
	relay *relay
	from  *os.File // a packet socket (packet(7)) in the router
	raw   syscall.RawConn
	to    int                    // the other way's from, by descriptor: it is closed after both have ended
	next  unix.SockaddrLinklayer // the interface that packets leave by, and the host at its far end

	// The relay's lock guards what follows.
	random *rand.Rand
	queue  []packet // in the order of arrival, which is that of their times
	free   [][]byte
	due    time.Time // of the last that was queued
	wire   time.Time // when Rate will have been done with all that was queued
}

// A packet waits until due.
type packet struct {
	data []byte
	due  time.Time
}

const (
	packetMax  = 64 << 10 // larger than the MTU of any veth
	socketRoom = 16 << 20 // bytes of packets, with the kernel's own overhead
	batch      = 64       // packets that are taken in one go
)

// queueDefault is Shape.Queue where it is 0.
const queueDefault = 1 << 20

func newRelay(g *Leg, s Shape, cut bool) (_ *relay, err error) {
	r := &relay{shape: s, cut: cut}
	serverMAC, err := hardwareAddr(g.server, g.serverEnd())
	if err != nil {
		return nil, err
	}
	clientMAC, err := hardwareAddr(g.client, toServer)
	if err != nil {
		return nil, err
	}
	up, err := openPort(g.router, toServer)
	if err != nil {
		return nil, err
	}
	down, err := openPort(g.router, toClient)
	if err != nil {
		return nil, errors.Join(err, up.file.Close())
	}
	r.ways = [2]*way{{relay: r, from: up.file, to: down.fd}, {relay: r, from: down.file, to: up.fd}}
	r.ways[0].next = linkAddr(down.index, clientMAC)
	r.ways[1].next = linkAddr(up.index, serverMAC)
	r.reseed()
	for _, w := range r.ways {
		if w.raw, err = w.from.SyscallConn(); err != nil {
			return nil, errors.Join(err, up.file.Close(), down.file.Close())
		}
	}
	for _, w := range r.ways {
		r.ran.Add(1)
		go w.run()
	}
	return r, nil
}

// linkAddr is a host at the far end of an interface.
func linkAddr(index int, mac net.HardwareAddr) unix.SockaddrLinklayer {
	a := unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: index, Halen: uint8(len(mac))}
	copy(a.Addr[:], mac)
	return a
}

func hardwareAddr(n namespace, name string) (mac net.HardwareAddr, err error) {
	err = n.in(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		mac = ifi.HardwareAddr
		return nil
	})
	return mac, err
}

// A port is a packet socket for the IPv4 packets of an interface.
type port struct {
	file  *os.File
	fd    int
	index int // of the interface
}

func openPort(n namespace, name string) (p port, err error) {
	err = n.in(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		// Protocol 0: it gets nothing before it is bound to its interface.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("netlab: a packet socket: %w", err)
		}
		p = port{os.NewFile(uintptr(fd), name), fd, ifi.Index}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketRoom),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketRoom),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: p.index}),
		)
	})
	if err != nil && p.file != nil {
		err = errors.Join(err, p.file.Close())
	}
	return p, err
}

func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

func (r *relay) close() error {
	r.mu.Lock()
	r.closed = true
	for _, w := range r.ways {
		_ = w.from.SetReadDeadline(time.Now())
	}
	r.mu.Unlock()
	r.ran.Wait()
	return errors.Join(r.ways[0].from.Close(), r.ways[1].from.Close())
}

// plug pulls or plugs the cable, and returns the time just before. What is under way is lost.
func (r *relay) plug(in bool) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Now()
	r.cut = !in
	if r.cut {
		for _, w := range r.ways {
			w.queue, w.due, w.wire = nil, time.Time{}, time.Time{}
		}
	}
	return at
}

func (r *relay) reshape(s Shape) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shape = s
	r.reseed()
}

func (r *relay) stall(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until := time.Now().Add(d); until.After(r.stalled) {
		r.stalled = until
	}
}

// reseed begins both ways' chances anew.
func (r *relay) reseed() {
	for i, w := range r.ways {
		w.random = rand.New(rand.NewPCG(r.shape.Seed, uint64(i)))
	}
}

func (w *way) run() {
	defer w.relay.ran.Done()
	buf := make([]byte, packetMax)
	for {
		_ = w.raw.Control(func(fd uintptr) { w.take(int(fd), buf) })
		if !w.send() {
			return
		}
		// A deadline that has passed is an error here: it is time to send.
		_ = w.raw.Read(func(fd uintptr) bool { return w.take(int(fd), buf) > 0 })
	}
}

// take queues what has come, and returns how many packets that were.
func (w *way) take(fd int, buf []byte) int {
	w.relay.mu.Lock()
	defer w.relay.mu.Unlock()
	for taken := range batch {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return taken
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_HOST {
			w.push(buf[:n])
		}
	}
	return batch
}

// push queues one packet, unless it is lost. The caller holds the relay's lock.
func (w *way) push(b []byte) {
	r, now := w.relay, time.Now()
	if r.cut || r.shape.Loss > 0 && w.random.Float64() < r.shape.Loss {
		return
	}
	due := now
	if rate := r.shape.Rate; rate > 0 {
		begin := later(now, r.stalled) // a stalled link carries nothing
		waiting := max(0, w.wire.Sub(begin))
		limit := r.shape.Queue
		if limit == 0 {
			limit = queueDefault
		}
		if waiting.Seconds()*float64(rate)+float64(len(b)) > float64(limit) {
			return
		}
		w.wire = begin.Add(waiting + time.Duration(float64(len(b))/float64(rate)*float64(time.Second)))
		due = w.wire
	}
	due = due.Add(r.shape.Delay)
	if r.shape.Jitter > 0 {
		due = due.Add(time.Duration(w.random.Int64N(int64(r.shape.Jitter))))
	}
	w.due = later(due, w.due)
	var data []byte
	if last := len(w.free) - 1; last >= 0 {
		data, w.free = w.free[last], w.free[:last]
	}
	w.queue = append(w.queue, packet{append(data[:0], b...), w.due})
}

// send sends what is due, and sets the time at which to come back. It returns false at the end.
func (w *way) send() bool {
	r := w.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	var next time.Time
	for len(w.queue) > 0 {
		p := w.queue[0]
		next = later(p.due, r.stalled)
		if next.After(time.Now()) {
			break
		}
		// What the kernel does not take is lost, as on a wire.
		_ = unix.Sendto(w.to, p.data, unix.MSG_DONTWAIT, &w.next)
		w.free = append(w.free, p.data)
		w.queue, next = w.queue[1:], time.Time{}
	}
	_ = w.from.SetReadDeadline(next)
	return true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s Shape) validate() error {
	switch {
	case s.Delay < 0:
		return fmt.Errorf("netlab: Shape.Delay %v is negative", s.Delay)
	case s.Jitter < 0:
		return fmt.Errorf("netlab: Shape.Jitter %v is negative", s.Jitter)
	case !(s.Loss >= 0 && s.Loss <= 1):
		return fmt.Errorf("netlab: Shape.Loss %v is not within 0 and 1", s.Loss)
	case s.Rate < 0:
		return fmt.Errorf("netlab: Shape.Rate %d is negative", s.Rate)
	case s.Queue < 0:
		return fmt.Errorf("netlab: Shape.Queue %d is negative", s.Queue)
	}
	return nil
}
