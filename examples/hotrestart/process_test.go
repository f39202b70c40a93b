//go:build linux

package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience is for what must happen, on a machine however slow.
const patience = 60 * time.Second

// A service is the program under test, whichever process it is in at the moment.
type service struct {
	exe, addr string
	pid       int
	logFile   string
	pidFile   string
}

// start builds the program and starts it. This process takes the place of init: it is the subreaper, to
// whom a process belongs whose parent has gone, and has to reap it.
func start(t *testing.T) *service {
	t.Helper()
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	dir := t.TempDir()
	s := &service{exe: filepath.Join(dir, "hotrestart"), logFile: filepath.Join(dir, "log"), pidFile: filepath.Join(dir, "pid")}
	out, err := exec.Command("go", "build", "-o", s.exe, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	f, err := os.Create(s.logFile)
	require.NoError(t, err)
	defer f.Close()
	cmd := exec.Command(s.exe, "-listen", "127.0.0.1:0", "-pidfile", s.pidFile, "-grace", patience.String())
	cmd.Stderr = f // a file, for those that come after it
	require.NoError(t, cmd.Start())
	s.pid = cmd.Process.Pid
	t.Cleanup(func() {
		for _, pid := range childrenOf(t, os.Getpid()) { // there are none if all went well
			n, _ := strconv.Atoi(pid)
			_ = unix.Kill(n, unix.SIGKILL)
			_, _ = unix.Wait4(n, nil, 0, nil)
		}
		if t.Failed() {
			t.Log(s.log(t))
		}
	})
	serving := regexp.MustCompile(`serving on (\S+)\n`)
	eventually(t, func() bool { return serving.MatchString(s.log(t)) && s.served(t) == s.pid }, "it serves")
	s.addr = serving.FindStringSubmatch(s.log(t))[1]
	return s
}

// served is the number of the process that says it serves.
func (s *service) served(t *testing.T) int {
	b, err := os.ReadFile(s.pidFile)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(b))
	require.NoError(t, err)
	return pid
}

func (s *service) log(t *testing.T) string {
	b, err := os.ReadFile(s.logFile)
	require.NoError(t, err)
	return string(b)
}

// failures are the restarts that have failed.
func (s *service) failures(t *testing.T) int { return strings.Count(s.log(t), "no restart: ") }

// restart has a new process take over, and waits until the old one has gone.
func (s *service) restart(t *testing.T) {
	t.Helper()
	const early = "parent hasn't exited" // it has, and this one has yet to read so from a pipe
	refused := strings.Count(s.log(t), early)
	require.NoError(t, unix.Kill(s.pid, unix.SIGHUP))
	eventually(t, func() bool {
		if n := strings.Count(s.log(t), early); n > refused {
			refused = n
			require.NoError(t, unix.Kill(s.pid, unix.SIGHUP))
		}
		return s.served(t) != s.pid
	}, "a new process")
	s.reap(t)
	s.pid = s.served(t)
}

// end ends it for good.
func (s *service) end(t *testing.T) {
	t.Helper()
	require.NoError(t, unix.Kill(s.pid, unix.SIGTERM))
	s.reap(t)
}

// reap waits for the process, which must end well.
func (s *service) reap(t *testing.T) {
	t.Helper()
	var status unix.WaitStatus
	eventually(t, func() bool {
		pid, err := unix.Wait4(s.pid, &status, unix.WNOHANG, nil)
		require.NoError(t, err)
		return pid == s.pid
	}, "process %d has gone", s.pid)
	require.True(t, status.Exited() && status.ExitStatus() == 0, "process %d ended with %#x", s.pid, status)
}

// childrenOf are the processes whose parent is pid, zombies included.
func childrenOf(t *testing.T, pid int) []string {
	t.Helper()
	return slices.Collect(maps.Keys(statesOf(t, pid)))
}

// zombies are those children of pid that have ended and have not been waited for.
func zombies(t *testing.T, pid int) (pids []string) {
	t.Helper()
	for child, state := range statesOf(t, pid) {
		if state == "Z" {
			pids = append(pids, child)
		}
	}
	return pids
}

// statesOf are the states of the children of parent, as proc(5) has them.
func statesOf(t *testing.T, parent int) map[string]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	states := map[string]string{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (name) state ppid ...: the name may contain anything, but ends with the last ")"
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) > 1 && f[1] == strconv.Itoa(parent) {
			states[filepath.Base(filepath.Dir(file))] = f[0]
		}
	}
	return states
}

// eventually waits for ok.
func eventually(t *testing.T, ok func() bool, what string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(t, "not within "+patience.String(), append([]any{what}, args...)...)
		}
	}
}
