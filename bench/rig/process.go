package rig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// startMax is how long a process may take until it says its address, stopMax until it has ended.
const (
	startMax = 20 * time.Second
	stopMax  = 5 * time.Second
)

// A Process is a server, or what puts load on one, in a process of its own. Call Stop.
type Process struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // that it has for us; closed when its standard output is
	addr  string
	role  bool // it answers
}

// Usage is what a process has used since it was started.
type Usage struct {
	CPU         time.Duration // user and system, of all threads
	Voluntary   int           // context switches of the threads that are there now: they waited for something
	Involuntary int           // they were put off the CPU
}

// Start starts a server and waits until it says its address.
func Start(s Server) (*Process, error) {
	p, err := start(s)
	if err != nil {
		return nil, err
	}
	if p.addr, err = p.line(startMax); err != nil {
		_ = p.Stop()
		return nil, fmt.Errorf("rig: %s has said no address: %w", p.name, err)
	}
	return p, nil
}

func start(s Server) (*Process, error) {
	p := &Process{name: s.Role, role: s.Role != "", lines: make(chan string, 1)}
	var err error
	switch {
	case p.role:
		if p.cmd, err = command(s); err != nil {
			return nil, err
		}
	case len(s.Command) > 0:
		p.name = s.Command[0]
		p.cmd = exec.Command(s.Command[0], s.Command[1:]...)
		p.cmd.Env = os.Environ()
	default:
		return nil, errors.New("rig: a Server needs a Role or a Command")
	}
	if s.GOMAXPROCS > 0 {
		p.cmd.Env = append(p.cmd.Env, "GOMAXPROCS="+strconv.Itoa(s.GOMAXPROCS))
	}
	p.cmd.Env = append(p.cmd.Env, s.Env...)
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("rig: %s: %w", p.name, err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("rig: %s: %w", p.name, err)
	}
	if err := startOn(p.cmd, s.CPUs); err != nil {
		return nil, fmt.Errorf("rig: %s: %w", p.name, err)
	}
	go p.read(out)
	return p, nil
}

// read passes on what the process says to us, and drops the rest.
func (p *Process) read(out io.Reader) {
	defer close(p.lines)
	in := bufio.NewScanner(out)
	in.Buffer(nil, lineMax)
	for first := true; in.Scan(); first = false {
		if line, ok := strings.CutPrefix(in.Text(), mark); ok || !p.role && first {
			p.lines <- line
		}
	}
	_, _ = io.Copy(io.Discard, out) // so that it never waits for us
}

// line returns the next line that the process has for us.
func (p *Process) line(patience time.Duration) (string, error) {
	select {
	case l, ok := <-p.lines:
		if !ok {
			return "", errors.New("it has ended")
		}
		return l, nil
	case <-time.After(patience):
		return "", fmt.Errorf("nothing came for %v", patience)
	}
}

// Addr returns the server's address.
func (p *Process) Addr() string { return p.addr }

// PID returns the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ask has a role do something, and returns its answer: see Serving. A foreign program has none.
func (p *Process) Ask(line string) (string, error) { return p.ask(line, startMax) }

func (p *Process) ask(line string, patience time.Duration) (string, error) {
	if !p.role {
		return "", fmt.Errorf("rig: %s: a foreign program answers nothing", p.name)
	}
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return "", fmt.Errorf("rig: %s: %w", p.name, err)
	}
	answer, err := p.line(patience)
	if err != nil {
		return "", fmt.Errorf("rig: %s: asked %.40q: %w", p.name, line, err)
	}
	return answer, nil
}

// Mallocs returns how many objects a role has allocated on its heap so far, and their bytes.
func (p *Process) Mallocs() (objects, bytes uint64, err error) {
	s, err := p.Ask("mallocs")
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(s, &objects, &bytes)
	return objects, bytes, err
}

// RSS returns the bytes of memory that are resident. A role is told to collect its garbage first, and to
// return to the system what it does not need.
func (p *Process) RSS() (int, error) {
	if p.role {
		if _, err := p.Ask("gc"); err != nil {
			return 0, err
		}
	}
	return rss(p.PID())
}

// Usage returns what the process has used.
func (p *Process) Usage() (Usage, error) { return usage(p.PID()) }

// Stop closes the process's standard input and waits until it has ended. If it does not end it is killed,
// which is an error.
func (p *Process) Stop() error {
	_ = p.in.Close()
	overdue := time.AfterFunc(stopMax, func() { _ = p.cmd.Process.Kill() })
	for range p.lines { // what it still says
	}
	err := p.cmd.Wait()
	if !overdue.Stop() {
		return fmt.Errorf("rig: %s had to be killed: it did not end when its standard input was closed", p.name)
	}
	if err != nil {
		return fmt.Errorf("rig: %s: %w", p.name, err)
	}
	return nil
}
