package servers

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// rawMany broadcasts by one raw send for each connection, one after another: what the system calls alone
// cost. It has one thread that reads, and is not a server to use.
type rawMany struct {
	*flow
	ep  int
	cut map[int32][]byte // the start of a frame, by descriptor

	mu  sync.Mutex
	fds []int
}

func serveEpollMany(Options) {
	ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(err)
	must(unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(unix.Listen(ln, 65535)) // the kernel takes what it allows
	bound, err := unix.Getsockname(ln)
	must(err)
	h := &rawMany{flow: newFlow(), cut: map[int32][]byte{}}
	h.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	must(err)
	must(unix.EpollCtl(h.ep, unix.EPOLL_CTL_ADD, ln, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(ln)}))
	go h.run(ln)
	c := crowd{
		sender:    func(int, []byte) error { return errors.New("servers: epoll-many only broadcasts") },
		broadcast: h.broadcast, wakes: func() uint64 { return 0 },
	}
	rig.Serving(fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port), map[string]func(string) string{
		"push": func(arg string) string { return h.push(arg, c) },
	})
}

// run accepts, and reads what clients report.
func (h *rawMany) run(ln int) {
	runtime.LockOSThread()
	events := make([]unix.EpollEvent, 128)
	in := make([]byte, 4096)
	for {
		n, err := unix.EpollWait(h.ep, events, -1)
		if err != nil {
			continue
		}
		for _, ev := range events[:n] {
			if int(ev.Fd) == ln {
				h.accept(ln)
				continue
			}
			n, err := unix.Read(int(ev.Fd), in)
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if n <= 0 || err != nil {
				_ = unix.EpollCtl(h.ep, unix.EPOLL_CTL_DEL, int(ev.Fd), nil) // the next broadcast fails
				continue
			}
			b := append(h.cut[ev.Fd], in[:n]...)
			size := whole(b)
			reports(b[:size], h.told)
			h.cut[ev.Fd] = b[size:]
			if size == len(b) {
				delete(h.cut, ev.Fd)
			}
		}
	}
}

func (h *rawMany) accept(ln int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		fd, _, err := unix.Accept4(ln, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		must(unix.EpollCtl(h.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
		h.fds = append(h.fds, fd)
	}
}

func (h *rawMany) broadcast(p []byte) error {
	b := framed(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range h.fds {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno != 0 || int(n) != len(b) {
			return fmt.Errorf("servers: epoll-many: %d bytes of %d were sent: %w", int(n), len(b), errno)
		}
	}
	return nil
}
