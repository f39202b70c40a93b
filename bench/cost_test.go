//go:build linux

package bench

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	costSessions = flag.Int("cost.sessions", 1000, "sessions of each of TestCost's servers")
	costWindows  = flag.Int("cost.windows", 2, "how often TestCost measures each of them")
	costWindow   = flag.Duration("cost.window", time.Second, "for how long each time")
)

// costConfigs are the servers that TestCost compares. What is off would act only after hours.
var costConfigs = []struct {
	name string
	cfg  server.Config
}{
	{"off", server.Config{
		Policy:       heartbeat.Policy{Interval: time.Hour, Timeout: 3 * time.Hour, Warning: -1},
		WriteTimeout: 24 * time.Hour,
	}},
	{"on, without the early warning", server.Config{Policy: heartbeat.Policy{Warning: -1}}},
	{"on", server.Config{}},
}

const (
	costOff = iota
	costNoWarning
	costOn
)

// costPeriod is how often each session is sent a message while it is streamed to, costMessage its
// length in bytes.
const (
	costPeriod  = 500 * time.Millisecond
	costMessage = 100
)

func init() {
	roles["cost-server"] = costServer
	roles["cost-clients"] = costClients
}

// TestCost measures what liveness costs: the CPU time of a server process (getrusage(2)) with it, without
// it, and without its early warning alone, while its sessions are idle, and while each is sent 100 bytes every
// half a second. The servers are all there at the same time, each with clients in a process of their own; idle
// ones are measured in the same windows, streaming ones in turn. On the loopback whoever sends a segment also does
// most of the kernel's work of receiving it.
//
//	go test ./bench -run TestCost -v -cost.sessions 10000 -cost.windows 9 -cost.window 3s
func TestCost(t *testing.T) {
	n := costAffordable(t, *costSessions)
	var all []*costPair
	for i := range costConfigs {
		all = append(all, startCostPair(t, i, n))
	}
	warmUp := 2 * heartbeat.DefaultInterval
	if n < 10000 {
		warmUp = 2 * time.Second
	}
	time.Sleep(warmUp)
	idle, streaming := make([][]float64, len(all)), make([][]float64, len(all))
	begun, before := time.Now(), all[costOn].pings()
	for range *costWindows {
		for i, share := range costMeasure(all, *costWindow) {
			idle[i] = append(idle[i], share)
		}
	}
	pings := float64(all[costOn].pings()-before) / time.Since(begun).Seconds()
	sent := make([]float64, len(all))
	for range *costWindows {
		for i, p := range all {
			p.ask("stream on")
			time.Sleep(costPeriod / 2)
			before := p.count()
			share := costMeasure(all[i:i+1], *costWindow)[0]
			streaming[i] = append(streaming[i], share)
			sent[i] += float64(p.count()-before) / costWindow.Seconds() / float64(*costWindows)
			p.ask("stream off")
		}
	}
	costReport(n, idle, streaming, pings)
	for i, p := range all {
		name := costConfigs[i].name
		assert.Equal(t, fmt.Sprintf("%d 0 0", n), p.ask("sessions"), "%s: live, closed and suspect sessions", name)
		pings := p.pings()
		assert.Equal(t, i != costOff, pings > 0, "%s: %d Pings", name, pings)
		rate := float64(n) / costPeriod.Seconds()
		assert.True(t, sent[i] > rate/2 && sent[i] < 1.3*rate, "%s: %.0f of %.0f messages a second", name, sent[i], rate)
	}
	// Far more than was ever measured, also with the race detector: no amount of noise comes near.
	assert.Less(t, costPerPing(idle, pings), time.Millisecond/2, "CPU time for a Ping and its Pong")
}

// costPerPing is the CPU time that liveness takes from a server with idle sessions, for each Ping.
func costPerPing(idle [][]float64, pings float64) time.Duration {
	return time.Duration(costMedian(costDifferences(idle, costOn, costOff)) / pings * float64(time.Second))
}

// costMeasure returns which share of a core each of the servers took in one window.
func costMeasure(of []*costPair, window time.Duration) []float64 {
	cpu, at := make([]time.Duration, len(of)), make([]time.Time, len(of))
	for i, p := range of {
		cpu[i], at[i] = p.cpu(), time.Now()
	}
	time.Sleep(window)
	shares := make([]float64, len(of))
	for i, p := range of {
		used := p.cpu() - cpu[i]
		shares[i] = used.Seconds() / time.Since(at[i]).Seconds()
	}
	return shares
}

// costReport prints the tables.
func costReport(n int, idle, streaming [][]float64, pings float64) {
	fmt.Printf("cost: %d sessions for each server, %d windows of %v; streaming: %d bytes to each session every %v (%.0f messages a second)\n",
		n, *costWindows, *costWindow, costMessage, costPeriod, float64(n)/costPeriod.Seconds())
	fmt.Printf("cost: with liveness on, idle: %.0f Pings a second at %v of CPU time each (when sessions have ceased to beat together, 10,000 are asked 3,200 times a second)\n\n",
		pings, costPerPing(idle, pings).Round(100*time.Nanosecond))
	fmt.Println("| sessions are | liveness | share of a core: median | least | most | of that without liveness |")
	fmt.Println("|---|---|--:|--:|--:|--:|")
	for _, m := range []struct {
		name   string
		shares [][]float64
	}{{"idle", idle}, {"streamed to", streaming}} {
		for i, c := range costConfigs {
			ratio := "-"
			if base := costMedian(m.shares[costOff]); base > 0.005 { // else it is a ratio to nothing
				ratio = fmt.Sprintf("%.2f x", costMedian(m.shares[i])/base)
			}
			fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", m.name, c.name, percent(costMedian(m.shares[i])),
				percent(slices.Min(m.shares[i])), percent(slices.Max(m.shares[i])), ratio)
		}
	}
	fmt.Printf("\n| what is added, for %d sessions | share of a core: median | least | most |\n|---|--:|--:|--:|\n", n)
	for _, m := range []struct {
		name    string
		shares  [][]float64
		on, off int
	}{
		{"liveness, idle", idle, costOn, costOff},
		{"liveness, streamed to", streaming, costOn, costOff},
		{"of it the early warning, idle", idle, costOn, costNoWarning},
		{"of it the early warning, streamed to", streaming, costOn, costNoWarning},
	} {
		diff := costDifferences(m.shares, m.on, m.off)
		fmt.Printf("| %s | %s | %s | %s |\n", m.name, percent(costMedian(diff)), percent(slices.Min(diff)), percent(slices.Max(diff)))
	}
	fmt.Println()
}

func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

// costDifferences is on less off, window by window.
func costDifferences(shares [][]float64, on, off int) []float64 {
	d := make([]float64, len(shares[on]))
	for i := range d {
		d[i] = shares[on][i] - shares[off][i]
	}
	return d
}

func costMedian(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// costAffordable is n, or fewer, and said so, where a process may not have that many descriptors.
func costAffordable(t *testing.T, n int) int {
	var lim syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim))
	if most := int(lim.Cur) - 200; n > most {
		fmt.Printf("cost: only %d of %d sessions: a process may have %d descriptors\n", most, n, lim.Cur)
		return most
	}
	return n
}

// costPair is a server process and its clients' process.
type costPair struct {
	t               *testing.T
	server, clients *costProcess
}

type costProcess struct {
	in  io.Writer
	out *bufio.Scanner
}

func startCostPair(t *testing.T, config, n int) *costPair {
	p := &costPair{t: t, server: startCostProcess(t, role(t, "cost-server", strconv.Itoa(config)))}
	p.clients = startCostProcess(t, role(t, "cost-clients", p.server.line(t), strconv.Itoa(n)))
	require.Equal(t, "ready", p.clients.line(t))
	return p
}

// startCostProcess starts a process that ends with the test.
func startCostProcess(t *testing.T, cmd *exec.Cmd) *costProcess {
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &costProcess{in, bufio.NewScanner(out)}
}

func (p *costProcess) line(t *testing.T) string {
	require.True(t, p.out.Scan(), "a process has ended: %v", p.out.Err())
	return p.out.Text()
}

// ask has the server do something, and returns its answer.
func (p *costPair) ask(what string) string {
	fmt.Fprintln(p.server.in, what)
	return p.server.line(p.t)
}

func (p *costPair) number(of *costProcess, what string) int64 {
	fmt.Fprintln(of.in, what)
	n, err := strconv.ParseInt(of.line(p.t), 10, 64)
	require.NoError(p.t, err)
	return n
}

func (p *costPair) cpu() time.Duration { return time.Duration(p.number(p.server, "cpu")) }
func (p *costPair) count() int64       { return p.number(p.clients, "messages") }
func (p *costPair) pings() int64       { return p.number(p.clients, "pings") }

// costServer is a server process with the given one of costConfigs. It says its address, and answers
// each line on its standard input with one line.
func costServer(args []string) {
	i, _ := strconv.Atoi(args[0])
	cfg := costConfigs[i].cfg
	cfg.Logger = slog.New(slog.DiscardHandler)
	h := &costHandler{}
	srv, err := server.New(h, cfg)
	if err != nil {
		panic(err)
	}
	ln, err := server.Listen("127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = srv.Serve(ln) }()
	fmt.Println(ln.Addr())
	h.stop = make(chan struct{})
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "cpu":
			var u syscall.Rusage
			if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
				panic(err)
			}
			fmt.Println(u.Utime.Nano() + u.Stime.Nano())
		case "sessions":
			st := srv.Stats()
			fmt.Println(st.Live, st.Closed, st.Suspected)
		case "stream on":
			go h.stream()
			fmt.Println("ok")
		case "stream off":
			h.stop <- struct{}{}
			fmt.Println("ok")
		}
	}
	_ = srv.Close()
}

type costHandler struct {
	server.Base
	stop chan struct{} // ends stream

	mu       sync.Mutex
	sessions []*server.Session
}

func (h *costHandler) OnOpen(s *server.Session) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions = append(h.sessions, s)
	return nil
}

// stream sends to a fiftieth of the sessions each fiftieth of costPeriod, until it is stopped.
func (h *costHandler) stream() {
	const parts = 50
	h.mu.Lock()
	all := h.sessions
	h.mu.Unlock()
	message := make([]byte, costMessage)
	next := time.NewTicker(costPeriod / parts)
	defer next.Stop()
	for part := 0; ; part = (part + 1) % parts {
		select {
		case <-next.C:
		case <-h.stop:
			return
		}
		for i := part; i < len(all); i += parts {
			_ = all[i].Send(message)
		}
	}
}

// costClients is a process of clients that answer Pings, and say nothing else. Asked for it, it says how
// many messages or Pings they have been sent.
func costClients(args []string) {
	n, _ := strconv.Atoi(args[1])
	var messages, pings atomic.Int64
	for range n {
		nc, err := net.Dial("tcp", args[0])
		if err != nil {
			panic(err)
		}
		_, _ = nc.Write(frame(codec.Ping, nil)) // ready at once
		go func() {
			for r := bufio.NewReaderSize(nc, 256); ; {
				f, err := readFrame(r)
				switch {
				case err != nil:
					return
				case f.Type == codec.Data:
					messages.Add(1)
				case f.Type == codec.Ping:
					pings.Add(1)
					_, _ = nc.Write(frame(codec.Pong, f.Payload))
				}
			}
		}()
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "pings" {
			fmt.Println(pings.Load())
		} else {
			fmt.Println(messages.Load())
		}
	}
}
