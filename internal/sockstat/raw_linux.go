//go:build linux && (amd64 || arm64 || riscv64 || loong64 || ppc64 || ppc64le || mips64 || mips64le)

package sockstat

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Send hands b to the kernel without waiting and without SIGPIPE, and returns how much it took.
// EAGAIN means none of it, for now. len(b) must not be 0.
//
// It is a raw system call: a send that cannot block needs no word with the Go scheduler, which with
// as many busy loops as GOMAXPROCS costs more than the send itself.
func Send(fd int, b []byte) (int, error) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// tcpInfo fills ti in by getsockopt(2) with TCP_INFO, and returns how many bytes of it the kernel
// knows: the struct has grown with the kernel's versions. This call cannot block either, and with
// many connections to sample it is worth avoiding the Go scheduler and an allocation.
func tcpInfo(fd int, ti *unix.TCPInfo) (length uint32, err error) {
	size := uint32(unsafe.Sizeof(*ti))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(ti)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return 0, e
	}
	return size, nil
}

// sendQueue asks for SIOCOUTQ.
func sendQueue(fd int) (int, error) {
	var n int32
	_, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
