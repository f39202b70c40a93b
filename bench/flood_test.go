//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	floodConns  = flag.Int("flood.conns", 10, "flooding connections in TestFlood")
	floodHonest = flag.Int("flood.honest", 100, "honest ones next to them")
	floodRounds = flag.Int("flood.rounds", 1, "how often TestFlood measures without and with them")
	floodWindow = flag.Duration("flood.window", time.Second, "for how long each time")
)

func init() { roles["flood"] = floodRole }

// floodKinds are what the flooders send, in turn.
var floodKinds = [][]byte{
	frame(codec.Data, []byte("12345678")),
	frame(codec.Ping, []byte("12345678")),
	frame(codec.Pong, []byte("12345678")),
	frame(codec.Data, nil),
	frame(codec.Data, make([]byte, 32<<10)),
}

// floodRole is a process that floods, on so many connections at a time, as fast as the server takes it; when one is
// ended another takes its place. "on" begins, "off" ends it and tells how many were ended by which code.
func floodRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	fmt.Println(`"ready"`)
	out := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	var quit chan struct{}
	var all sync.WaitGroup
	told := map[int]int{}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "on" {
			quit, told = make(chan struct{}), map[int]int{}
			for i := range n {
				all.Go(func() {
					for {
						select {
						case <-quit:
							return
						default:
						}
						code := floodOnce(args[0], floodKinds[i%len(floodKinds)])
						mu.Lock()
						told[code]++
						mu.Unlock()
					}
				})
			}
			fatal(out.Encode("on"))
		} else {
			close(quit)
			all.Wait()
			fatal(out.Encode(told))
		}
	}
}

// floodOnce floods until the server ends it, and returns the code that it was told; 0: none.
func floodOnce(addr string, f []byte) int {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	fatal(err)
	defer nc.Close()
	_ = nc.(*net.TCPConn).SetLinger(0)
	heard := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(nc, 1<<20))
		heard <- b
	}()
	much := bytes.Repeat(f, 1+65535/len(f))
	for err == nil {
		_, err = nc.Write(much)
	}
	return goodbyeIn(<-heard)
}

// flooded is a Handler that echoes, and writes down what floods have cost.
type flooded struct {
	server.Base
	mu     sync.Mutex
	floods int
	in     uint64 // bytes that came on those sessions
	frames uint64 // frames that came on those sessions
	others map[string]int
	one    string // what one was told
}

func (*flooded) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

func (h *flooded) OnClose(_ *server.Session, end *server.CloseError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch end.Reason {
	case server.PeerFlood:
		h.floods++
		h.in += end.Record.BytesIn
		h.frames += end.Record.FramesIn
		h.one = end.Detail
	case server.ServerShutdown:
	default:
		h.others[end.Error()]++
	}
}

// TestFlood has clients send all kinds of frames as fast as they can to a server that limits them, connecting anew each time they
// are ended: they are told peer_flood. Honest ones next to them talk on; their round trips are printed without and with the flood. The
// limit costs a flooder its connection, not the machine its time: the connects of those who come again are the load, which
// AcceptRate bounds.
//
//	go test ./bench -run TestFlood -v -flood.conns 50 -flood.honest 1000 -flood.rounds 5 -flood.window 4s
func TestFlood(t *testing.T) {
	for _, accepts := range []int{0, 100} {
		t.Run(fmt.Sprint("AcceptRate ", accepts), func(t *testing.T) { floodsEnd(t, accepts) })
	}
}

func floodsEnd(t *testing.T, accepts int) {
	begun := time.Now()
	h := &flooded{others: map[string]int{}}
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	rate := server.Rate{Messages: 100, MessageBurst: 200, Bytes: 256 << 10, ByteBurst: 256 << 10}
	srv := serveOn(t, h, server.Config{Loops: 1, Rate: rate, AcceptRate: accepts}, ln)
	addr := ln.Addr().String()
	honest := startHonest(t, addr, *floodHonest, 100*time.Millisecond, accepts)
	hostile := spawn(t, role(t, "flood", addr, strconv.Itoa(*floodConns)), nil)
	told, during := map[int]int{}, time.Duration(0)
	compareHonest(t, honest, "a flood", *floodRounds, *floodWindow, func() {
		hostile.ask(t, "on", nil)
		during -= time.Since(sheepEpoch)
	}, func() {
		var some map[int]int
		hostile.ask(t, "off", &some)
		during += time.Since(sheepEpoch)
		for code, n := range some {
			told[code] += n
		}
		eventually(t, 20*time.Second, func() bool { return srv.Stats().Conns == *floodHonest }, "they are gone")
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Positive(t, h.floods)
	st := srv.Stats()
	t.Logf("%d floods in %v, %d at a time, ended as %v; %d of them read so in a Goodbye; %d were refused; %d met only an RST",
		h.floods, during.Round(time.Millisecond), *floodConns, server.PeerFlood, told[int(server.PeerFlood)], st.Refused, told[0])
	t.Logf("a flood got %d bytes and %d frames in before it was ended; one was told %q", h.in/uint64(h.floods), h.frames/uint64(h.floods), h.one)
	assert.Empty(t, h.others, "nobody else ends")
	assert.Equal(t, h.floods+int(st.Refused), told[int(server.PeerFlood)]+told[int(server.ServerFull)]+told[0], "the server's count and the clients'")
	assert.Greater(t, told[int(server.PeerFlood)], h.floods/2, "most are told")
	assert.Len(t, st.Reasons, 1)
	assert.Equal(t, st.Refused, st.RefusedRate)
	if accepts > 0 {
		assert.LessOrEqual(t, h.floods, accepts*(2+int(time.Since(begun).Seconds())), "no more come than AcceptRate lets in")
	}
}
