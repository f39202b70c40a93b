package netlab

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The settings of ethtool(8) by which a veth hands on packets that are not yet what a wire would
// carry (linux/ethtool.h).
const (
	ethtoolSetTxChecksum = 0x17
	ethtoolSetTSO        = 0x1f
	ethtoolSetGSO        = 0x24
	ethtoolSetGRO        = 0x2c
)

// wholePackets makes both ends of the leg send packets that have their checksum and fit the MTU.
func (g *Leg) wholePackets() error {
	err := g.server.in(func() error { return offloadsOff(g.serverEnd()) })
	if err != nil {
		return err
	}
	return g.client.in(func() error { return offloadsOff(toServer) })
}

// offloadsOff switches the offloads of an interface of this thread's namespace off (netdevice(7),
// SIOCETHTOOL).
func offloadsOff(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, cmd := range []uint32{ethtoolSetTSO, ethtoolSetGSO, ethtoolSetGRO, ethtoolSetTxChecksum} {
		value := &struct{ cmd, data uint32 }{cmd: cmd}
		req := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [24 - unsafe.Sizeof(uintptr(0))]byte // struct ifreq has room for 24 bytes here
		}{data: unsafe.Pointer(value)}
		copy(req.name[:], name)
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		runtime.KeepAlive(value)
		if e != 0 {
			return fmt.Errorf("netlab: offload %#x of %s: %w", cmd, name, e)
		}
	}
	return nil
}
