package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
)

// started counts the client processes.
var started atomic.Int64

// process is a client process, as its parent sees it.
type process struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	reports chan string   // its lines; closed at the end of them
	gone    chan struct{} // closed when it has been reaped
	stderr  bytes.Buffer  // complete then

	heard []string // reports that nobody has asked for yet
	seat  *seat    // its session, if it has one
	mayGo bool     // it is meant to die
	over  bool     // its session has ended
}

// start starts this program once more, as a client.
func start() (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &process{cmd: exec.Command(self), reports: make(chan string, 64), gone: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), clientEnv+"=1")
	c.cmd.Stderr = &c.stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	started.Add(1)
	go c.listen(stdout)
	return c, nil
}

// listen takes the reports, and reaps the process when there can be no more.
func (c *process) listen(stdout io.Reader) {
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		select {
		case c.reports <- lines.Text():
		default: // nobody listens, and the process must be reaped all the same
		}
	}
	_ = c.cmd.Wait()
	close(c.gone)
	close(c.reports)
}

// order tells the client what to do; see client.go.
func (c *process) order(line string) error {
	_, err := fmt.Fprintln(c.stdin, line)
	return err
}

// kill ends the process, stopped or not, and waits until it has been reaped. It tells whether the
// process had ended before: by whatever, or just now with the exit status of a crash.
func (c *process) kill() (byItself bool) {
	select {
	case <-c.gone:
		return true
	default:
	}
	_ = c.cmd.Process.Kill()
	<-c.gone
	return c.cmd.ProcessState.ExitCode() > 1
}

// obituary says how the process ended.
func (c *process) obituary() string {
	<-c.gone
	s := fmt.Sprintf("the client process ended by itself (%v)", c.cmd.ProcessState)
	if b := bytes.TrimSpace(c.stderr.Bytes()); len(b) > 0 {
		s += ": " + string(b[:min(len(b), 400)])
	}
	return s
}
