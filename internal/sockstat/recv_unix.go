//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockstat

import "golang.org/x/sys/unix"

// Waiting looks at what recv(2) would return now, without taking it: n > 0, bytes wait; 0, nil: the
// peer has sent its FIN; EAGAIN: nothing waits; another errno: that is how the connection ended.
func Waiting(fd int) (n int, err error) {
	var one [1]byte
	for {
		n, _, err = unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// Receive reads what waits, without waiting for more: 0, nil is the peer's FIN.
func Receive(fd int, b []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// Writable tells whether the kernel has room for enough that epoll would say so: for a third of the send buffer, on Linux.
func Writable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		_, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && fds[0].Revents&unix.POLLOUT != 0
		}
	}
}

// PendingError takes the socket's pending error (SO_ERROR, socket(7)), which asking clears. nil: none.
func PendingError(fd int) error {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if v != 0 {
		return unix.Errno(v)
	}
	return nil
}

// ResetOnClose makes the coming close(2) send an RST and keep no state (SO_LINGER {1, 0}).
func ResetOnClose(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
