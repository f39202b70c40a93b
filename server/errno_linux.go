package server

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// ENONET is Linux's own; accept(2) lists it with the network errors that pass.
func init() { errnoReasons[unix.ENONET] = PathUnreachable }

// acceptPassesHere adds ENONET, and ENOSPC, which is not accept(2)'s: the net package enters what it accepts in an epoll of
// its own, and a user may have only so many watches (max_user_watches in epoll(7)).
func acceptPassesHere(e syscall.Errno) bool { return e == unix.ENONET || e == unix.ENOSPC }
