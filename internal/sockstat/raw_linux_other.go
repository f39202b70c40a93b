//go:build linux && !(amd64 || arm64 || riscv64 || loong64 || ppc64 || ppc64le || mips64 || mips64le)

package sockstat

import "golang.org/x/sys/unix"

func tcpInfo(fd int, ti *unix.TCPInfo) error {
	got, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	*ti = *got
	return err
}

func sendQueue(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }
