//go:build unix

package server

import (
	"math"
	"os"
	"syscall"
)

// descriptorLimit returns how many descriptors the process may have (RLIMIT_NOFILE, getrlimit(2)).
func descriptorLimit() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return math.MaxInt
	}
	return int(min(uint64(r.Cur), math.MaxInt32))
}

// descriptorsUsed counts the process's descriptors. The error is that there is none left to count with, or
// that this system does not tell.
func descriptorsUsed() (int, error) {
	// Linux tells by stat(2) since 6.2 (proc_fd_getattr in fs/proc/fd.c), which takes no descriptor and no list of all.
	if fi, err := os.Stat("/proc/self/fd"); err == nil && fi.Size() > 0 {
		return int(fi.Size()), nil
	}
	f, err := os.Open("/dev/fd") // Linux: a link to /proc/self/fd, proc(5)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	return len(names) - 1, err
}
