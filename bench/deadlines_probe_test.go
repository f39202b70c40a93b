//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

func init() { roles["probes"], roles["empties"] = probesRole, emptiesRole }

// The kinds of probes: each but the last is a client for which the server has a deadline.
const (
	probeMute   = "mute"       // connects and sends nothing
	probeFrozen = "frozen"     // has had one echo, and then does nothing; its kernel acknowledges
	probeHalf   = "half frame" // likewise, and has begun a frame
	probeSlow   = "slow"       // is streamBurst to and reads nothing
	probeTimers = "timers"     // lives, and has the server set timers
)

var probeKinds = []string{probeMute, probeFrozen, probeHalf, probeSlow, probeTimers}

// A probe is one such client, as its process tells of it.
type probe struct {
	Kind  string
	Addr  netip.AddrPort // its own
	Acted int64          // when it last did something, in nanoseconds since 1970
	Err   string         // it did not get so far
}

// probesRole is a process of probes: address, number of each kind, the time over which they come, and
// how long one waits for its first echo. It tells of all of them once they have acted, and keeps them
// until its input ends.
func probesRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	over, err := time.ParseDuration(args[2])
	fatal(err)
	wait, err := time.ParseDuration(args[3])
	fatal(err)
	all := make([]probe, n*len(probeKinds))
	conns := make([]net.Conn, len(all))
	var acting sync.WaitGroup
	for i := range all {
		acting.Go(func() {
			time.Sleep(over * time.Duration(i) / time.Duration(len(all)))
			p := &all[i]
			p.Kind = probeKinds[i%len(probeKinds)]
			var err error
			if conns[i], err = p.act(args[0], wait); err != nil {
				p.Err = err.Error()
			}
		})
	}
	acting.Wait()
	fatal(json.NewEncoder(os.Stdout).Encode(all))
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// act connects and does what is its kind's.
func (p *probe) act(addr string, wait time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: wait}
	if p.Kind == probeSlow {
		d.Control = func(_, _ string, c syscall.RawConn) (err error) {
			return c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
			})
		}
	}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	p.Acted = time.Now().UnixNano()
	p.Addr = nc.LocalAddr().(*net.TCPAddr).AddrPort()
	var says []byte
	switch p.Kind {
	case probeMute:
		return nc, nil
	case probeFrozen:
		says = frame(codec.Data, []byte{askEcho})
	case probeHalf:
		says = append(frame(codec.Data, []byte{askEcho}), frame(codec.Data, make([]byte, 9))[:7]...)
	case probeSlow:
		says = frame(codec.Data, []byte{askStream})
	case probeTimers:
		says = frame(codec.Data, []byte{askTimers})
	}
	begun := time.Now()
	if _, err := nc.Write(says); err != nil {
		return nc, err
	}
	p.Acted = begun.UnixNano()
	if p.Kind == probeSlow {
		return nc, nil
	}
	if err := nc.SetReadDeadline(begun.Add(wait)); err != nil {
		return nc, err
	}
	in := bufio.NewReader(nc)
	for {
		f, err := readFrame(in)
		if err != nil {
			return nc, fmt.Errorf("its first message has not come back: %w", err)
		}
		if f.Type == codec.Data {
			break
		}
	}
	if p.Kind == probeTimers {
		_ = nc.SetReadDeadline(time.Time{})
		go pong(nc, in)
	}
	return nc, nil
}

// pong answers Pings until the connection ends.
func pong(nc net.Conn, in *bufio.Reader) {
	for {
		f, err := readFrame(in)
		if err == nil && f.Type == codec.Ping {
			_, err = nc.Write(frame(codec.Pong, f.Payload))
		}
		if err != nil {
			return
		}
	}
}

// emptiesRole is a process of clients that send empty frames as fast as the server takes them: address,
// number. It runs until its input ends.
func emptiesRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	much := bytes.Repeat(frame(codec.Data, nil), 16<<10)
	for range n {
		nc, err := net.Dial("tcp", args[0])
		fatal(err)
		go func() { _, _ = io.Copy(io.Discard, nc) }()
		go func() {
			for err == nil {
				_, err = nc.Write(much)
			}
		}()
	}
	fmt.Println(`"ready"`)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
