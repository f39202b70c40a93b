//go:build !linux

package rig

import (
	"errors"
	"os/exec"
)

var errLinux = errors.New("rig: works on Linux only (/proc, CPU affinity, epoll)")

// CPUs returns the CPUs that this process may run on: none are known here.
func CPUs() []int { return nil }

func startOn(*exec.Cmd, []int) error { return errLinux }
func usage(int) (Usage, error)       { return Usage{}, errLinux }
func rss(int) (int, error)           { return 0, errLinux }
