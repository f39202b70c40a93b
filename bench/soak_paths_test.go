//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

// soakWays are how the path of a leg is broken: for how long, and what may be the reason if its
// sessions end by that.
var soakWays = []struct {
	name   string
	within bool // it is mended before the timeout
	half   bool // some clients are within a frame
	sever  func(r *remote) error
	mend   func(r *remote) error
	told   []server.Reason
}{
	{"cable cut", false, true, (*remote).cut, (*remote).plug, oneOf(server.PathDead)},
	{"one way lost", false, false, func(r *remote) error {
		return r.ip("neigh replace " + r.router + " lladdr 02:00:00:00:00:01 dev " + r.device + " nud permanent")
	}, func(r *remote) error { return r.ip("neigh del " + r.router + " dev " + r.device) }, oneOf(server.PathDead)},
	{"own link down", false, false, func(r *remote) error { return r.ip("link set " + r.device + " down") },
		func(r *remote) error {
			return r.ip("link set "+r.device+" up",
				r.route())
		}, oneOf(server.PathDead, server.PathUnreachable)},
	{"cut within the timeout", true, false, (*remote).cut, (*remote).plug, oneOf(server.PathDead)},
	{"own route gone", false, false, func(r *remote) error { return r.ip("route del " + r.clients) },
		func(r *remote) error { return r.ip(r.route()) }, oneOf(server.PathDead, server.PathUnreachable)},
}

const (
	soakLegs   = 5
	soakRemote = 8 // clients on each: half of them talk
)

// remotes are clients on legs of a network, whose paths break again and again.
type remotes struct {
	lab  *netlab.Lab
	port int
	app  *arena
	held *heldUp
	legs []*remote
	over chan struct{} // closed at the end
	done sync.WaitGroup

	leaving atomic.Bool
	broken  [8]atomic.Int64 // how often, by way
	told    atomic.Int64    // sessions that were ended by it
}

// A remote is one leg with its clients.
type remote struct {
	*remotes
	number                  int
	device, router, clients string

	mu      sync.Mutex
	way     int       // the way in which it was broken last
	from    time.Time // when; zero: it never was
	until   time.Time // from then on it is as if nothing had been
	holding time.Duration
	loose   bool // a frame was begun so long before the cut that its deadline may be told
	conns   map[*net.TCPConn]bool
}

// startRemotes has clients come from legs of a network, to a listener that srv serves as well.
// Without the means to make one it returns nil.
func startRemotes(t *testing.T, srv *server.Server, app *arena, held *heldUp) *remotes {
	lab, err := netlab.New(soakLegs)
	if err != nil {
		t.Logf("no paths are broken: %v", err)
		return nil
	}
	t.Cleanup(func() { _ = lab.Close() })
	ln, err := lab.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	rs := &remotes{lab: lab, port: ln.Addr().(*net.TCPAddr).Port, app: app, held: held,
		over: make(chan struct{})}
	for i := range soakLegs {
		rs.legs = append(rs.legs, &remote{remotes: rs, number: i, device: fmt.Sprint("toclient", i+1),
			router:  fmt.Sprintf("10.77.%d.2", i+1),
			clients: fmt.Sprintf("10.77.%d.4/30", i+1), conns: map[*net.TCPConn]bool{}})
	}
	app.remotes.Store(rs)
	go func() { _ = srv.Serve(ln) }()
	return rs
}

// begin has them come.
func (rs *remotes) begin() {
	for _, r := range rs.legs {
		for i := range soakRemote {
			rs.done.Go(func() { r.live(i%2 == 0) })
		}
		rs.done.Go(r.breakAgain)
	}
}

// end has them go, and waits for it.
func (rs *remotes) end(t *testing.T) {
	rs.leaving.Store(true)
	close(rs.over)
	for _, r := range rs.legs {
		r.mu.Lock()
		for c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
	}
	rs.done.Wait()
	for i, w := range soakWays {
		t.Logf("  %7d  %s", rs.broken[i].Load(), w.name)
		if rs.broken[i].Load() == 0 {
			t.Errorf("%s: never done", w.name)
		}
	}
	t.Logf("%d sessions were ended by that", rs.told.Load())
}

// of returns the leg of an address; nil: it is none of theirs.
func (rs *remotes) of(a netip.Addr) *remote {
	if b := a.Unmap().As4(); rs != nil && b[0] == 10 {
		return rs.legs[b[2]-1]
	}
	return nil
}

// sleep waits, and reports whether the end has not come.
func (rs *remotes) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-rs.over:
		return false
	}
}

// live is one client after the other: each says who it is, answers Pings, and talks or does not.
func (r *remote) live(talks bool) {
	for r.sleep(50 * time.Millisecond) {
		var nc *net.TCPConn
		err := r.lab.Leg(r.number).In(func() error {
			d := net.Dialer{Timeout: time.Second, KeepAlive: -1}
			d.SetMultipathTCP(false)
			c, err := d.Dial("tcp4", net.JoinHostPort(netlab.ServerAddr, strconv.Itoa(r.port)))
			if err == nil {
				nc = c.(*net.TCPConn)
			}
			return err
		})
		if err != nil {
			continue
		}
		r.mu.Lock()
		r.conns[nc] = true
		gone := r.leaving.Load()
		r.mu.Unlock()
		if !gone {
			r.serve(nc, talks)
		}
		_ = nc.Close()
		r.mu.Lock()
		delete(r.conns, nc)
		r.mu.Unlock()
	}
}

// serve lives on one connection until that ends.
func (r *remote) serve(nc *net.TCPConn, talks bool) {
	var out sync.Mutex
	say := func(typ codec.Type, p []byte) bool {
		out.Lock()
		defer out.Unlock()
		_, err := nc.Write(frame(typ, p))
		return err == nil
	}
	if !say(codec.Data, []byte("hello")) {
		return
	}
	if talks {
		over := make(chan struct{})
		defer close(over)
		go func() {
			for say(codec.Data, []byte("and then")) {
				select {
				case <-time.After(200 * time.Millisecond):
				case <-over:
					return
				}
			}
		}()
	}
	for in := bufio.NewReader(nc); ; {
		f, err := readFrame(in)
		if err != nil || f.Type == codec.Goodbye || f.Type == codec.Ping && !say(codec.Pong, f.Payload) {
			return
		}
	}
}

// breakAgain breaks the leg in one way after the other. It begins with another than the others.
func (r *remote) breakAgain() {
	timeout, interval := soakConfig.Policy.Timeout, soakConfig.Policy.Interval
	for way := r.number % len(soakWays); r.sleep(time.Second); way = (way + 1) % len(soakWays) {
		w := soakWays[way]
		loose := false
		if w.half {
			begun := time.Now()
			r.mu.Lock()
			for c := range r.conns {
				_, _ = c.Write(frame(codec.Data, make([]byte, 100))[:50])
				break
			}
			r.mu.Unlock()
			time.Sleep(50 * time.Millisecond)
			loose = time.Since(begun) > 250*time.Millisecond
		}
		lasts := timeout + 3*interval
		if w.within {
			lasts = timeout * 3 / 4
		}
		r.mu.Lock()
		r.way, r.loose, r.holding = way, loose, r.held.total()
		r.from, r.until = time.Now(), time.Now().Add(time.Hour)
		r.mu.Unlock()
		if err := w.sever(r); err != nil {
			r.app.fail("%s: %v", w.name, err)
			return
		}
		r.broken[way].Add(1)
		going := r.sleep(lasts)
		if err := w.mend(r); err != nil {
			r.app.fail("%s: %v", w.name, err)
		}
		r.mu.Lock()
		// a Ping that arrives late is waited for as long
		r.until = latest(time.Now(), r.from.Add(2*timeout)).Add(interval)
		until := r.until
		r.mu.Unlock()
		if !going || !r.sleep(time.Until(until)) {
			return
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// judge judges the end of a session of the leg's.
func (r *remote) judge(end *server.CloseError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	left := end.Reason == server.PeerClosed || end.Reason == server.PeerReset
	switch w := soakWays[r.way]; {
	case r.leaving.Load() && left:
	case r.from.IsZero() || now.After(r.until):
		r.app.fail("a session whose path was whole was ended: %v; %v; %+v", end, end.Record, end.Record.TCP)
	case left && now.Sub(r.from) > soakConfig.Policy.Timeout: // it was let in as the path broke, and gave up
	// nobody looked in time
	case end.Reason == server.HeartbeatLost && r.held.total()-r.holding > 200*time.Millisecond:
	case end.Reason == server.PeerStalledFrame && r.loose:
	case !slices.Contains(w.told, end.Reason):
		r.app.fail("%s: told %v; %v; %+v", w.name, end, end.Record, end.Record.TCP)
	case now.Sub(r.from) < soakConfig.Policy.Timeout-soakConfig.Policy.Interval:
		r.app.fail("%s: told too early, after %v: %v", w.name, now.Sub(r.from), end)
	default:
		r.told.Add(1)
	}
}

func (r *remote) cut() error { _, err := r.lab.Leg(r.number).Cut(); return err }

func (r *remote) plug() error { return r.lab.Leg(r.number).Mend() }

func (r *remote) route() string { return "route replace " + r.clients + " via " + r.router }

// ip runs commands of ip(8) in the server's namespace.
func (r *remote) ip(commands ...string) error {
	cmd := r.lab.ServerCommand("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %v: %w: %s", commands, err, out)
	}
	return nil
}
