//go:build linux

package bench

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

func init() { roles["soak-honest"] = soakHonestRole }

// honestNet is the third byte of their addresses.
const honestNet = 9

// honestEvery is how often each of them says something.
const honestEvery = 100 * time.Millisecond

// honestReport is what became of them.
type honestReport struct {
	Sessions      int
	Sent, Echoed  uint64
	Wrong         map[string]int // what must not be
	P50, P99, Max time.Duration  // from sending a message to its echo
	Held          time.Duration  // the longest that the machine kept the process from running
}

// An honest client sends numbered messages, each with the time, and takes their echoes, of which none may be
// missing and all must be in order. It answers Pings.
type honestOne struct {
	nc           net.Conn
	out          sync.Mutex
	sent, echoed atomic.Uint64
	late         []uint32 // of every 2^n-th echo, in microseconds
	every        uint64
	worst        time.Duration
}

// soakHonestRole is a process of so many of them. It says "ready", and upon a line of input a report; before that one
// every message has come back, or 20 s have passed.
func soakHonestRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	held := watchLongest()
	r := honestReport{Sessions: n, Wrong: map[string]int{}}
	var mu sync.Mutex
	var leaving, quiet atomic.Bool
	wrong := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if !leaving.Load() {
			r.Wrong[fmt.Sprintf(format, args...)]++
		}
	}
	clients := make([]*honestOne, n)
	for i := range clients {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, honestNet, byte(1+i%250))}, KeepAlive: -1}
		nc, err := d.Dial("tcp", args[0])
		fatal(err)
		clients[i] = &honestOne{nc: nc, every: 1}
		go clients[i].listen(wrong)
		go clients[i].talk(time.Duration(i)*honestEvery/time.Duration(n), &quiet, wrong)
	}
	fmt.Println(`"ready"`)
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	quiet.Store(true)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if !slices.ContainsFunc(clients, func(c *honestOne) bool {
			c.out.Lock() // nobody is about to send
			defer c.out.Unlock()
			return c.sent.Load() != c.echoed.Load()
		}) {
			break
		}
	}
	var late []uint32
	mu.Lock()
	for _, c := range clients {
		r.Sent += c.sent.Load()
		r.Echoed += c.echoed.Load()
		c.out.Lock()
		late = append(late, c.late...)
		r.Max = max(r.Max, c.worst)
		c.out.Unlock()
	}
	if slices.Sort(late); len(late) > 0 {
		at := func(q float64) time.Duration {
			return time.Duration(late[int(q*float64(len(late)-1))]) * time.Microsecond
		}
		r.P50, r.P99 = at(0.5), at(0.99)
	}
	r.Held = time.Duration(held.Load())
	b, err := json.Marshal(r)
	mu.Unlock()
	fatal(err)
	fmt.Println(string(b))
	in.Scan() // the end of its input
	leaving.Store(true)
	for _, c := range clients {
		c.nc.Close()
	}
}

// watchLongest measures the longest time for which the machine keeps this process from running.
func watchLongest() *atomic.Int64 {
	var longest atomic.Int64
	go func() {
		for before := time.Now(); ; before = time.Now() {
			time.Sleep(doze)
			longest.Store(max(longest.Load(), int64(time.Since(before)-doze)))
		}
	}()
	return &longest
}

func (c *honestOne) write(b []byte) error {
	_, err := c.nc.Write(b)
	return err
}

// talk sends a message now and then.
func (c *honestOne) talk(after time.Duration, quiet *atomic.Bool, wrong func(string, ...any)) {
	time.Sleep(after)
	tick := time.NewTicker(honestEvery)
	defer tick.Stop()
	for ; ; <-tick.C {
		c.out.Lock()
		if quiet.Load() {
			c.out.Unlock()
			return
		}
		p := binary.BigEndian.AppendUint64(nil, c.sent.Add(1))
		p = binary.BigEndian.AppendUint64(p, uint64(time.Now().UnixNano()))
		err := c.write(frame(codec.Data, p))
		c.out.Unlock()
		if err != nil {
			wrong("a write: %v", err)
			return
		}
	}
}

// listen takes what comes.
func (c *honestOne) listen(wrong func(string, ...any)) {
	in := bufio.NewReader(c.nc)
	for {
		f, err := readFrame(in)
		if err != nil {
			wrong("a read: %v", err)
			return
		}
		switch f.Type {
		case codec.Ping:
			c.out.Lock()
			err = c.write(frame(codec.Pong, f.Payload))
			c.out.Unlock()
			if err != nil {
				wrong("a Pong: %v", err)
				return
			}
		case codec.Data:
			c.take(f.Payload, wrong)
		default:
			code, text, _ := codec.ParseGoodbye(f.Payload)
			wrong("a %v frame: %d %q", f.Type, code, text)
		}
	}
}

// take notes an echo. A latency is kept of each of the first thousands, and then of ever fewer.
func (c *honestOne) take(p []byte, wrong func(string, ...any)) {
	const keep = 1 << 12
	n := c.echoed.Add(1)
	if len(p) != 16 || binary.BigEndian.Uint64(p) != n {
		wrong("a message that is not the next echo")
		return
	}
	late := time.Duration(time.Now().UnixNano() - int64(binary.BigEndian.Uint64(p[8:])))
	c.out.Lock()
	defer c.out.Unlock()
	c.worst = max(c.worst, late)
	if n%c.every == 0 {
		c.late = append(c.late, uint32(late/time.Microsecond))
		if len(c.late) == keep {
			for i := range keep / 2 {
				c.late[i] = c.late[2*i]
			}
			c.late, c.every = c.late[:keep/2], 2*c.every
		}
	}
}
