package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A namespace is a network namespace that lives while its descriptor is open, a process runs in it or
// a socket made in it exists.
type namespace struct{ file *os.File }

// ofThread is where the kernel shows the network namespace of the calling thread.
const ofThread = "/proc/thread-self/ns/net"

func newNamespace() (n namespace, err error) {
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netlab: a new network namespace: %w", err)
		}
		n.file, err = os.Open(ofThread)
		return err
	})
	return n, err
}

// onOwnThread runs f on an OS thread that f may move to another namespace.
func onOwnThread(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		err := errors.New("netlab: the function called runtime.Goexit")
		defer func() { ended <- err }()
		runtime.LockOSThread()
		home, e := os.Open(ofThread)
		if e != nil {
			runtime.UnlockOSThread()
			err = e
			return
		}
		defer func() {
			// A thread that does not come back ends with this goroutine: it stays locked to it.
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			home.Close()
		}()
		err = f()
	}()
	return <-ended
}

// in runs f in the namespace. Threads that the runtime starts meanwhile are not in it, nor are
// goroutines that f starts; processes are.
func (n namespace) in(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netlab: enter the namespace: %w", err)
		}
		return f()
	})
}

// path names the namespace to other processes while this one runs.
func (n namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

// command is a command that nsenter(1) will run in the namespace, in the process that it was given.
func (n namespace) command(name string, args []string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + n.path(), "--", name}, args...)...)
}

// ip runs commands of ip(8) in the namespace, until one fails.
func (n namespace) ip(commands ...string) error {
	return n.in(func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("netlab: ip: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}

// close lets go of the namespace, if that has not been done.
func (n namespace) close() error {
	if n.file == nil {
		return nil
	}
	if err := n.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
