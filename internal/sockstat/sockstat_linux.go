package sockstat

import (
	"time"

	"golang.org/x/sys/unix"
)

// Supported tells whether this system answers TCP questions at all.
const Supported = true

// ReadTCPInfo samples TCP_INFO of fd. For a socket that is not TCP it returns ErrUnknown.
func ReadTCPInfo(fd int) (TCPInfo, error) {
	var ti unix.TCPInfo
	if err := tcpInfo(fd, &ti); err != nil {
		if err == error(unix.EOPNOTSUPP) || err == error(unix.ENOPROTOOPT) {
			return TCPInfo{}, ErrUnknown
		}
		return TCPInfo{}, err
	}
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
		NotSent:      ti.Notsent_bytes,
	}, nil
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

// ResetOnClose makes the coming close(2) send an RST and keep no state (SO_LINGER {1, 0}).
func ResetOnClose(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
