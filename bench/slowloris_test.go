//go:build linux

package bench

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
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
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	slowlorisConns   = flag.Int("slowloris.conns", 500, "hostile connections in TestSlowloris")
	slowlorisHonest  = flag.Int("slowloris.honest", 100, "honest ones next to them")
	slowlorisRounds  = flag.Int("slowloris.rounds", 1, "how often TestSlowloris measures without and with them")
	slowlorisWindow  = flag.Duration("slowloris.window", 1500*time.Millisecond, "for how long each time")
	slowlorisTimeout = flag.Duration("slowloris.timeout", time.Second, "HandshakeTimeout and FrameTimeout of TestSlowloris's server")
)

func init() { roles["slowloris"] = slowlorisRole }

// slowlorisDone is what a process of slowloris clients has met.
type slowlorisDone struct {
	Opened int         // connections, in all
	Told   map[int]int // those that the server has ended, by the code of its Goodbye; 0: there was none
	Failed int         // connects that failed
}

// slowlorisRole is a process that keeps so many connections open, on each of which it sends a byte of a frame every so
// often; one in ten says nothing at all. When one is ended another takes its place. "on" begins and is answered when
// all are there, "off" resets them all and tells what became of them.
func slowlorisRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	every, err := time.ParseDuration(args[2])
	fatal(err)
	fmt.Println(`"ready"`)
	out := json.NewEncoder(os.Stdout)
	var l *slowloris
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "on" {
			l = &slowloris{addr: args[0], every: every, quit: make(chan struct{}), done: slowlorisDone{Told: map[int]int{}}}
			var there sync.WaitGroup
			there.Add(n)
			for i := range n {
				l.all.Go(func() { l.place(i, there.Done) })
			}
			there.Wait()
			fatal(out.Encode("on"))
		} else {
			close(l.quit)
			l.all.Wait()
			fatal(out.Encode(l.done))
		}
	}
}

type slowloris struct {
	addr  string
	every time.Duration
	quit  chan struct{}
	all   sync.WaitGroup

	mu   sync.Mutex
	done slowlorisDone
}

// slowlorisDials bounds the connections that are being made at a time.
var slowlorisDials = make(chan struct{}, 32)

// place keeps one connection open until quit. there is called when it first is.
func (l *slowloris) place(i int, there func()) {
	there = sync.OnceFunc(there)
	defer there()
	for {
		select {
		case <-l.quit:
			return
		case slowlorisDials <- struct{}{}:
		}
		nc, err := net.DialTimeout("tcp", l.addr, 10*time.Second)
		<-slowlorisDials
		l.mu.Lock()
		l.done.Opened++
		if err != nil {
			l.done.Failed++
		}
		l.mu.Unlock()
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		there()
		code, ended := l.trickle(nc.(*net.TCPConn), i)
		if !ended {
			return
		}
		l.mu.Lock()
		l.done.Told[code]++
		l.mu.Unlock()
	}
}

// trickle does the harm on one connection, until the server has ended it or it is time to quit.
func (l *slowloris) trickle(c *net.TCPConn, i int) (code int, ended bool) {
	defer c.Close()
	_ = c.SetLinger(0)
	long := frame(codec.Data, make([]byte, 60000))
	var heard []byte
	buf := make([]byte, 256)
	for at := 0; ; at++ {
		if i%10 != 9 {
			_, _ = c.Write(long[at : at+1]) // if it fails, the read says why
		}
		for next := time.Now().Add(l.every); time.Now().Before(next); {
			_ = c.SetReadDeadline(earlier(next, time.Now().Add(100*time.Millisecond)))
			n, err := c.Read(buf)
			heard = append(heard, buf[:n]...)
			select {
			case <-l.quit:
				return 0, false
			default:
			}
			if err != nil && !os.IsTimeout(err) {
				return goodbyeIn(heard), true
			}
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// goodbyeIn returns the code of the Goodbye among frames; 0: there is none.
func goodbyeIn(b []byte) int {
	for {
		f, n, err := codec.Binary{}.Decode(b)
		if err != nil || n == 0 {
			return 0
		}
		if f.Type == codec.Goodbye {
			code, _, _ := codec.ParseGoodbye(f.Payload)
			return int(code)
		}
		b = b[n:]
	}
}

// slowlorisSeen is a Handler that echoes, and writes down how the sessions ended.
type slowlorisSeen struct {
	server.Base
	timeout time.Duration

	mu     sync.Mutex
	late   []time.Duration // of the stalled and the unready, against the timeout
	others map[string]int
}

func (*slowlorisSeen) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

func (h *slowlorisSeen) OnClose(_ *server.Session, end *server.CloseError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch end.Reason {
	case server.PeerStalledFrame, server.PeerUnready:
		words := strings.Fields(end.Detail) // "... is unfinished after 1.02s", "no complete frame within 1.02s"
		took, err := time.ParseDuration(words[len(words)-1])
		if err != nil {
			h.others[end.Error()]++
		}
		h.late = append(h.late, took-h.timeout)
	case server.PeerReset, server.ServerShutdown: // they quit; the end of the test
	default:
		h.others[end.Error()]++
	}
}

// TestSlowloris keeps thousands of connections open that send a byte every so often next to honest ones, and measures
// the round trips of these without and with them in turn. They end as peer_stalled_frame or peer_unready, in time.
//
//	go test ./bench -run TestSlowloris -v -slowloris.conns 5000 -slowloris.honest 1000 -slowloris.rounds 5 -slowloris.window 12s -slowloris.timeout 10s
func TestSlowloris(t *testing.T) {
	const tick, every = 100 * time.Millisecond, 100 * time.Millisecond
	pause := min(*slowlorisTimeout*3/10, 3*time.Second)
	h := &slowlorisSeen{timeout: *slowlorisTimeout, others: map[string]int{}}
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	srv := serveOn(t, h, server.Config{Loops: 1, Tick: tick, HandshakeTimeout: *slowlorisTimeout, FrameTimeout: *slowlorisTimeout}, ln)
	addr := ln.Addr().String()
	honest := startHonest(t, addr, *slowlorisHonest, every)
	hostile := spawn(t, role(t, "slowloris", addr, strconv.Itoa(*slowlorisConns), pause.String()), nil)
	held := watchHeldUp()
	defer held.stop()
	opened, told, failed, present := 0, map[int]int{}, 0, 0
	ratio := compareHonest(t, honest, "slowloris", *slowlorisRounds, *slowlorisWindow, func() {
		hostile.ask(t, "on", nil)
		present = max(present, srv.Stats().Live-*slowlorisHonest)
	}, func() {
		var d slowlorisDone
		hostile.ask(t, "off", &d)
		opened, failed = opened+d.Opened, failed+d.Failed
		for code, n := range d.Told {
			told[code] += n
		}
		eventually(t, 20*time.Second, func() bool { return srv.Stats().Conns == *slowlorisHonest }, "they are gone")
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	t.Logf("%d connections opened, %d at a time, a byte every %v, one in ten says nothing; %d connects failed", opened, present, pause, failed)
	t.Logf("ended by the server: %d, of whom told: %d %v, %d %v, nothing: %d; late against %v: %s (this process was held up for %v)",
		len(h.late), told[int(server.PeerStalledFrame)], server.PeerStalledFrame, told[int(server.PeerUnready)], server.PeerUnready, told[0],
		*slowlorisTimeout, spread(h.late), held.total().Round(time.Millisecond))
	assert.Empty(t, h.others, "nobody else ends")
	assert.Equal(t, 0, failed, "connects that failed")
	assert.Positive(t, told[int(server.PeerStalledFrame)])
	assert.Positive(t, told[int(server.PeerUnready)])
	assert.Len(t, told, 2, "all are told: %v", told)
	for _, late := range h.late {
		// A quarter of the deadline is given to answer in, if the question was late.
		limit := 2*tick + sockstat.Jiffy() + held.total() + time.Duration(*slowlorisConns)*evictionCost
		if late < 0 || late > limit {
			assert.Fail(t, "not in time", "%v late, at most %v", late, limit)
			break
		}
	}
	if *slowlorisConns >= 5000 && *slowlorisRounds >= 3 {
		assert.LessOrEqual(t, ratio, 2.0, "p99 of the honest")
	}
}
