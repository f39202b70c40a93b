package server

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// errnoReasons says which reason a Winsock error number is.
var errnoReasons = map[syscall.Errno]Reason{
	windows.WSAECONNRESET:   PeerReset,
	windows.WSAECONNABORTED: PeerReset,
	windows.WSAESHUTDOWN:    PeerClosed,
	windows.WSAEHOSTUNREACH: PathUnreachable,
	windows.WSAENETUNREACH:  PathUnreachable,
	windows.WSAEHOSTDOWN:    PathUnreachable,
	windows.WSAENETDOWN:     PathUnreachable,
	windows.WSAENETRESET:    PathUnreachable,
}

const errTimedOut = windows.WSAETIMEDOUT

func acceptPasses(e syscall.Errno) bool {
	switch e {
	case windows.WSAEMFILE, windows.WSAENOBUFS, windows.WSAECONNRESET, windows.WSAEINTR:
		return true
	}
	return false
}
