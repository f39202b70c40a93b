package load

import (
	"errors"
	"fmt"
	"time"
)

// ErrClosed is what Run returns after Close.
var ErrClosed = errors.New("load: the client is closed")

// epoch is what all instants here count from.
var epoch = time.Now()

// A Client holds connections to a server. Its methods are called by one goroutine at a time.
type Client struct {
	threads []*thread
	err     error // of an earlier Run: the connections are of no use any more
}

// Dial opens the connections. The error says which one failed.
func Dial(o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	fds, err := dialAll(o.Addr, o.Conns, o.Sources)
	if err != nil {
		return nil, err
	}
	c := &Client{}
	for i := range o.Threads {
		from, to := o.Conns*i/o.Threads, o.Conns*(i+1)/o.Threads
		t, err := newThread(o, from, fds[from:to])
		if err != nil {
			for _, fd := range fds[from:] {
				reset(fd)
			}
			_ = c.Close()
			return nil, err
		}
		if len(o.CPUs) > 0 {
			t.cpu = o.CPUs[i%len(o.CPUs)]
		}
		c.threads = append(c.threads, t)
		go t.run()
	}
	return c, nil
}

// withDefaults checks o and fills its zero fields in.
func (o Options) withDefaults() (Options, error) {
	if len(o.Message) == 0 {
		return o, errors.New("load: Options.Message is empty")
	}
	if o.Conns < 0 || o.Outstanding < 0 || o.Threads < 0 || o.Reply < 0 || o.Sources < 0 || o.Reports < 0 {
		return o, errors.New("load: Options: a number is negative")
	}
	o.Conns = max(o.Conns, 1)
	o.Outstanding = max(o.Outstanding, 1)
	o.Threads = min(max(o.Threads, 1), o.Conns)
	if o.Reply == 0 {
		o.Reply = len(o.Message)
	}
	return o, nil
}

// Run sends bursts for a round and returns what it has counted, when all that was sent has been replied
// to. An error means that a connection was lost, or that no reply came for 10 s: then every later Run returns the same.
func (c *Client) Run(r Round) (Result, error) {
	if c.err != nil {
		return Result{}, c.err
	}
	if c.threads[0].every > 0 {
		return Result{}, errors.New("load: Run: with Options.Reports the server sends of itself")
	}
	if r.Messages == 0 && r.For <= 0 {
		return Result{}, fmt.Errorf("load: Round: neither For nor Messages says how long")
	}
	n := len(c.threads)
	for i, t := range c.threads {
		task := task{Round: r, latency: make([]uint64, bucketsMax)}
		if r.Messages > 0 {
			bursts := (r.Messages + t.outstanding - 1) / t.outstanding
			task.bursts = bursts*(i+1)/n - bursts*i/n
		}
		t.give(task)
	}
	var sum Result
	for _, t := range c.threads {
		f := <-t.found
		if f.err != nil {
			c.err = errors.Join(c.err, f.err)
		}
		sum.Messages += f.Messages
		sum.Total += f.Total
		sum.CPU += f.CPU
		sum.Elapsed = max(sum.Elapsed, f.Elapsed)
		sum.Latency.Merge(f.Latency)
	}
	return sum, c.err
}

// Pings returns how many Pings have been answered since the Client was made. Any goroutine may call it.
func (c *Client) Pings() int {
	n := 0
	for _, t := range c.threads {
		n += int(t.pings.Load())
	}
	return n
}

// Close resets the connections and ends the threads.
func (c *Client) Close() error {
	if errors.Is(c.err, ErrClosed) {
		return nil
	}
	c.err = ErrClosed
	for _, t := range c.threads {
		t.give(task{quit: true})
	}
	for _, t := range c.threads {
		<-t.gone
	}
	return nil
}
