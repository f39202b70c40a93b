//go:build linux

package bench

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/internal/netlab"
)

// A link is a way to a client, of which there are many: healthy, however slow.
type link struct {
	name  string
	shape netlab.Shape  // the zero value: the kernel forwards
	legs  int           // so many that are alike
	conns int           // of each stream, over all its legs
	burst int           // bytes of the stream that comes in bursts
	stall time.Duration // it holds everything back for so long, every linkStallEvery
	bloat bool          // its bursts make a queue of a second, from one moment to the next
}

const linkStallEvery = 3 * time.Second

// rtt is the round trip of an empty link.
func linkDelay(rtt time.Duration) netlab.Shape { return netlab.Shape{Delay: rtt / 2} }

// healthyLinks are slow, uneven, narrow, lossy. conns is how many connections of a stream each has.
func healthyLinks(conns int) []link {
	loss := func(share float64) netlab.Shape {
		return netlab.Shape{Delay: 20 * time.Millisecond, Loss: share, Seed: 1}
	}
	jitter := netlab.Shape{Delay: 20 * time.Millisecond, Jitter: 100 * time.Millisecond, Seed: 1}
	narrow := netlab.Shape{Delay: 20 * time.Millisecond, Rate: 32 << 10, Queue: 48 << 10}
	const burst = 64 << 10
	few := (conns + 3) / 4
	return []link{
		{name: "rtt 300", shape: linkDelay(300 * time.Millisecond), legs: 1, conns: conns, burst: burst},
		{name: "rtt 600", shape: linkDelay(600 * time.Millisecond), legs: 1, conns: conns, burst: burst},
		{name: "jitter 0-100", shape: jitter, legs: 1, conns: conns, burst: burst},
		// One connection of each stream to a leg: they share its queue, which holds 1.5 s. Two bursts that come
		// together make it longer by less than half a second, from one moment to the next.
		{name: "32 KiB/s", shape: narrow, legs: few, conns: few, burst: 7 << 10},
		{name: "bloated", shape: narrow, legs: few, conns: few, burst: 24 << 10, bloat: true},
		{name: "stalls 0.4 s", shape: linkDelay(40 * time.Millisecond), legs: 1, conns: conns, burst: burst, stall: 400 * time.Millisecond},
		{name: "loss 2 %", shape: loss(0.02), legs: 1, conns: conns, burst: burst},
		{name: "loss 5 %", shape: loss(0.05), legs: 1, conns: conns, burst: burst},
	}
}

// cleanLinks have no fault but a short round trip.
func cleanLinks(conns int) (links []link) {
	for _, ms := range []int{0, 20, 50} {
		l := link{name: fmt.Sprint("rtt ", ms), legs: 1, conns: conns, burst: 64 << 10}
		if ms > 0 {
			l.shape = linkDelay(time.Duration(ms) * time.Millisecond)
		}
		links = append(links, l)
	}
	return links
}

// steady tells whether nothing that is sent over the link is lost, or held up for most of a second
// without warning.
func (l link) steady() bool { return l.shape.Loss == 0 && l.stall == 0 && !l.bloat }

// A linkStream is what a server sends: size bytes every so often.
type linkStream struct {
	name  string
	size  int
	every time.Duration
	conns int
	first int // bytes at its beginning
}

// streams are what is sent over the link, all at once.
func (l link) streams() []linkStream {
	return []linkStream{
		{linkFast, 100, 100 * time.Millisecond, l.conns, 0},
		{linkFaster, 100, 33 * time.Millisecond, l.conns, l.burst},
		{linkSlow, 100, time.Second, l.conns, 0},
		{linkBursts, l.burst, time.Second, max(l.legs, l.conns/4), 0},
	}
}

const (
	linkFast   = "100 B every 100 ms"
	linkFaster = "100 B every 33 ms, after a burst"
	linkSlow   = "100 B every second"
	linkBursts = "a burst every second"
)

// A linkProbe is a connection that is streamed to and watched, from the server's side.
type linkProbe struct {
	link   string
	stream linkStream
	conn   *net.TCPConn
	raw    syscall.RawConn

	mu      sync.Mutex // guards what follows
	written uint64
	writes  []linkWrite // whose last byte is not acknowledged

	// The watch's own.
	base, acked uint64
	progress    time.Time
	samples     int
	srtt        []time.Duration // of each second
	firing      []bool          // by rule
	alarms      []int
	first       []time.Time // since the last cut
}

type linkWrite struct {
	end uint64 // bytes written by then
	at  time.Time
}

// run writes until the connection or the watch ends. Its phase is random.
func (p *linkProbe) run(phase time.Duration, quit <-chan struct{}) {
	buf := make([]byte, max(p.stream.size, p.stream.first))
	next := time.NewTimer(phase)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-quit:
			return
		}
		next.Reset(p.stream.every)
		p.mu.Lock()
		p.written += uint64(len(buf))
		p.writes = append(p.writes, linkWrite{p.written, time.Now()})
		p.mu.Unlock()
		if _, err := p.conn.Write(buf); err != nil {
			return
		}
		buf = buf[:p.stream.size]
	}
}

// sample asks the kernel, and holds every rule against the answer.
func (p *linkProbe) sample() error {
	var ti *unix.TCPInfo
	var failed error
	err := p.raw.Control(func(fd uintptr) {
		ti, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	now := time.Now()
	if acked := ti.Bytes_acked - p.base; acked != p.acked {
		p.acked, p.progress = acked, now
	}
	r := linkReading{kernel: ti, silence: time.Duration(min(ti.Last_ack_recv, ti.Last_data_recv)) * time.Millisecond}
	p.mu.Lock()
	for len(p.writes) > 0 && p.writes[0].end <= p.acked {
		p.writes = p.writes[1:]
	}
	if len(p.writes) > 0 {
		r.oldest = now.Sub(p.writes[0].at)
		r.stuck = min(r.oldest, now.Sub(p.progress))
	}
	p.mu.Unlock()
	if p.samples++; p.samples%100 == 0 {
		p.srtt = append(p.srtt, r.srtt())
	}
	for i, rule := range linkRules {
		fires := rule.cut(&r)
		if fires && !p.firing[i] {
			p.alarms[i]++
			if p.first[i].IsZero() {
				p.first[i] = now
			}
		}
		p.firing[i] = fires
	}
	return nil
}

// watchWorst measures for how long at a time this process is held up, until the test ends.
func watchWorst(t *testing.T) (worst func() time.Duration) {
	held, quit := watchHeldUp(), make(chan struct{})
	var mu sync.Mutex
	var most, last time.Duration
	look := func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		total := held.total()
		most, last = max(most, total-last), total
		return most
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-time.After(50 * time.Millisecond):
				look()
			case <-quit:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(quit)
		all.Wait()
		held.stop()
	})
	return look
}

// A linkWatch is a server of plain sockets that streams to clients over links, and watches.
type linkWatch struct {
	lab     *netlab.Lab
	legs    map[string][]*netlab.Leg // by the link's name
	probes  []*linkProbe
	clients []*net.TCPConn
	longest time.Duration // between two samples of a connection

	control chan func()
	quit    chan struct{}
	ran     sync.WaitGroup
}

// watchLinks connects clients over the links, begins to stream to them, and samples every 10 ms.
func watchLinks(t *testing.T, seed uint64, algorithm string, links []link) *linkWatch {
	t.Helper()
	legs := 0
	for _, l := range links {
		legs += l.legs
	}
	lab, err := netlab.New(legs)
	if err != nil {
		t.Skipf("no network to break: %v", err)
	}
	w := &linkWatch{lab: lab, legs: map[string][]*netlab.Leg{}, control: make(chan func()), quit: make(chan struct{})}
	t.Cleanup(func() { w.close(t) })
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	defer ln.Close()
	require.NoError(t, setCongestionControl(ln.(*net.TCPListener), algorithm))
	var dials []func()
	var mu sync.Mutex
	wanted := map[string]*linkProbe{} // by the client's address
	number := 0
	for _, l := range links {
		for i := range l.legs {
			g := lab.Leg(number)
			number++
			w.legs[l.name] = append(w.legs[l.name], g)
			if l.shape != (netlab.Shape{}) {
				require.NoError(t, g.Relay(l.shape))
			}
			for _, s := range l.streams() {
				for range s.conns*(i+1)/l.legs - s.conns*i/l.legs { // its part of them
					dials = append(dials, func() {
						c, err := g.Dial(ln.Addr().(*net.TCPAddr).Port)
						if !assert.NoError(t, err, l.name) {
							return
						}
						mu.Lock()
						defer mu.Unlock()
						w.clients = append(w.clients, c)
						wanted[c.LocalAddr().String()] = &linkProbe{link: l.name, stream: s}
						w.ran.Go(func() { _, _ = io.Copy(io.Discard, c) }) // the client reads
					})
				}
			}
		}
	}
	var dialled sync.WaitGroup
	for _, dial := range dials {
		dialled.Go(dial)
	}
	accepted := map[string]*net.TCPConn{}
	require.NoError(t, ln.(*net.TCPListener).SetDeadline(time.Now().Add(20*time.Second)))
	for len(accepted) < len(dials) {
		c, err := ln.Accept()
		if !assert.NoError(t, err) {
			break
		}
		accepted[c.RemoteAddr().String()] = c.(*net.TCPConn)
	}
	dialled.Wait()
	for addr, c := range accepted {
		if p := wanted[addr]; assert.NotNil(t, p, addr) {
			p.conn = c
			w.probes = append(w.probes, p)
		}
	}
	require.Len(t, w.probes, len(dials))

	random := rand.New(rand.NewPCG(seed, 0))
	for _, p := range w.probes {
		require.NoError(t, p.begin(algorithm))
		phase := time.Duration(random.Int64N(int64(p.stream.every)))
		w.ran.Go(func() { p.run(phase, w.quit) })
	}
	for _, l := range links {
		if l.stall > 0 {
			w.ran.Go(func() { w.stall(l) })
		}
	}
	w.ran.Go(w.sample)
	return w
}

// setCongestionControl sets the algorithm of what the listener accepts (tcp(7), TCP_CONGESTION).
func setCongestionControl(ln *net.TCPListener, algorithm string) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, algorithm)
	})
	return errors.Join(err, failed)
}

// begin takes the connection's counts as they are before the stream.
func (p *linkProbe) begin(algorithm string) (err error) {
	if p.raw, err = p.conn.SyscallConn(); err != nil {
		return err
	}
	var failed error
	err = p.raw.Control(func(fd uintptr) {
		ti, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			failed = err
			return
		}
		p.base, p.progress = ti.Bytes_acked, time.Now()
		used, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if failed = err; err == nil && used != algorithm {
			failed = fmt.Errorf("the congestion control is %s, not %s", used, algorithm)
		}
	})
	n := len(linkRules)
	p.firing, p.alarms, p.first = make([]bool, n), make([]int, n), make([]time.Time, n)
	return errors.Join(err, failed)
}

func (w *linkWatch) stall(l link) {
	every := time.NewTicker(linkStallEvery)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			for _, g := range w.legs[l.name] {
				_ = g.Stall(l.stall)
			}
		case <-w.quit:
			return
		}
	}
}

func (w *linkWatch) sample() {
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	last := time.Now()
	for {
		select {
		case <-every.C:
			for _, p := range w.probes {
				_ = p.sample() // one that has ended is one that fires no more
			}
			now := time.Now()
			w.longest, last = max(w.longest, now.Sub(last)), now
		case f := <-w.control:
			f()
		case <-w.quit:
			return
		}
	}
}

// between runs f between two rounds of samples.
func (w *linkWatch) between(f func()) {
	done := make(chan struct{})
	w.control <- func() {
		defer close(done)
		f()
	}
	<-done
}

func (w *linkWatch) close(t *testing.T) {
	close(w.quit)
	for _, p := range w.probes {
		_ = p.conn.SetLinger(0)
		p.conn.Close()
	}
	for _, c := range w.clients {
		_ = c.SetLinger(0)
		c.Close()
	}
	w.ran.Wait()
	require.NoError(t, w.lab.Close())
}
