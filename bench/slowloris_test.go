//go:build linux

package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
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
	slowlorisWindow  = flag.Duration("slowloris.window", 600*time.Millisecond, "for how long each time; less than slowloris.timeout, so that they are all there")
	slowlorisTick    = flag.Duration("slowloris.tick", 100*time.Millisecond, "Config.Tick of its server")
	slowlorisPause   = flag.Duration("slowloris.pause", 3*time.Second, "from one byte to the next, or three tenths of slowloris.timeout if that is shorter")
	slowlorisTimeout = flag.Duration("slowloris.timeout", time.Second, "HandshakeTimeout and FrameTimeout of TestSlowloris's server")
)

func init() { roles["slowloris"] = slowlorisRole }

// slowlorisDone is what a process of slowloris clients has met.
type slowlorisDone struct {
	Opened int         // connections, in all
	Told   map[int]int // those that the server has ended, by the code of its Goodbye; 0: there was none
	Failed int         // connects that failed
}

// slowlorisRole is a process that opens so many connections, on each of which it sends a byte of a frame every so
// often; one in ten says nothing at all. "once" begins, and is answered when all are there; those that the server
// ends stay away, and "off" waits for that. After "again" they come again, and to begin with they are spread over the time for which
// the server bears them; "off" resets them. It tells what became of all.
func slowlorisRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	every, err := time.ParseDuration(args[2])
	fatal(err)
	over, err := time.ParseDuration(args[3])
	fatal(err)
	fmt.Println(`"ready"`)
	out := json.NewEncoder(os.Stdout)
	var l *slowloris
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() != "off" {
			l = &slowloris{addr: args[0], every: every, again: in.Text() == "again", quit: make(chan struct{}), conns: map[net.Conn]bool{}, done: slowlorisDone{Told: map[int]int{}}}
			var there sync.WaitGroup
			there.Add(n)
			for i := range n {
				l.all.Go(func() {
					spread := every
					if l.again {
						spread = over
					}
					time.Sleep(spread * time.Duration(i) / time.Duration(n))
					l.place(i, there.Done)
				})
			}
			there.Wait()
			fatal(out.Encode("there"))
		} else {
			if l.again {
				l.leave()
			}
			l.all.Wait()
			fatal(out.Encode(l.done))
		}
	}
}

type slowloris struct {
	addr  string
	every time.Duration
	again bool
	quit  chan struct{}
	all   sync.WaitGroup

	mu    sync.Mutex
	done  slowlorisDone
	conns map[net.Conn]bool // nil: no more
}

// leave resets all.
func (l *slowloris) leave() {
	close(l.quit)
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

// enter notes that c is there, unless it is too late.
func (l *slowloris) enter(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns != nil {
		l.conns[c] = true
	}
	return l.conns != nil
}

// slowlorisDials bounds the connections that are being made at a time.
var slowlorisDials = make(chan struct{}, 32)

// place keeps one connection open until quit, or until the server ends it. there is called when it first is.
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
		if !l.again {
			return
		}
	}
}

// trickle does the harm on one connection, until the server has ended it or it is time to quit.
func (l *slowloris) trickle(c *net.TCPConn, i int) (code int, ended bool) {
	defer c.Close()
	_ = c.SetLinger(0)
	if !l.enter(c) {
		return 0, false
	}
	long := frame(codec.Data, make([]byte, 60000))
	var heard []byte
	buf := make([]byte, 256)
	for at := 0; ; at++ {
		if i%10 != 9 {
			_, _ = c.Write(long[at : at+1]) // if it fails, the read says why
		}
		_ = c.SetReadDeadline(time.Now().Add(l.every))
		for {
			n, err := c.Read(buf)
			heard = append(heard, buf[:n]...)
			if os.IsTimeout(err) {
				break
			}
			if err != nil {
				l.mu.Lock()
				delete(l.conns, c)
				l.mu.Unlock()
				return goodbyeIn(heard), !errors.Is(err, net.ErrClosed)
			}
		}
	}
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

// TestSlowloris has thousands of connections that send a byte every so often next to honest ones, and measures
// the round trips of these without and with them in turn. They end as peer_stalled_frame or peer_unready, in time. Then
// the same with some that come again whenever they are ended: that costs the machine, both ends of it being here, as many connects.
//
//	go test ./bench -run TestSlowloris -v -slowloris.conns 5000 -slowloris.honest 1000 -slowloris.rounds 4 -slowloris.window 6s -slowloris.timeout 10s
func TestSlowloris(t *testing.T) {
	const every = 100 * time.Millisecond
	tick := *slowlorisTick
	pause := min(*slowlorisTimeout*3/10, *slowlorisPause)
	h := &slowlorisSeen{timeout: *slowlorisTimeout, others: map[string]int{}}
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	srv := serveOn(t, h, server.Config{Loops: 1, Tick: tick, HandshakeTimeout: *slowlorisTimeout, FrameTimeout: *slowlorisTimeout}, ln)
	addr := ln.Addr().String()
	honest := startHonest(t, addr, *slowlorisHonest, every, 0)
	hostile := spawn(t, role(t, "slowloris", addr, strconv.Itoa(*slowlorisConns), pause.String(), slowlorisTimeout.String()), nil)
	held := watchHeldUp()
	defer held.stop()
	opened, told, failed := 0, map[int]int{}, 0
	off := func() {
		var d slowlorisDone
		hostile.ask(t, "off", &d)
		opened, failed = opened+d.Opened, failed+d.Failed
		for code, n := range d.Told {
			told[code] += n
		}
		eventually(t, 20*time.Second, func() bool { return srv.Stats().Conns == *slowlorisHonest }, "they are gone")
	}
	ratio := compareHonest(t, honest, "slowloris", *slowlorisRounds, *slowlorisWindow, func() {
		begun := time.Now()
		hostile.ask(t, "once", nil)
		t.Logf("%d connections in %v, a byte every %v; one in ten says nothing", *slowlorisConns, time.Since(begun).Round(time.Millisecond), pause)
	}, func() {
		eventually(t, 2**slowlorisTimeout+20*time.Second, func() bool { return srv.Stats().Conns == *slowlorisHonest }, "all are ended")
		off()
	})
	assert.Equal(t, *slowlorisRounds**slowlorisConns, told[int(server.PeerStalledFrame)]+told[int(server.PeerUnready)], "each is told: %v", told)
	compareHonest(t, honest, "those who come again", 1, *slowlorisWindow, func() { hostile.ask(t, "again", nil) }, off)

	h.mu.Lock()
	defer h.mu.Unlock()
	t.Logf("%d connections opened; ended by the server: %d, of whom told: %d %v, %d %v, nothing: %d", opened,
		len(h.late), told[int(server.PeerStalledFrame)], server.PeerStalledFrame, told[int(server.PeerUnready)], server.PeerUnready, told[0])
	t.Logf("late against %v: %s (this process was held up for %v)", *slowlorisTimeout, spread(h.late), held.total().Round(time.Millisecond))
	assert.Empty(t, h.others, "nobody else ends")
	assert.Equal(t, 0, failed, "connects that failed")
	assert.Positive(t, told[int(server.PeerStalledFrame)])
	assert.Positive(t, told[int(server.PeerUnready)])
	// Whose byte is in the kernel at the very moment of the deadline is taken to have been kept waiting by the server, and is
	// given the timeout once more at most. That is very few.
	limit := 2*tick + sockstat.Jiffy() + held.total() + time.Duration(*slowlorisConns)*evictionCost
	slices.Sort(h.late)
	assert.GreaterOrEqual(t, h.late[0], time.Duration(0), "told early")
	assert.LessOrEqual(t, h.late[len(h.late)*99/100], limit, "late")
	assert.LessOrEqual(t, h.late[len(h.late)-1], limit+*slowlorisTimeout, "late, and excused")
	if *slowlorisConns >= 5000 && *slowlorisRounds >= 3 {
		assert.LessOrEqual(t, ratio, 2.0, "p99 of the honest")
	}
}
