//go:build unix

package server_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

func init() { roles["churn"] = churn }

// ways are all that a churning client does, and the reasons that are true for it. Where there are
// two, the second is what the kernel makes of a close with unread data: an RST.
var ways = []struct {
	name string
	act  func(c *client)
	want []server.Reason
}{
	{"connect and FIN", func(c *client) {}, []server.Reason{server.PeerClosed}},
	{"connect and RST", func(c *client) { _ = c.Conn.(*net.TCPConn).SetLinger(0) }, []server.Reason{server.PeerReset}},
	{"echo and FIN", func(c *client) { c.ask("hi"); _, _ = c.read() }, []server.Reason{server.PeerClosed}},
	{"echo and RST", func(c *client) { c.ask("hi"); _, _ = c.read(); _ = c.Conn.(*net.TCPConn).SetLinger(0) }, []server.Reason{server.PeerReset}},
	{"FIN with the echo unread", func(c *client) { c.ask("hi") }, []server.Reason{server.PeerClosed, server.PeerReset}},
	{"Goodbye", func(c *client) { _, _ = c.Write(frame(codec.Goodbye, nil)) }, []server.Reason{server.PeerGoodbye}},
	{"garbage", func(c *client) { _, _ = c.Write([]byte("\x99nonsense")); c.rest() }, []server.Reason{server.PeerProtocol}},
	{"too long", func(c *client) { _, _ = c.Write([]byte{1, 255, 255, 255}); c.rest() }, []server.Reason{server.PeerProtocol}},
	{"half a frame and FIN", func(c *client) { _, _ = c.Write([]byte{1, 0, 0, 9, 'x'}) }, []server.Reason{server.PeerClosed}},
	{"kicked", func(c *client) { c.ask("kick"); c.rest() }, []server.Reason{server.SessionReplaced}},
	{"app reason", func(c *client) { c.ask("app"); c.rest() }, []server.Reason{1007}},
	{"handler error", func(c *client) { c.ask("error"); c.rest() }, []server.Reason{server.HandlerFailed}},
	{"handler panic", func(c *client) { c.ask("panic"); c.rest() }, []server.Reason{server.HandlerFailed}},
	{"refused in OnOpen", func(c *client) { c.rest() }, []server.Reason{server.ServerClosed}},
}

// ask sends a message.
func (c *client) ask(s string) { _, _ = c.Write(frame(codec.Data, []byte(s))) }

// rest reads until a Goodbye or the end.
func (c *client) rest() {
	for {
		if f, err := c.read(); err != nil || f.Type == codec.Goodbye {
			return
		}
	}
}

// churn is a process that makes n connections, one after the other in 100 places, and ends each in a
// random way. The way is the first message, where it has one that the server sees; the process prints
// how many of each it did.
func churn(args []string) {
	n, _ := strconv.Atoi(args[1])
	seed, _ := strconv.ParseUint(args[2], 10, 64)
	const places = 100
	counts := make([][]int, places)
	var all sync.WaitGroup
	for p := range places {
		all.Add(1)
		counts[p] = make([]int, len(ways))
		go func() {
			defer all.Done()
			rnd := rand.New(rand.NewPCG(seed, uint64(p)))
			for range n / places {
				w := rnd.IntN(len(ways))
				// An address of its own for each place: ports are scarce once 100,000 have been used. And
				// the server refuses the net 127.0.2.
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(p+1))}}
				if ways[w].name == "refused in OnOpen" {
					d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(p+1))}
				}
				nc, err := d.Dial("tcp", args[0])
				if err != nil {
					fmt.Fprintln(os.Stderr, "churn:", err)
					os.Exit(1)
				}
				_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
				c := &client{nc, bufio.NewReaderSize(nc, 256)}
				ways[w].act(c)
				_ = c.Close()
				counts[p][w]++
			}
		}()
	}
	all.Wait()
	for w := range ways {
		sum := 0
		for p := range counts {
			sum += counts[p][w]
		}
		fmt.Println(w, sum)
	}
}

// TestChurn: after 100,000 connections of all kinds, opens equal closes, the reasons add up to the
// closes, and each reason was told as often as its cause was done.
func TestChurn(t *testing.T) {
	n := 100_000
	if testing.Short() || raceEnabled {
		n = 10_000
		t.Logf("%d connections instead of 100,000: -short or the race detector", n)
	}
	h := newRecorder()
	h.onOpen = func(s *server.Session) error {
		if s.RemoteAddr().Addr().As4()[2] == 2 {
			return server.ServerClosed
		}
		return nil
	}
	h.onMessage = func(s *server.Session, p []byte) error {
		switch string(p) {
		case "kick":
			return s.Close(server.SessionReplaced, "")
		case "app":
			return server.Reason(1007)
		case "error":
			return io.ErrUnexpectedEOF
		case "panic":
			panic("as asked")
		}
		return s.Send(p)
	}
	srv := start(t, h, server.Config{Loops: 2, Logger: slog.New(slog.DiscardHandler)})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	begun := time.Now()
	out, err := role(t, "churn", srv.Addr().String(), strconv.Itoa(n), strconv.FormatUint(seed, 10)).Output()
	require.NoError(t, err)
	eventually(t, 20*time.Second, func() bool { return srv.Stats().Conns == 0 }, "all closed")
	st := srv.Stats()
	t.Logf("%d connections in %v: %d opens, %d closes", n, time.Since(begun).Round(time.Millisecond), st.Opened, st.Closed)
	assert.Equal(t, uint64(n), st.Opened)
	assert.Equal(t, st.Opened, st.Closed)
	assert.Zero(t, st.AcceptErrors)
	sum := uint64(0)
	for _, k := range st.Reasons {
		sum += k
	}
	assert.Equal(t, st.Closed, sum, "the reasons add up")
	assert.Len(t, h.opens, n)
	assert.Len(t, h.closes, n)
	checkWays(t, out, st)
}

// checkWays compares what was done with what was told.
func checkWays(t *testing.T, out []byte, st server.Stats) {
	least, most := map[server.Reason]uint64{}, map[server.Reason]uint64{}
	for line := range strings.Lines(string(out)) {
		var w int
		var k uint64
		_, err := fmt.Sscan(line, &w, &k)
		require.NoError(t, err, "%q", line)
		for _, r := range ways[w].want {
			if len(ways[w].want) == 1 {
				least[r] += k
			}
			most[r] += k
		}
		t.Logf("%-26s %6d  %v", ways[w].name, k, ways[w].want)
	}
	for r, told := range st.Reasons {
		t.Logf("%-18v told %6d, true between %d and %d", r, told, least[r], most[r])
		assert.GreaterOrEqual(t, told, least[r], "%v", r)
		assert.LessOrEqual(t, told, most[r], "%v", r)
	}
}
