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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/codec"
)

func init() { roles["honest"] = honestRole }

// honest is what a process of honest clients has measured: the round trips of the messages that it has sent
// to an echo server, evenly.
type honest struct {
	Latency load.Histogram
	Lost    int      // messages that have not come back, in order, a second after the last was sent
	Gone    []string // connections that have ended, and why
}

// p99 is of the round trips.
func (h honest) p99() time.Duration { return h.Latency.Quantile(0.99) }

// honestClient is one of them.
type honestClient struct {
	net.Conn
	sent   uint64
	echoed atomic.Uint64
}

// honestRole is a process of so many clients, each of which sends 16 bytes every so often, evenly among them,
// and answers Pings. A line on its standard input, a duration, has it tell what came back of what it sent in that time.
func honestRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	every, err := time.ParseDuration(args[2])
	fatal(err)
	var mu sync.Mutex
	found, counting := honest{}, false
	over := func(why error) {
		mu.Lock()
		defer mu.Unlock()
		found.Gone = append(found.Gone, why.Error())
	}
	pause, err := time.ParseDuration(args[3])
	fatal(err)
	all := make([]*honestClient, n)
	for i := range all {
		time.Sleep(pause)
		nc, err := net.Dial("tcp", args[0])
		fatal(err)
		c := &honestClient{Conn: nc}
		all[i] = c
		go func() {
			r := bufio.NewReaderSize(c, 256)
			for {
				f, err := readFrame(r)
				if err == nil && f.Type == codec.Ping {
					_, err = c.Write(frame(codec.Pong, f.Payload))
				} else if err == nil && f.Type == codec.Goodbye {
					code, text, _ := codec.ParseGoodbye(f.Payload)
					err = fmt.Errorf("goodbye %d: %s", code, text)
				} else if err == nil {
					if number := binary.BigEndian.Uint64(f.Payload); number != c.echoed.Load()+1 {
						err = fmt.Errorf("message %d came back, not %d", number, c.echoed.Load()+1)
					}
					c.echoed.Add(1)
					took := time.Since(sheepEpoch) - time.Duration(binary.BigEndian.Uint64(f.Payload[8:]))
					mu.Lock()
					if counting {
						found.Latency.Add(took)
					}
					mu.Unlock()
				}
				if err != nil {
					over(err)
					return
				}
			}
		}()
	}
	fmt.Println(`"ready"`)
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		d, err := time.ParseDuration(in.Text())
		fatal(err)
		mu.Lock()
		found, counting = honest{}, true
		mu.Unlock()
		b := make([]byte, 0, 32)
		begun := time.Now()
		for i := 0; time.Since(begun) < d; i++ {
			if due := time.Duration(i) * every / time.Duration(n); time.Since(begun) < due {
				time.Sleep(due - time.Since(begun))
			}
			c := all[i%n]
			c.sent++
			b = binary.BigEndian.AppendUint64(b[:0], c.sent)
			b = binary.BigEndian.AppendUint64(b, uint64(time.Since(sheepEpoch)))
			_, _ = c.Write(frame(codec.Data, b)) // if it fails, the reader says why
		}
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			found.Lost = 0
			for _, c := range all {
				found.Lost += int(c.sent - c.echoed.Load())
			}
			if found.Lost == 0 {
				break
			}
		}
		mu.Lock()
		counting = false
		fatal(out.Encode(found))
		mu.Unlock()
	}
}

// startHonest starts a process of n honest clients that each send a message every so often. They come at
// so many a second; 0: as fast as they can.
func startHonest(t testing.TB, addr string, n int, every time.Duration, rate int) *child {
	t.Helper()
	pause := time.Duration(0)
	if rate > 0 {
		pause = time.Second / time.Duration(rate)
	}
	return spawn(t, role(t, "honest", addr, strconv.Itoa(n), every.String(), pause.String()), nil)
}

// measure has honest clients talk for d. None may have lost anything.
func (c *child) measure(t testing.TB, d time.Duration) (h honest) {
	t.Helper()
	c.ask(t, d.String(), &h)
	require.Empty(t, h.Gone, "honest clients are gone")
	require.Zero(t, h.Lost, "messages of honest clients are lost")
	require.NotZero(t, h.Latency.N())
	return h
}

// compareHonest has honest clients talk without and with an attack, in turn, and prints both p99.
// The last is the ratio of the medians.
func compareHonest(t testing.TB, c *child, what string, rounds int, d time.Duration, on, off func()) float64 {
	t.Helper()
	var without, with []time.Duration
	var both [2]load.Histogram
	c.measure(t, d/4) // warms everybody up
	for range rounds {
		h := c.measure(t, d)
		both[0].Merge(h.Latency)
		without = append(without, h.p99())
		on()
		h = c.measure(t, d)
		off()
		both[1].Merge(h.Latency)
		with = append(with, h.p99())
	}
	a, b := medianOf(without), medianOf(with)
	for i, name := range []string{"without " + what, "with " + what} {
		h, p99 := both[i], [][]time.Duration{without, with}[i]
		t.Logf("%-28s %7d round trips: p50 %8v, p99 %8v (median of %s), p99.9 %8v, max %8v",
			name, h.N(), inMicros(h.Quantile(0.5)), inMicros(medianOf(p99)), listed(p99), inMicros(h.Quantile(0.999)), inMicros(h.Max))
	}
	t.Logf("p99 of the honest with %s is %.2f of that without", what, float64(b)/float64(a))
	return float64(b) / float64(a)
}

func inMicros(d time.Duration) time.Duration { return d.Round(time.Microsecond) }

func listed(all []time.Duration) string {
	var words []string
	for _, d := range all {
		words = append(words, inMicros(d).String())
	}
	return strings.Join(words, ", ")
}

func medianOf(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
