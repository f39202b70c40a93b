//go:build !unix

package main

import "syscall"

// errnoName returns the system's sentence: it has no names that mean the same everywhere.
func errnoName(errno syscall.Errno) string { return errno.Error() }
