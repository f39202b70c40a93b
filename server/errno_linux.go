package server

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// ENONET is Linux's own; accept(2) lists it with the network errors that pass.
func init() { errnoReasons[unix.ENONET] = PathUnreachable }

func acceptPassesHere(e syscall.Errno) bool { return e == unix.ENONET }
