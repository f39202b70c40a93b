package server_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// roles are what this test binary does when it is run as another process: see role.
var roles = map[string]func(args []string){}

// roleEnv names the role; the arguments follow on the command line.
const roleEnv = "PULSEWHEEL_TEST_ROLE"

// TestMain fails if a test leaves a goroutine of ours or a descriptor behind.
func TestMain(m *testing.M) {
	if f, ok := roles[os.Getenv(roleEnv)]; ok {
		f(os.Args[1:])
		os.Exit(0)
	}
	before := descriptors()
	code := m.Run()
	if code == 0 {
		code = leaks(before)
	}
	os.Exit(code)
}

// leaks waits a little for what is on its way out and prints what stays.
func leaks(fdsBefore []string) int {
	var goroutines, fds []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if goroutines, fds = ourGoroutines(), added(fdsBefore, descriptors()); len(goroutines)+len(fds) == 0 {
			return 0
		}
	}
	fmt.Printf("leaked %d goroutines and %d descriptors\n%s\n%s\n", len(goroutines), len(fds),
		strings.Join(goroutines, "\n\n"), strings.Join(fds, "\n"))
	return 1
}

// ourGoroutines are the stacks of all goroutines but this one and those that are nobody's: importing
// gnet starts its worker pool, whose idle workers last 10 s.
func ourGoroutines() []string {
	buf := make([]byte, 8<<20)
	var ours []string
	for i, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if i == 0 || strings.Contains(g, "panjf2000/ants/v2") || strings.Contains(g, "os/signal.") ||
			strings.Contains(g, "testing.(*M).startAlarm") {
			continue
		}
		ours = append(ours, g)
	}
	return ours
}

// descriptors lists what this process has open, as the kernel names it.
func descriptors() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // no /proc here: only goroutines are checked
	}
	var fds []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(to, "/proc/") {
			continue
		}
		fds = append(fds, to)
	}
	return fds
}

// added returns what now has more of than before. Go's own poller stays once it has been needed.
func added(before, now []string) []string {
	count := map[string]int{}
	for _, fd := range before {
		count[fd]++
	}
	pollers := 0
	var more []string
	for _, fd := range now {
		if count[fd]--; count[fd] >= 0 {
			continue
		}
		if fd == "anon_inode:[eventpoll]" || strings.HasPrefix(fd, "anon_inode:[eventfd]") {
			if pollers++; pollers <= 2 {
				continue
			}
		}
		more = append(more, fd)
	}
	return more
}
