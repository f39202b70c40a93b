//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// stayOf: one of so many stays.
const stayOf = 10

// A crowd are clients that come all the time. Each says something and awaits the first answer; then most
// go, and some stay until they are told to go.
type crowd struct {
	addr   string
	mu     sync.Mutex
	counts counts
	first  sync.WaitGroup // of those who have come, until their first answer
	all    sync.WaitGroup // until they have gone
}

type counts struct {
	came, served, told int     // connected; the first answer: an echo, server_shutdown
	stayed, sent       int     // after an echo; of them, told server_shutdown, and when to come back
	refused, reset     int     // of errs
	errs               []error // whatever went wrong
}

func (c *crowd) count(f func(n *counts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.counts)
}

// come brings rate clients a second until stop.
func (c *crowd) come(rate int, stop <-chan struct{}) {
	begun := time.Now()
	beat := time.NewTicker(time.Second / time.Duration(rate))
	defer beat.Stop()
	for n := 0; ; {
		for ; n < int(time.Since(begun).Seconds()*float64(rate)); n++ { // late ones, too
			c.enter(n%stayOf == 0)
		}
		select {
		case <-beat.C:
		case <-stop:
			return
		}
	}
}

// wait waits until n more have been served.
func (c *crowd) wait(t *testing.T, n int) {
	t.Helper()
	served := func() (served int) {
		c.count(func(n *counts) { served = n.served })
		return served
	}
	before := served()
	eventually(t, func() bool { return served() >= before+n }, "%d more are served", n)
}

// settle waits until all have had their first answer; leave, until all have gone.
func (c *crowd) settle() { c.first.Wait() }
func (c *crowd) leave()  { c.all.Wait() }

// enter brings one client.
func (c *crowd) enter(stays bool) {
	c.first.Add(1)
	answered := sync.OnceFunc(c.first.Done)
	c.all.Go(func() {
		defer answered()
		err := c.visit(stays, answered)
		c.count(func(n *counts) {
			switch {
			case errors.Is(err, syscall.ECONNREFUSED):
				n.refused++
			case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
				n.reset++
			}
			if err != nil {
				n.errs = append(n.errs, err)
			}
		})
	})
}

// visit is one client. It calls answered when it has had its first answer and stays.
func (c *crowd) visit(stays bool, answered func()) error {
	nc, err := net.DialTimeout("tcp", c.addr, patience)
	if err != nil {
		return err
	}
	defer nc.Close()
	c.count(func(n *counts) { n.came++ })
	_ = nc.SetDeadline(time.Now().Add(2 * patience))
	if _, err := nc.Write([]byte("\x01\x00\x00\x05hello")); err != nil {
		return fmt.Errorf("before the first answer: %w", err)
	}
	r := bufio.NewReaderSize(nc, 256)
	typ, payload, err := read(r)
	switch {
	case err != nil:
		return fmt.Errorf("before the first answer: %w", err)
	case typ == codec.Data && string(payload) == "hello":
		c.count(func(n *counts) { n.served++ })
	case typ == codec.Goodbye:
		c.count(func(n *counts) { n.told++ })
		return shutdown(payload)
	default:
		return fmt.Errorf("the first answer is a %v frame: %q", typ, payload)
	}
	if !stays {
		return nil
	}
	c.count(func(n *counts) { n.stayed++ })
	answered()
	for {
		typ, payload, err := read(r)
		if err != nil {
			return fmt.Errorf("while it stayed: %w", err)
		}
		switch typ {
		case codec.Ping:
			if _, err := nc.Write(append([]byte{byte(codec.Pong), 0, 0, byte(len(payload))}, payload...)); err != nil {
				return fmt.Errorf("while it stayed: %w", err)
			}
		case codec.Goodbye:
			c.count(func(n *counts) { n.sent++ })
			return shutdown(payload)
		}
	}
}

// shutdown checks that a Goodbye tells server_shutdown, and when to come back.
func shutdown(payload []byte) error {
	code, text, err := codec.ParseGoodbye(payload)
	if _, _, ok := codec.CutRetryAfter(text); err != nil || code != uint16(server.ServerShutdown) || !ok {
		return fmt.Errorf("goodbye %d: %q: %v", code, text, err)
	}
	return nil
}

// read reads one frame.
func read(r io.Reader) (codec.Type, []byte, error) {
	var head [codec.HeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	p := make([]byte, int(head[1])<<16|int(head[2])<<8|int(head[3]))
	_, err := io.ReadFull(r, p)
	return codec.Type(head[0]), p, err
}
