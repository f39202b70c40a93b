package servers

import (
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// A loop is an epoll loop as lean as Go allows: a locked OS thread, raw system calls that do not block,
// one receive and one send for each connection that is ready. It is what the others are measured against, not a server to use.
type loop struct {
	ep     int
	events [128]unix.EpollEvent
	in     []byte
	cut    map[int32]*cut // connections with something left over, by descriptor
	echoed *atomic.Uint64 // messages
	beat   *beat          // nil: it sends no Pings
}

// cut is what a connection has left over.
type cut struct {
	in  []byte // the start of a frame
	out []byte // what the kernel has not taken
}

func serveEpoll(o Options, pings bool) {
	ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(err)
	must(unix.SetsockoptInt(ln, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must(unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(unix.Listen(ln, 65535)) // the kernel takes what it allows
	bound, err := unix.Getsockname(ln)
	must(err)
	var echoed atomic.Uint64
	loops := make([]*loop, max(o.Loops, 1))
	for i := range loops {
		ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		must(err)
		loops[i] = &loop{ep: ep, in: make([]byte, 64<<10), cut: map[int32]*cut{}, echoed: &echoed}
		if pings {
			loops[i].beat = newBeat(o.Interval)
		}
	}
	must(unix.EpollCtl(loops[0].ep, unix.EPOLL_CTL_ADD, ln, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(ln)}))
	for _, l := range loops {
		go l.run(ln, loops)
	}
	rig.Serving(fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port), map[string]func(string) string{
		"echoed": func(string) string { return strconv.FormatUint(echoed.Load(), 10) },
	})
}

func (l *loop) run(ln int, loops []*loop) {
	runtime.LockOSThread()
	for next := 0; ; {
		r, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.ep), uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), 0, 0, 0)
		n := int(r)
		if errno != 0 || n == 0 {
			wait := -1
			if l.beat != nil {
				wait = l.beat.look()
			}
			var err error
			if n, err = unix.EpollWait(l.ep, l.events[:], wait); err != nil {
				continue
			}
		}
		if l.beat != nil {
			l.beat.look()
		}
		for i := range l.events[:n] {
			ev := &l.events[i]
			if int(ev.Fd) != ln {
				l.ready(ev.Fd, ev.Events)
				continue
			}
			for {
				fd, _, err := unix.Accept4(ln, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
				if err != nil {
					break
				}
				_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
				to := loops[next%len(loops)]
				next++
				must(unix.EpollCtl(to.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
			}
		}
		if l.beat != nil {
			l.beat.sweep(l)
		}
	}
}

// ready echoes what has come.
func (l *loop) ready(fd int32, events uint32) {
	c := l.cut[fd]
	if events&unix.EPOLLOUT != 0 && c != nil {
		l.send(fd, c, nil)
		return
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&l.in[0])), uintptr(len(l.in)), unix.MSG_DONTWAIT, 0, 0)
	if errno == unix.EAGAIN {
		return
	}
	if errno != 0 || n == 0 {
		delete(l.cut, fd)
		if l.beat != nil {
			l.beat.gone(fd)
		}
		_ = unix.Close(int(fd))
		return
	}
	if l.beat != nil {
		l.beat.heard(fd)
	}
	in := l.in[:n]
	if c != nil && len(c.in) > 0 {
		c.in = append(c.in, in...)
		in = c.in
	}
	size := whole(in)
	if size < len(in) {
		if c == nil {
			c = &cut{}
			l.cut[fd] = c
		}
	}
	out := in[:size]
	if l.beat != nil {
		out = l.beat.data(out)
	}
	if len(out) > 0 {
		l.send(fd, c, out)
	}
	if c = l.cut[fd]; c != nil {
		c.in = append(c.in[:0], in[size:]...)
		if len(c.in) == 0 && len(c.out) == 0 {
			delete(l.cut, fd)
		}
	}
}

// send sends what is left over and then b, as far as the kernel takes it.
func (l *loop) send(fd int32, c *cut, b []byte) {
	waiting := c != nil && len(c.out) > 0
	if waiting {
		c.out = append(c.out, b...)
		b = c.out
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		n = 0 // EAGAIN; or the connection is gone, which the next receive finds
	}
	rest := b[n:]
	if len(rest) > 0 && c == nil {
		c = &cut{}
		l.cut[fd] = c
	}
	if c != nil {
		c.out = append(c.out[:0], rest...)
	}
	if now := len(rest) > 0; now != waiting {
		want := uint32(unix.EPOLLIN)
		if now {
			want = unix.EPOLLIN | unix.EPOLLOUT
		}
		_ = unix.EpollCtl(l.ep, unix.EPOLL_CTL_MOD, int(fd), &unix.EpollEvent{Events: want, Fd: fd})
	}
}
