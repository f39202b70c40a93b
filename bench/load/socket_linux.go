package load

import (
	"fmt"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dialAll opens n connections to addr and returns their descriptors, non-blocking.
func dialAll(addr string, n, sources int) ([]int, error) {
	to, family, err := sockaddr(addr)
	if err != nil {
		return nil, err
	}
	fds := make([]int, 0, n)
	for i := range n {
		fd, err := dial(to, family, i, sources)
		if err != nil {
			for _, fd := range fds {
				reset(fd)
			}
			return nil, fmt.Errorf("load: connection %d of %d to %s: %w", i+1, n, addr, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// dial opens one connection, waiting until it is there.
func dial(to unix.Sockaddr, family, i, sources int) (int, error) {
	fd, err := socket(family, i, sources, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	for {
		err = unix.Connect(fd, to)
		if err != unix.EINTR && err != unix.EALREADY {
			break
		}
	}
	if err == nil || err == unix.EISCONN {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// socket makes the i-th socket, bound to its source address if there is more than the kernel's choice.
func socket(family, i, sources, flags int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return -1, err
	}
	if sources > 0 && family == unix.AF_INET {
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(2 + i%min(sources, 250))}})
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(addr string) (unix.Sockaddr, int, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, 0, fmt.Errorf("load: Addr: %w", err)
	}
	ip := a.Addr().Unmap()
	if ip.IsUnspecified() { // a server that listens on all addresses says so
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}, unix.AF_INET, nil
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: ip.As16()}, unix.AF_INET6, nil
}

// reset closes a connection by RST, which leaves nothing behind on either side.
func reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}

// bind ties this OS thread to one CPU.
func bind(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("load: a thread cannot be bound to CPU %d: %w", cpu, err)
	}
	return nil
}

// send and receive are raw: they do not block, so the scheduler need not know of them.

func send(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func receive(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// A poll is an epoll and the events of its last round. So few at a time, that the one clock reading of a
// round is true for all of them to some 100 us.
type poll struct {
	fd     int
	events [64]unix.EpollEvent
}

// look returns how many events there are now, without waiting.
func (p *poll) look() int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// wait returns how many events there are, and waits for the first at most so many milliseconds, -1: for ever.
func (p *poll) wait(milliseconds int) int {
	if n := p.look(); n > 0 {
		return n
	}
	n, err := unix.EpollWait(p.fd, p.events[:], milliseconds)
	if err != nil {
		return 0
	}
	return n
}

// control adds, changes or removes a descriptor. The number comes back with its events.
func (p *poll) control(op, fd int, events uint32, number int) error {
	return unix.EpollCtl(p.fd, op, fd, &unix.EpollEvent{Events: events, Fd: int32(number)})
}
