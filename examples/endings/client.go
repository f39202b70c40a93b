package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

// clientEnv makes this program a client.
const clientEnv = "PULSEWHEEL_ENDINGS_CLIENT"

// client is a client process. It takes orders on standard input, one a line, and reports on standard
// output: "done ORDER" or "failed ORDER: why", and what arrives: "message TEXT", "goodbye NUMBER
// TEXT", "end WHY". Left alone it is a good client: it answers Pings, and closes when told Goodbye.
type client struct {
	conn *net.TCPConn
	wire codec.Binary
	mu   sync.Mutex // one frame at a time, and one report

	stay   atomic.Bool   // do not close when told Goodbye
	deaf   atomic.Bool   // read nothing
	reader chan struct{} // closed when nothing is read any more
}

// clientMain is the client's main function. Its end is that of its orders, so that no client outlives
// its parent; Ctrl-C is for the parent.
func clientMain() int {
	signal.Ignore(os.Interrupt)
	c := &client{}
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		verb, rest, _ := strings.Cut(orders.Text(), " ")
		do, ok := deeds[verb]
		if !ok {
			fmt.Fprintf(os.Stderr, "client: there is no order %q\n", verb)
			return 2
		}
		if answer, err := do(c, rest); err != nil {
			c.report("failed %s: %v", verb, err)
		} else {
			c.report("done %s %s", verb, answer)
		}
	}
	return 0
}

// deeds are the orders.
var deeds = map[string]func(c *client, rest string) (answer string, err error){
	"dial":    (*client).dial,
	"say":     func(c *client, text string) (string, error) { return "", c.send(codec.Data, []byte(text)) },
	"close":   func(c *client, _ string) (string, error) { return "", c.conn.Close() },
	"reset":   func(c *client, _ string) (string, error) { return "", errors.Join(c.conn.SetLinger(0), c.conn.Close()) },
	"goodbye": (*client).goodbye,
	"raw":     (*client).raw,
	"trickle": (*client).trickle,
	"ping":    (*client).pingOften,
	"deaf":    (*client).deafen,
	"stay":    func(c *client, _ string) (string, error) { c.stay.Store(true); return "", nil },
}

func (c *client) report(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Println(strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (c *client) send(t codec.Type, payload []byte) error {
	b, err := c.wire.AppendFrame(nil, codec.Frame{Type: t, Payload: payload})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.conn.Write(b)
	return err
}

func (c *client) dial(addr string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	c.conn = conn.(*net.TCPConn)
	if !c.deaf.Load() {
		c.reader = make(chan struct{})
		go c.read()
	}
	return conn.LocalAddr().String(), nil
}

// read reads until the end of the connection, and closes then.
func (c *client) read() {
	defer close(c.reader)
	var buf []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := c.conn.Read(chunk)
		if c.deaf.Load() {
			return
		}
		buf = append(buf, chunk[:n]...)
		for err == nil {
			f, size, bad := c.wire.Decode(buf)
			if size == 0 || bad != nil {
				err = bad
				break
			}
			if c.receive(f) {
				_ = c.conn.Close()
				return
			}
			buf = buf[size:]
		}
		if err != nil {
			c.report("end %s", why(err))
			_ = c.conn.Close()
			return
		}
	}
}

// receive acts on one frame, and tells whether it was the last.
func (c *client) receive(f codec.Frame) (last bool) {
	switch f.Type {
	case codec.Ping:
		_ = c.send(codec.Pong, f.Payload)
	case codec.Data:
		c.report("message %s", f.Payload)
	case codec.Goodbye:
		code, text, _ := codec.ParseGoodbye(f.Payload)
		c.report("goodbye %d %s", code, text)
		return !c.stay.Load()
	}
	return false
}

func why(err error) string {
	switch {
	case errors.Is(err, io.EOF):
		return "closed by the server"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset by the server"
	}
	return err.Error()
}

// goodbye leaves as PROTOCOL.md says: end one's own direction, read to the end, close.
func (c *client) goodbye(rest string) (string, error) {
	number, text, _ := strings.Cut(rest, " ")
	code, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return "", err
	}
	payload, err := codec.AppendGoodbye(nil, uint16(code), text)
	if err != nil {
		return "", err
	}
	return "", errors.Join(c.send(codec.Goodbye, payload), c.conn.CloseWrite())
}

func (c *client) raw(digits string) (string, error) {
	b, err := hex.DecodeString(digits)
	if err != nil {
		return "", err
	}
	_, err = c.conn.Write(b)
	return "", err
}

// trickle sends a frame of 1,000 bytes, one byte every 200 ms.
func (c *client) trickle(string) (string, error) {
	if _, err := c.raw("010003e8"); err != nil {
		return "", err
	}
	go func() {
		for {
			time.Sleep(200 * time.Millisecond)
			if _, err := c.conn.Write([]byte{0}); err != nil {
				return // it has been ended
			}
		}
	}()
	return "", nil
}

// pingOften sends a Ping every 100 ms.
func (c *client) pingOften(string) (string, error) {
	go func() {
		for c.send(codec.Ping, nil) == nil {
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return "", nil
}

// deafen has the client read no more, and so answer no more Pings. Its kernel's buffer stays
// small: what the server sends fills it soon.
func (c *client) deafen(string) (string, error) {
	c.deaf.Store(true)
	if c.conn == nil {
		return "", nil
	}
	err := errors.Join(c.conn.SetReadBuffer(64<<10), c.conn.SetReadDeadline(time.Now()))
	<-c.reader
	return "", err
}
