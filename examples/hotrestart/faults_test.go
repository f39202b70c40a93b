//go:build linux

package main

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The old process is killed while the new one starts: the new one serves.
func TestOldOneIsKilled(t *testing.T) {
	s := start(t)
	good, gate := s.exe+".good", s.exe+".gate"
	require.NoError(t, os.Rename(s.exe, good))
	require.NoError(t, unix.Mkfifo(gate, 0o600))
	script := fmt.Sprintf("#!/bin/sh\nread line < %s\nexec %s \"$@\"\n", gate, good)
	require.NoError(t, os.WriteFile(s.exe, []byte(script), 0o755))
	require.NoError(t, unix.Kill(s.pid, unix.SIGHUP))
	eventually(t, func() bool { return len(childrenOf(t, s.pid)) == 1 }, "the new one has been started")
	old := s.pid
	require.NoError(t, unix.Kill(old, unix.SIGKILL))
	_, err := unix.Wait4(old, nil, 0, nil)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(gate, []byte("go\n"), 0))
	eventually(t, func() bool { return s.served(t) != old }, "the new one serves")
	s.pid = s.served(t)
	crowd := &crowd{addr: s.addr}
	crowd.enter(false)
	crowd.leave()
	assert.Empty(t, crowd.counts.errs)
	assert.Equal(t, 1, crowd.counts.served)
	s.end(t)
	assert.Empty(t, childrenOf(t, os.Getpid()))
}

// The new one cannot write its PID file, and gives up: the old one goes on, and nobody is hurt.
func TestPIDFileCannotBeWritten(t *testing.T) {
	s := start(t)
	crowd := &crowd{addr: s.addr}
	stop := make(chan struct{})
	var coming sync.WaitGroup
	coming.Go(func() { crowd.come(500, stop) })
	crowd.wait(t, 20)
	require.NoError(t, os.Rename(s.pidFile, s.pidFile+".was"))
	require.NoError(t, os.Mkdir(s.pidFile, 0o755)) // rename(2) onto a directory: EISDIR
	for n := 1; n <= 5; n++ {
		require.NoError(t, unix.Kill(s.pid, unix.SIGHUP))
		eventually(t, func() bool { return s.failures(t) == n }, "the failure is logged")
		crowd.wait(t, 20)
	}
	close(stop)
	coming.Wait()
	crowd.settle()
	require.NoError(t, os.Remove(s.pidFile))
	s.end(t)
	crowd.leave()
	c := &crowd.counts
	assert.Empty(t, c.errs)
	assert.Equal(t, c.came, c.served)
	assert.Equal(t, c.stayed, c.sent, "who stayed was told to go in the end")
	assert.Empty(t, childrenOf(t, os.Getpid()))
}

// One SIGTERM to the old process while it drains, as systemd sends it to all, does not keep it from draining.
func TestTermWhileItDrains(t *testing.T) {
	s := start(t)
	crowd := &crowd{addr: s.addr}
	for range 2000 {
		crowd.enter(true)
	}
	crowd.settle()
	old := s.pid
	require.NoError(t, unix.Kill(old, unix.SIGHUP))
	eventually(t, func() bool { return s.served(t) != old }, "the new one serves")
	told := func() (n int) { crowd.count(func(c *counts) { n = c.sent }); return n }
	eventually(t, func() bool { return told() > 0 }, "the old one drains")
	require.NoError(t, unix.Kill(old, unix.SIGTERM))
	s.reap(t)
	crowd.leave()
	assert.Empty(t, crowd.counts.errs)
	assert.Equal(t, 2000, crowd.counts.sent)
	s.pid = s.served(t)
	s.end(t)
}
