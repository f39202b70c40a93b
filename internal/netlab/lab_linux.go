package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
)

// legsMax is set by the addresses: a leg has 10.77.N.0/24, N from 1.
const legsMax = 254

// A Lab is a network with one server and some legs. Its methods may be called from any goroutine.
type Lab struct {
	server namespace
	legs   []*Leg
}

// New makes a network with so many legs, all plugged in, whose routers forward as the kernel does.
// The error says what is missing: a test may skip with it.
func New(legs int) (*Lab, error) {
	if legs < 0 || legs > legsMax {
		return nil, fmt.Errorf("netlab: %d legs: not within 0 and %d", legs, legsMax)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("netlab: making network namespaces needs root")
	}
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("netlab: %w", err)
		}
	}
	l := &Lab{}
	if err := l.build(legs); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build(legs int) (err error) {
	if l.server, err = newNamespace(); err != nil {
		return err
	}
	if err := l.server.ip("link set lo up", "address add "+ServerAddr+"/32 dev lo"); err != nil {
		return err
	}
	for i := range legs {
		g := &Leg{server: l.server, number: i + 1}
		l.legs = append(l.legs, g)
		if err := g.build(); err != nil {
			return fmt.Errorf("leg %d: %w", i, err)
		}
	}
	for i, g := range l.legs {
		if err := g.await(); err != nil {
			return fmt.Errorf("leg %d: %w", i, err)
		}
	}
	return nil
}

// Close ends the relays and lets go of the namespaces. One in which a process still runs or a socket
// is still open ends with that.
func (l *Lab) Close() error {
	var errs []error
	for _, g := range l.legs {
		errs = append(errs, g.close())
	}
	return errors.Join(append(errs, l.server.close())...)
}

// Leg returns leg i, counted from 0.
func (l *Lab) Leg(i int) *Leg { return l.legs[i] }

// Listen listens for TCP at ServerAddr; port 0 is any. The listener and what it accepts may be used
// from every goroutine. They are plain: no Multipath TCP, no keepalive.
func (l *Lab) Listen(port int) (ln net.Listener, err error) {
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	err = l.server.in(func() (err error) {
		ln, err = lc.Listen(context.Background(), "tcp4", net.JoinHostPort(ServerAddr, strconv.Itoa(port)))
		return err
	})
	return ln, err
}

// InServer runs f on an OS thread that is in the server's namespace. Sockets that f itself makes, and
// processes that it starts, stay there; goroutines that it starts are elsewhere.
func (l *Lab) InServer(f func() error) error { return l.server.in(f) }

// ServerCommand is a command to be run in the server's namespace, while the lab is open.
func (l *Lab) ServerCommand(name string, args ...string) *exec.Cmd {
	return l.server.command(name, args)
}
