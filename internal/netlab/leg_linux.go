package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The ends of a leg's two veth pairs. The server has one toClient for each leg, with its number.
const (
	toClient = "toclient" // in the server's and the router's namespace
	toServer = "toserver" // in the router's and the client's
)

var (
	errClosed  = errors.New("netlab: closed")
	errNoRelay = errors.New("netlab: the leg has no relay")
)

// A Leg is the way between the server and one client namespace, by a router of its own. Its methods
// may be called from any goroutine.
type Leg struct {
	server, router, client namespace
	number                 int // from 1

	mu      sync.Mutex // guards what follows
	forward int        // descriptor of the router's ip_forward; 0: not open
	cut     bool
	relay   *relay // nil: the kernel forwards
}

// build makes the router's and the client's namespaces and joins them to the server's.
func (g *Leg) build() (err error) {
	if g.router, err = newNamespace(); err != nil {
		return err
	}
	if g.client, err = newNamespace(); err != nil {
		return err
	}
	subnet := fmt.Sprintf("10.77.%d.", g.number)
	up := g.serverEnd()
	err = g.server.ip(
		"link add "+up+" type veth peer name "+toServer+" netns "+g.router.path(),
		"address add "+subnet+"1/30 dev "+up,
		"link set "+up+" up",
	)
	if err != nil {
		return err
	}
	err = g.router.ip(
		"link add "+toClient+" type veth peer name "+toServer+" netns "+g.client.path(),
		"address add "+subnet+"2/30 dev "+toServer,
		"address add "+subnet+"6/30 dev "+toClient,
		"link set lo up",
		"link set "+toServer+" up",
		"link set "+toClient+" up",
		"route add "+ServerAddr+"/32 via "+subnet+"1",
	)
	if err != nil {
		return err
	}
	err = g.client.ip(
		"link set lo up",
		"address add "+subnet+"5/30 dev "+toServer,
		"link set "+toServer+" up",
		"route add default via "+subnet+"6",
	)
	if err != nil {
		return err
	}
	if err := g.server.ip("route add " + subnet + "4/30 via " + subnet + "2"); err != nil {
		return err
	}
	err = g.router.in(func() (err error) {
		// The file is the router's, also when it is written from elsewhere later.
		g.forward, err = unix.Open("/proc/sys/net/ipv4/ip_forward", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("netlab: ip_forward: %w", err)
	}
	return g.setForward(true)
}

// carrierPatience is how long a leg may take to carry anything. The kernel notices that a link has come
// up only after whatever else waits for its lock on all networks.
const carrierPatience = time.Minute

// await returns when the leg carries packets both ways: nobody listens at that port, and says so.
func (g *Leg) await() error {
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := g.Dial(9)
		if err == nil {
			return c.Close()
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		if time.Since(begun) > carrierPatience {
			return fmt.Errorf("netlab: it carries nothing after %v: %w", carrierPatience, err)
		}
	}
}

func (g *Leg) serverEnd() string { return toClient + strconv.Itoa(g.number) }

func (g *Leg) setForward(on bool) error {
	v := []byte("0")
	if on {
		v = []byte("1")
	}
	if _, err := unix.Pwrite(g.forward, v, 0); err != nil {
		return fmt.Errorf("netlab: ip_forward: %w", err)
	}
	return nil
}

func (g *Leg) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	if g.relay != nil {
		errs = append(errs, g.relay.close())
		g.relay = nil
	}
	if g.forward != 0 {
		errs = append(errs, unix.Close(g.forward))
		g.forward = 0
	}
	return errors.Join(append(errs, g.client.close(), g.router.close())...)
}

// Dial connects from the leg's client namespace to the server's port. The connection may be used from
// every goroutine. It is plain: no Multipath TCP, no keepalive.
func (g *Leg) Dial(port int) (c *net.TCPConn, err error) {
	d := net.Dialer{Timeout: 20 * time.Second, KeepAlive: -1}
	d.SetMultipathTCP(false)
	err = g.client.in(func() error {
		nc, err := d.DialContext(context.Background(), "tcp4", net.JoinHostPort(ServerAddr, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		c = nc.(*net.TCPConn)
		return nil
	})
	return c, err
}

// In runs f on an OS thread that is in the leg's client namespace: see Lab.InServer.
func (g *Leg) In(f func() error) error { return g.client.in(f) }

// Command is a command to be run in the leg's client namespace, while the lab is open.
func (g *Leg) Command(name string, args ...string) *exec.Cmd { return g.client.command(name, args) }

// Cut pulls the cable: from now on the router drops every packet, and tells nobody. It returns the
// time just before.
func (g *Leg) Cut() (time.Time, error) { return g.plug(false) }

// Mend plugs the cable in again. What was sent meanwhile is lost.
func (g *Leg) Mend() error {
	_, err := g.plug(true)
	return err
}

func (g *Leg) plug(in bool) (time.Time, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.forward == 0 {
		return time.Now(), errClosed
	}
	g.cut = !in
	if g.relay != nil {
		return g.relay.plug(in), nil
	}
	at := time.Now()
	return at, g.setForward(in)
}

// Relay makes the router forward by a relay of this process, which does what s says, from now on; again:
// in another way. Packets that a former shape holds keep their time.
func (g *Leg) Relay(s Shape) error {
	if err := s.validate(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.forward == 0 {
		return errClosed
	}
	if g.relay != nil {
		g.relay.reshape(s)
		return nil
	}
	if err := g.wholePackets(); err != nil {
		return err
	}
	if err := g.setForward(false); err != nil {
		return err
	}
	r, err := newRelay(g, s, g.cut)
	if err != nil {
		return errors.Join(err, g.setForward(!g.cut))
	}
	g.relay = r
	return nil
}

// Stall makes the relay hold back what it has and gets for d, and then send it on in order.
func (g *Leg) Stall(d time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.relay == nil {
		return errNoRelay
	}
	g.relay.stall(d)
	return nil
}
