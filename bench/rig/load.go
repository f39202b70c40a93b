package rig

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
)

// loadRole is the role of the process that puts load on a server.
const loadRole = "load"

func init() { Role(loadRole, playLoad) }

// loadMax is for how long a load process may be busy. It sees by itself when a server no longer answers.
const loadMax = time.Hour

// An order is a line to the load process, a report the line that comes back.
type order struct {
	Open  *load.Options      `json:",omitempty"`
	Run   *load.Round        `json:",omitempty"`
	Storm *load.StormOptions `json:",omitempty"`
	Pings bool               `json:",omitempty"`
	Close bool               `json:",omitempty"`
}

type report struct {
	Run   load.Result
	Storm load.StormResult
	Pings int
	Error string `json:",omitempty"`
}

// A Load is a process with a load.Client. Call Stop.
type Load struct{ p *Process }

// StartLoad starts a load process, with so many threads at most, bound to CPUs if there are any.
func StartLoad(threads int, cpus []int) (*Load, error) {
	p, err := start(Server{
		Role: loadRole, CPUs: cpus, GOMAXPROCS: max(threads, 1) + 1,
		Env: []string{"GODEBUG=asyncpreemptoff=1"}, // there is nobody to be preempted for
	})
	if err != nil {
		return nil, err
	}
	return &Load{p}, nil
}

// Open opens the connections, after those of an earlier Open have been closed.
func (l *Load) Open(o load.Options) error {
	_, err := l.do(order{Open: &o})
	return err
}

// Run is Client.Run over there.
func (l *Load) Run(r load.Round) (load.Result, error) {
	found, err := l.do(order{Run: &r})
	return found.Run, err
}

// Storm is load.Storm over there.
func (l *Load) Storm(o load.StormOptions) (load.StormResult, error) {
	found, err := l.do(order{Storm: &o})
	return found.Storm, err
}

// Pings returns how many Pings have been answered since Open, also while no Run was under way.
func (l *Load) Pings() (int, error) {
	found, err := l.do(order{Pings: true})
	return found.Pings, err
}

// Close resets the connections; the process waits for another Open.
func (l *Load) Close() error {
	_, err := l.do(order{Close: true})
	return err
}

// Usage returns what the process has used.
func (l *Load) Usage() (Usage, error) { return l.p.Usage() }

// Stop resets the connections and ends the process.
func (l *Load) Stop() error { return l.p.Stop() }

func (l *Load) do(o order) (report, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return report{}, err
	}
	line, err := l.p.ask(string(b), loadMax)
	if err != nil {
		return report{}, err
	}
	var r report
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return report{}, fmt.Errorf("rig: the load process says %.100q: %w", line, err)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// playLoad is the load process.
func playLoad([]string) {
	var c *load.Client
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, lineMax)
	for in.Scan() {
		var o order
		var r report
		err := json.Unmarshal(in.Bytes(), &o)
		if err == nil && (o.Close || o.Open != nil) && c != nil {
			err = c.Close()
			c = nil
		}
		switch {
		case err != nil:
		case o.Open != nil:
			c, err = load.Dial(*o.Open)
		case o.Pings && c != nil:
			r.Pings = c.Pings()
		case o.Run != nil && c == nil:
			err = errors.New("rig: Run before Open")
		case o.Run != nil:
			r.Run, err = c.Run(*o.Run)
		case o.Storm != nil:
			r.Storm, err = load.Storm(*o.Storm)
		}
		if err != nil {
			r.Error = err.Error()
		}
		b, err := json.Marshal(r)
		if err != nil {
			panic(err)
		}
		say(string(b))
	}
	if c != nil {
		_ = c.Close()
	}
}
