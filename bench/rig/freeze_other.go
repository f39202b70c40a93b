//go:build !linux

package rig

// Freeze fails.
func (l *Load) Freeze() error { return errLinux }

// Thaw fails.
func (l *Load) Thaw() error { return errLinux }
