//go:build unix

package server

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// errnoReasons says which reason an error number of a connection's socket is; ETIMEDOUT wants more
// evidence (Rule 6 in ARCHITECTURE.md) and is not here.
var errnoReasons = map[syscall.Errno]Reason{
	unix.ECONNRESET:   PeerReset,
	unix.ECONNABORTED: PeerReset,
	unix.EPIPE:        PeerClosed, // a send, or an RST, after the peer's FIN (tcp_reset in net/ipv4/tcp_input.c)
	unix.EHOSTUNREACH: PathUnreachable,
	unix.ENETUNREACH:  PathUnreachable,
	unix.EHOSTDOWN:    PathUnreachable,
	unix.ENETDOWN:     PathUnreachable,
	unix.ENETRESET:    PathUnreachable,
	unix.ECONNREFUSED: PathUnreachable, // an ICMP port unreachable for a live connection
	unix.ENOPROTOOPT:  PathUnreachable, // ICMP protocol unreachable (icmp_err_convert in net/ipv4/icmp.c)
	unix.EACCES:       PathUnreachable, // ICMP administratively prohibited, or a local firewall's word
	unix.EPERM:        PathUnreachable, // a local firewall drops what is sent
}

const errTimedOut = unix.ETIMEDOUT

// acceptPasses tells whether accept(2) failing with e is about one connection, or a shortage that
// passes, and says nothing about the listener.
func acceptPasses(e syscall.Errno) bool {
	switch e {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EAGAIN, unix.ECONNABORTED,
		unix.ECONNRESET, unix.EPROTO, unix.ENOPROTOOPT, unix.EPERM, unix.ENETDOWN, unix.EHOSTDOWN, unix.EHOSTUNREACH,
		unix.ENETUNREACH, unix.ETIMEDOUT, unix.EOPNOTSUPP:
		return true
	}
	return acceptPassesHere(e)
}
