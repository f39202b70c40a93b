//go:build linux

package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
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

// goDeaf has all clients read no more. Their kernels go on taking until their windows are full; the last byte that the server can
// know to be taken is the last that its kernel was told of, by an acknowledgement, which a peer's kernel delays.
func goDeaf(m *matrix, c *cast) error {
	at := m.now()
	for _, g := range slices.Concat(c.sessions, c.plains) {
		g.deaf.Store(true)
	}
	c.acted(at)
	sockets, err := connected()
	if err != nil {
		return err
	}
	for i, g := range c.sessions {
		tr, last := c.trials[i], uint64(0)
		at := ends{local: addrPort(g.conn.RemoteAddr()), peer: g.addr()}
		fd, ok := sockets[at]
		if !ok {
			return fmt.Errorf("the server has no socket of %v", at)
		}
		g.every(5*time.Millisecond, func() error {
			now := m.now()
			ti, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if e, ok := endsOf(fd); err != nil || !ok || e != at {
				return net.ErrClosed // the session has ended, and another file may have its number
			}
			if ti.Bytes_acked != last {
				last = ti.Bytes_acked
				tr.began(now)
			}
			return nil
		})
	}
	return nil
}

// ends are the addresses of a connection.
type ends struct{ local, peer netip.AddrPort }

// connected returns this process's connected sockets, which are the server's too.
func connected() (map[ends]int, error) {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	sockets := map[ends]int{}
	for _, f := range files {
		if fd, err := strconv.Atoi(f.Name()); err == nil {
			if e, ok := endsOf(fd); ok {
				sockets[e] = fd
			}
		}
	}
	return sockets, nil
}

func endsOf(fd int) (ends, bool) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return ends{}, false
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return ends{}, false
	}
	return ends{inet4(local), inet4(peer)}, true
}

func inet4(sa unix.Sockaddr) netip.AddrPort {
	if sa, ok := sa.(*unix.SockaddrInet4); ok {
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
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
