//go:build linux

package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var (
	restarts = flag.Int("restarts", 5, "restarts in TestRestarts")
	rate     = flag.Int("rate", 500, "connects a second in TestRestarts")
)

// No connect is refused or reset before it is answered, whoever stays is told to go, and nothing is left of the
// processes.
func TestRestarts(t *testing.T) {
	s := start(t)
	crowd := &crowd{addr: s.addr}
	stop := make(chan struct{})
	var coming sync.WaitGroup
	coming.Go(func() { crowd.come(*rate, stop) })
	begun := time.Now()
	var took []time.Duration
	for range *restarts {
		before := time.Now()
		s.restart(t)
		took = append(took, time.Since(before))
		crowd.wait(t, 20) // the new one serves
		assert.Empty(t, zombies(t, s.pid), "children of the process that serves")
	}
	elapsed := time.Since(begun)
	close(stop)
	coming.Wait()
	crowd.settle() // each has had its first answer
	s.end(t)
	crowd.leave()

	c := &crowd.counts
	t.Logf("%d restarts in %v (the slowest took %v) under %.0f connects a second: %d came; %d of them were served, %d told to go first; "+
		"%d refused, %d reset, %d errors in all", *restarts, elapsed.Round(time.Millisecond), longest(took).Round(time.Millisecond),
		float64(c.came)/elapsed.Seconds(), c.came, c.served, c.told, c.refused, c.reset, len(c.errs))
	t.Logf("%d stayed, and %d of them were told server_shutdown", c.stayed, c.sent)
	assert.Empty(t, c.errs)
	assert.Equal(t, c.came, c.served+c.told)
	assert.Equal(t, c.stayed, c.sent, "who stays is told server_shutdown, and when to come back")
	assert.GreaterOrEqual(t, c.stayed, *restarts)

	sessions, processes := 0, 0
	for _, m := range regexp.MustCompile(`left: (\d+) sessions`).FindAllStringSubmatch(s.log(t), -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		sessions, processes = sessions+n, processes+1
	}
	assert.Equal(t, *restarts+1, processes, "processes that drained")
	assert.Equal(t, c.came, sessions, "each connection was somebody's session")
	left := childrenOf(t, os.Getpid())
	t.Logf("%d processes drained, with %d sessions; %d processes are left, zombies or not", processes, sessions, len(left))
	assert.Empty(t, left)
}

// A new version that does not start harms nobody: the old one goes on, and reaps what it has started.
func TestBrokenVersion(t *testing.T) {
	s := start(t)
	good := s.exe + ".good"
	require.NoError(t, os.Rename(s.exe, good))
	require.NoError(t, os.WriteFile(s.exe, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	for n := 1; n <= 3; n++ {
		require.NoError(t, unix.Kill(s.pid, unix.SIGHUP))
		eventually(t, func() bool { return s.failures(t) == n }, "the failure is logged")
		assert.Empty(t, zombies(t, s.pid), "children of the server that are not reaped")
		assert.Empty(t, childrenOf(t, s.pid))
	}
	assert.Equal(t, s.pid, s.served(t), "the old one serves")
	crowd := &crowd{addr: s.addr}
	crowd.enter(false)
	crowd.leave()
	assert.Empty(t, crowd.counts.errs)
	assert.Equal(t, 1, crowd.counts.served)

	require.NoError(t, os.Rename(good, s.exe))
	s.restart(t)
	s.end(t)
	assert.Empty(t, childrenOf(t, os.Getpid()))
}

// A child that nobody waits for is found.
func TestZombiesAreSeen(t *testing.T) {
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "exit 0"}, &os.ProcAttr{})
	require.NoError(t, err)
	eventually(t, func() bool { return len(zombies(t, os.Getpid())) == 1 }, "a zombie")
	assert.Equal(t, fmt.Sprint(p.Pid), zombies(t, os.Getpid())[0])
	_, err = p.Wait()
	require.NoError(t, err)
	assert.Empty(t, childrenOf(t, os.Getpid()))
}

func longest(ds []time.Duration) (most time.Duration) {
	for _, d := range ds {
		most = max(most, d)
	}
	return most
}
