//go:build !linux

package netlab

import (
	"errors"
	"net"
	"os/exec"
	"time"
)

var errLinux = errors.New("netlab: network namespaces need Linux")

// A Lab is a network with one server and some legs.
type Lab struct{}

// New has no network namespaces here.
func New(int) (*Lab, error) { return nil, errLinux }

// Close has nothing to end here.
func (*Lab) Close() error { return nil }

// Leg returns a leg that can do nothing here.
func (*Lab) Leg(int) *Leg { return &Leg{} }

// Listen cannot be here.
func (*Lab) Listen(int) (net.Listener, error) { return nil, errLinux }

// InServer cannot be here.
func (*Lab) InServer(func() error) error { return errLinux }

// ServerCommand is a command that will not start here.
func (*Lab) ServerCommand(string, ...string) *exec.Cmd { return &exec.Cmd{Err: errLinux} }

// A Leg is the way between the server and one client namespace.
type Leg struct{}

// Dial cannot be here.
func (*Leg) Dial(int) (*net.TCPConn, error) { return nil, errLinux }

// In cannot be here.
func (*Leg) In(func() error) error { return errLinux }

// Command is a command that will not start here.
func (*Leg) Command(string, ...string) *exec.Cmd { return &exec.Cmd{Err: errLinux} }

// Cut cannot be here.
func (*Leg) Cut() (time.Time, error) { return time.Now(), errLinux }

// Mend cannot be here.
func (*Leg) Mend() error { return errLinux }

// Relay cannot be here.
func (*Leg) Relay(s Shape) error { return errLinux }

// Stall cannot be here.
func (*Leg) Stall(time.Duration) error { return errLinux }
