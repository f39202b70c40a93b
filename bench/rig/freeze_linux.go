package rig

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Freeze stops the load process as it is (SIGSTOP): its kernel acknowledges what comes, and nobody answers.
// Thaw it before Stop.
func (l *Load) Freeze() error { return l.signal(unix.SIGSTOP) }

// Thaw lets it go on.
func (l *Load) Thaw() error { return l.signal(unix.SIGCONT) }

func (l *Load) signal(s unix.Signal) error {
	if err := unix.Kill(l.p.PID(), s); err != nil {
		return fmt.Errorf("rig: kill: %w", err)
	}
	return nil
}
