package load

import (
	"bufio"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
)

func frame(t testing.TB, typ codec.Type, payload string) []byte {
	b, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: typ, Payload: []byte(payload)})
	require.NoError(t, err)
	return b
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(codec.HeaderSize)
	if err != nil {
		return nil, err
	}
	b := make([]byte, codec.Binary{}.Need(head))
	_, err = io.ReadFull(r, b)
	return b, err
}

// listen serves each connection by serve, until the test ends.
func listen(t testing.TB, serve func(net.Conn, *bufio.Reader)) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	return ln.Addr().String()
}

func dialed(t testing.TB, o Options) *Client {
	c, err := Dial(o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

// echoes is a server that counts the frames that it sends back, cut in two pieces each.
func echoes(t testing.TB, n *atomic.Int64) string {
	return listen(t, func(c net.Conn, r *bufio.Reader) {
		for {
			f, err := readFrame(r)
			if err != nil {
				return
			}
			n.Add(1)
			_, _ = c.Write(f[:3])
			_, _ = c.Write(f[3:])
		}
	})
}

func TestCountsAreTheServers(t *testing.T) { busy.Try(t, testCountsAreTheServers) }

func testCountsAreTheServers(t *busy.T) {
	for _, o := range []Options{
		{Conns: 1},
		{Conns: 7, Outstanding: 3, Threads: 2},
		{Conns: 7, Outstanding: 3, Threads: 2, Pongs: true},
		{Conns: 5, Outstanding: 2, Spin: true, Pongs: true, Sources: 3},
	} {
		var echoed atomic.Int64
		o.Addr, o.Message = echoes(t, &echoed), frame(t, codec.Data, "hello")
		c := dialed(t, o)
		r, err := c.Run(Round{Warm: 20 * time.Millisecond, For: 50 * time.Millisecond})
		require.NoError(t, err)
		assert.EqualValues(t, echoed.Load(), r.Total, "%+v", o)
		assert.Greater(t.IfQuiet(busy.Doze), r.Messages, 0)
		assert.Less(t.IfQuiet(busy.Doze), r.Messages, r.Total, "warm-up is not counted")
		assert.EqualValues(t, r.Messages, int(r.Latency.N())*max(o.Outstanding, 1))
		assert.GreaterOrEqual(t, r.Elapsed, 50*time.Millisecond)
		assert.Greater(t, r.CPU, time.Duration(0))

		r, err = c.Run(Round{Messages: 1000})
		require.NoError(t, err)
		bursts := (1000 + max(o.Outstanding, 1) - 1) / max(o.Outstanding, 1)
		assert.Equal(t, bursts*max(o.Outstanding, 1), r.Messages)
		assert.Equal(t, r.Messages, r.Total)

		before := echoed.Load()
		r, err = c.Run(Round{Messages: 1})
		require.NoError(t, err)
		assert.EqualValues(t, echoed.Load()-before, r.Total)
		assert.EqualValues(t, max(o.Outstanding, 1), r.Total)
	}
}

func TestLongBurstsAreSentWhole(t *testing.T) {
	var echoed atomic.Int64
	message := frame(t, codec.Data, string(make([]byte, 60_000)))
	c := dialed(t, Options{Addr: echoes(t, &echoed), Message: message, Outstanding: 200, Pongs: true})
	r, err := c.Run(Round{Messages: 400}) // 24 MB: more than the kernel takes at a time
	require.NoError(t, err)
	assert.EqualValues(t, 400, echoed.Load())
	assert.Equal(t, 400, r.Messages)
}

func TestPingsAreAnswered(t *testing.T) {
	pongs := make(chan []byte, 10)
	ask := make(chan []byte)
	addr := listen(t, func(c net.Conn, r *bufio.Reader) {
		go func() {
			for b := range ask {
				for _, part := range b { // byte by byte
					_, _ = c.Write([]byte{part})
				}
			}
		}()
		for {
			f, err := readFrame(r)
			if err != nil {
				return
			}
			if codec.Type(f[0]) == codec.Pong {
				pongs <- f
				continue
			}
			_, _ = c.Write(append(frame(t, codec.Ping, "now"), f...))
		}
	})
	c := dialed(t, Options{Addr: addr, Message: frame(t, codec.Data, "x"), Pongs: true})
	t.Cleanup(func() { close(ask) })
	next := func() []byte {
		select {
		case b := <-pongs:
			return b
		case <-time.After(busy.Patience):
			return nil
		}
	}
	for _, payload := range []string{"idle", "", string(make([]byte, codec.PingPayloadMax))} {
		ask <- frame(t, codec.Ping, payload)
		assert.Equal(t, frame(t, codec.Pong, payload), next())
	}
	r, err := c.Run(Round{Messages: 1})
	require.NoError(t, err)
	assert.Equal(t, frame(t, codec.Pong, "now"), next())
	assert.Equal(t, 4, c.Pings())
	assert.Equal(t, 1, r.Messages)
}

func TestLostConnectionsAreErrors(t *testing.T) {
	message := frame(t, codec.Data, "hello")
	full, err := codec.AppendGoodbye(nil, 304, "full")
	require.NoError(t, err)
	goodbye := frame(t, codec.Goodbye, string(full))
	for name, test := range map[string]struct {
		serve func(net.Conn)
		says  string
	}{
		"closed":       {func(c net.Conn) {}, "the server has closed it"},
		"reset":        {func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, "connection reset by peer"},
		"goodbye":      {func(c net.Conn) { _, _ = c.Write(goodbye) }, `reason 304 "full"`},
		"no frame":     {func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 200 OK")) }, "no frame of codec.Binary: type 72"},
		"unasked":      {func(c net.Conn) { _, _ = c.Write(append(message, message...)) }, "more than were asked for"},
		"half a reply": {func(c net.Conn) { _, _ = c.Write(message[:5]) }, "4 bytes of replies"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := listen(t, func(c net.Conn, r *bufio.Reader) {
				_, _ = readFrame(r)
				test.serve(c)
			})
			c := dialed(t, Options{Addr: addr, Conns: 2, Message: message, Pongs: name == "goodbye" || name == "no frame"})
			_, err := c.Run(Round{For: 100 * time.Millisecond})
			require.ErrorContains(t, err, test.says)
			_, again := c.Run(Round{For: 100 * time.Millisecond})
			require.Equal(t, err, again)
		})
	}
}

func TestCloseLeavesNothingOpen(t *testing.T) {
	var echoed atomic.Int64
	addr := echoes(t, &echoed)
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(all)
	}
	before := open()
	c, err := Dial(Options{Addr: addr, Conns: 20, Threads: 3, Message: frame(t, codec.Data, "x")})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err = c.Run(Round{Messages: 1})
	require.ErrorIs(t, err, ErrClosed)
	_, err = Dial(Options{Addr: "127.0.0.1:1", Message: []byte("x")})
	require.ErrorContains(t, err, "connection refused")
	// The server's ends are closed when it has seen the RSTs.
	assert.Eventually(t, func() bool { return open() <= before }, time.Second, time.Millisecond)
}

func TestStorm(t *testing.T) {
	for _, fin := range []bool{false, true} {
		var echoed atomic.Int64
		r, err := Storm(StormOptions{Addr: echoes(t, &echoed), For: 100 * time.Millisecond, Slots: 5, Message: frame(t, codec.Data, "x"), FIN: fin, Sources: 2})
		require.NoError(t, err)
		assert.Greater(t, r.Total, 0)
		assert.EqualValues(t, r.Conns, r.Latency.N())
		assert.EqualValues(t, echoed.Load(), r.Total)
		assert.InDelta(t, r.Total, r.Conns, 5, "no more than are open at a time come late")
	}
	_, err := Storm(StormOptions{Addr: listen(t, func(net.Conn, *bufio.Reader) {}), Message: []byte("x")})
	require.ErrorContains(t, err, "load: storm: the server has")
}
