//go:build unix

package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// errnoName returns "ECONNRESET" and the like.
func errnoName(errno syscall.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return errno.Error()
}
