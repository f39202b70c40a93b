//go:build linux

package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
)

// pull pulls the cable of the leg.
func pull(m *matrix, c *cast) error {
	now := m.now()
	began := time.Now()
	at, err := m.lab.Leg(c.leg).Cut()
	now.at += at.Sub(began)
	c.acted(now)
	return err
}

// freeze stops the process.
func freeze(m *matrix, c *cast) error {
	c.acted(m.now())
	return unix.Kill(c.party.pid, unix.SIGSTOP)
}

// goDeaf has all clients read no more. The last byte that the server can see taken is the last by which what
// waits for the client grew.
func goDeaf(m *matrix, c *cast) error {
	at := m.now()
	for _, g := range slices.Concat(c.sessions, c.plains) {
		g.deaf.Store(true)
	}
	c.acted(at)
	for i, g := range c.sessions {
		tr, last := c.trials[i], -1
		g.every(5*time.Millisecond, func() error {
			if tr.entry.ended(0) {
				return net.ErrClosed
			}
			if n := g.unread(); n != last {
				last = n
				tr.began(m.now())
			}
			return nil
		})
	}
	return nil
}

// vanish has the host of all clients gone, and its router say so. The client's namespace turns into that router: it no longer takes
// the address for its own but forwards to a wire on which nobody answers to it. That is the kernel's own "host
// unreachable" for each packet, without the limit of one a second that routers put on them, because here one peer asks for many.
// All but the last step is done before the clock starts: starting a program takes long on a busy machine. The last step also silences
// the clients' kernel, which would go on to send again what the server's has received and can acknowledge no more.
func vanish(m *matrix, c *cast) error {
	leg := m.lab.Leg(c.leg)
	own := c.sessions[0].conn.LocalAddr().(*net.TCPAddr).IP
	prepare := leg.Command("ip", "-batch", "-")
	prepare.Stdin = strings.NewReader(strings.Join([]string{
		"link add lan type veth peer name nobody",
		"link set lan up",
		"link set nobody up",
		fmt.Sprintf("route add %v/32 dev lan", own), // table local comes first
	}, "\n") + "\n")
	if out, err := prepare.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	if err := leg.In(func() error {
		for _, setting := range [][2]string{
			{"neigh/lan/mcast_solicit", "1"},
			{"neigh/lan/retrans_time_ms", "20"},
			{"icmp_ratelimit", "0"},
			{"tcp_early_demux", "0"}, // what has a socket here is not forwarded
			{"ip_forward", "1"},
		} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+setting[0], []byte(setting[1]), 0); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}

	remove := leg.Command("ip", "-batch", "-")
	remove.Stderr = os.Stderr
	order, err := remove.StdinPipe()
	if err != nil {
		return err
	}
	answer, err := remove.StdoutPipe()
	if err != nil {
		return err
	}
	if err := remove.Start(); err != nil {
		return err
	}
	if _, err := io.WriteString(order, "link show lo\n"); err != nil {
		return err
	}
	if _, err := answer.Read(make([]byte, 1<<10)); err != nil { // it is there, and waits for the next line
		return err
	}
	c.acted(m.now())
	for _, g := range slices.Concat(c.sessions, c.plains) {
		g.mute.Store(true)
	}
	_, err = fmt.Fprintf(order, "rule add iif lo ipproto tcp blackhole\nroute del local %v table local\n", own)
	return errors.Join(err, order.Close(), remove.Wait())
}

// trickle sends a long frame byte by byte.
func trickle(g *guest, begin func()) error {
	rest := frame(codec.Data, make([]byte, 1000))
	next := func() error {
		_, err := g.conn.Write(rest[:1])
		rest = rest[1:]
		return err
	}
	begin()
	if err := next(); err != nil {
		return err
	}
	g.every(300*time.Millisecond, next)
	return nil
}
