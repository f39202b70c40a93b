package sockstat

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Supported tells whether this system answers TCP questions at all.
const Supported = true

// ReadTCPInfo samples TCP_INFO of fd. For a socket that is not TCP it returns ErrUnknown.
func ReadTCPInfo(fd int) (TCPInfo, error) {
	var ti unix.TCPInfo
	length, err := tcpInfo(fd, &ti)
	if err != nil {
		if err == error(unix.EOPNOTSUPP) || err == error(unix.ENOPROTOOPT) {
			return TCPInfo{}, ErrUnknown
		}
		return TCPInfo{}, err
	}
	return infoOf(&ti, length), nil
}

// infoOf translates the first length bytes of ti, which are those that the kernel filled in.
func infoOf(ti *unix.TCPInfo, length uint32) TCPInfo {
	ms := func(v uint32) time.Duration { return time.Duration(v) * time.Millisecond }
	us := func(v uint32) time.Duration { return time.Duration(v) * time.Microsecond }
	return TCPInfo{
		State:        TCPState(ti.State),
		RTT:          us(ti.Rtt),
		RTTVar:       us(ti.Rttvar),
		RTTMin:       us(ti.Min_rtt),
		RTO:          us(ti.Rto),
		Unacked:      ti.Unacked,
		Retransmits:  uint32(ti.Retransmits),
		Backoff:      uint32(ti.Backoff),
		Probes:       uint32(ti.Probes),
		TotalRetrans: ti.Total_retrans,
		LastDataSent: ms(ti.Last_data_sent),
		LastDataRecv: ms(ti.Last_data_recv),
		LastAckRecv:  ms(ti.Last_ack_recv),
		SndWnd:       ti.Snd_wnd,
		SndWndKnown:  uintptr(length) >= unsafe.Offsetof(ti.Snd_wnd)+unsafe.Sizeof(ti.Snd_wnd),
		SndMSS:       ti.Snd_mss,
		NotSent:      ti.Notsent_bytes,
	}
}

// Jiffy returns the tick of the clock by which TCP_INFO's "last" times are kept (1/CONFIG_HZ, which is
// the resolution of CLOCK_MONOTONIC_COARSE, clock_getres(2)): by so much they may be too old.
func Jiffy() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return 10 * time.Millisecond // CONFIG_HZ is 100 at least
	}
	return time.Duration(ts.Nano())
}

// Unacknowledged returns the bytes in the socket's send queue: not sent, or sent and not
// acknowledged (SIOCOUTQ, tcp(7); for a Unix socket, not yet read by the peer, unix(7)).
func Unacknowledged(fd int) (int, error) {
	return sendQueue(fd)
}

// Apply sets o on fd. It sets what it can and returns the first error.
func Apply(fd int, o Options) error {
	var first error
	set := func(level, opt, v int) {
		if err := unix.SetsockoptInt(fd, level, opt, v); err != nil && first == nil {
			first = err
		}
	}
	if o.KeepIdle > 0 {
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, wholeSeconds(o.KeepIdle))
	}
	if o.KeepInterval > 0 {
		set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, wholeSeconds(o.KeepInterval))
	}
	if o.UserTimeout > 0 {
		set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(o.UserTimeout/time.Millisecond))
	}
	return first
}

// Applied tells whether fd has the options that Apply would set, by two of them that no other option comes without.
func Applied(fd int, o Options) bool {
	is := func(opt, want int) bool {
		v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, opt)
		return err == nil && v == want
	}
	return is(unix.TCP_USER_TIMEOUT, int(o.UserTimeout/time.Millisecond)) && is(unix.TCP_KEEPIDLE, wholeSeconds(o.KeepIdle))
}
