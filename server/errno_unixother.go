//go:build unix && !linux

package server

import "syscall"

func acceptPassesHere(syscall.Errno) bool { return false }
