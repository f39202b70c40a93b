//go:build unix

package main

import (
	"os"
	"syscall"
)

// freeze stops a process, as a phone stops an app in the background.
func freeze(p *os.Process) error { return p.Signal(syscall.SIGSTOP) }

// thaw lets it go on.
func thaw(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
