//go:build linux && !(amd64 || arm64 || riscv64 || loong64 || ppc64 || ppc64le || mips64 || mips64le)

package sockstat

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tcpInfo fills ti in. The wrapper that knows these systems' calling conventions does not return the
// length that the kernel filled in, so that is taken from the kernel's version.
func tcpInfo(fd int, ti *unix.TCPInfo) (length uint32, err error) {
	got, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	*ti = *got
	return tcpInfoLength(), err
}

// tcpInfoLength returns how much of struct tcp_info this kernel knows, as far as it matters here:
// since 5.4 the window is in it (include/uapi/linux/tcp.h).
var tcpInfoLength = sync.OnceValue(func() uint32 {
	var name unix.Utsname
	major, minor := 0, 0
	if unix.Uname(&name) == nil {
		_, _ = fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	}
	if major > 5 || major == 5 && minor >= 4 {
		return uint32(unsafe.Offsetof(unix.TCPInfo{}.Rcv_wnd))
	}
	return 0
})

func sendQueue(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }
