//go:build linux

package bench

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	slowPeers   = flag.Int("slow.peers", 100, "peers that never read in TestSlowPeers")
	slowHonest  = flag.Int("slow.honest", 20, "peers next to them that do")
	slowBacklog = flag.Int("slow.backlog", 256<<10, "Config.BacklogMax of TestSlowPeers")
)

func init() {
	roles["streamer"] = streamerRole
	roles["streamed"] = streamedRole
}

// streamSize is the length of a streamed message, streamEvery how often each peer is sent one.
const (
	streamSize  = 4 << 10
	streamEvery = 20 * time.Millisecond
)

// streamSpec is what a process is told that streams to all who come.
type streamSpec struct {
	BacklogMax   int
	WriteTimeout time.Duration
	Heed         bool // it sends nothing to a peer above the high mark
}

// streamStats are its figures.
type streamStats struct {
	Live       int
	Reasons    map[string]uint64
	Sent       uint64 // messages to those who are served
	Heap       uint64 // bytes of heap objects, garbage that is not swept included
	RSS        uint64
	Kernel     uint64 // bytes that TCP holds, of the whole machine: /proc/net/sockstat
	Worst      []streamMemory
	HighTold   int64
	FirstAfter time.Duration // from the first message to the first end
	LastAfter  time.Duration // and to the last
}

type streamMemory struct {
	Heap, RSS, Kernel uint64
}

// streamer is the Handler of such a process.
type streamer struct {
	server.Base
	heed  bool
	told  atomic.Int64
	begun atomic.Int64 // when streaming began, since sheepEpoch

	mu          sync.Mutex
	first, last time.Duration
}

func (h *streamer) OnMessage(*server.Session, []byte) error { return nil }

func (h *streamer) OnClose(_ *server.Session, end *server.CloseError) {
	if end.Reason == server.ServerShutdown {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = time.Since(sheepEpoch) - time.Duration(h.begun.Load())
	if h.first == 0 {
		h.first = h.last
	}
}

// heeding is a streamer that is told of the marks.
type heeding struct{ *streamer }

func (h heeding) OnBacklogHigh(s *server.Session) { h.told.Add(1); s.SetValue(true) }
func (h heeding) OnBacklogLow(s *server.Session)  { s.SetValue(false) }

// streamerRole is that process. It says its address, and then answers: "go" and "stop", to stream and not to; "gc";
// and "stats" with its figures.
func streamerRole(args []string) {
	var spec streamSpec
	fatal(json.Unmarshal([]byte(args[0]), &spec))
	st := &streamer{heed: spec.Heed}
	var h server.Handler = st
	if spec.Heed {
		h = heeding{st}
	}
	srv, err := server.New(h, server.Config{BacklogMax: spec.BacklogMax, PayloadMax: streamSize, WriteTimeout: spec.WriteTimeout,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	fatal(err)
	ln, err := server.Listen("127.0.0.1:0")
	fatal(err)
	go func() { fatal(srv.Serve(ln)) }()
	out := json.NewEncoder(os.Stdout)
	fatal(out.Encode(ln.Addr().String()))
	worst := watchMemory()
	var sent atomic.Uint64
	var quit chan struct{}
	var streaming sync.WaitGroup
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var answer any
		switch in.Text() {
		case "go":
			quit = make(chan struct{})
			st.begun.Store(int64(time.Since(sheepEpoch)))
			streaming.Go(func() { streamOn(srv, &sent, quit) })
		case "stop":
			close(quit)
			streaming.Wait()
		case "gc":
			runtime.GC() // twice: what a sync.Pool holds goes with the second
			runtime.GC()
			debug.FreeOSMemory()
		case "stats":
			stats := srv.Stats()
			m := memoryNow()
			all := streamStats{Live: stats.Live, Reasons: map[string]uint64{}, Sent: sent.Load(), Heap: m.Heap, RSS: m.RSS, Kernel: m.Kernel,
				Worst: worst(), HighTold: st.told.Load()}
			for r, n := range stats.Reasons {
				all.Reasons[r.String()] = n
			}
			st.mu.Lock()
			all.FirstAfter, all.LastAfter = st.first, st.last
			st.mu.Unlock()
			answer = all
		}
		fatal(out.Encode(answer))
	}
	os.Exit(0)
}

// streamOn sends numbered messages to all sessions, but for those that are above the high mark where that is heeded.
func streamOn(srv *server.Server, sent *atomic.Uint64, quit chan struct{}) {
	p := make([]byte, streamSize)
	beat := time.NewTicker(streamEvery)
	defer beat.Stop()
	for {
		select {
		case <-quit:
			return
		case <-beat.C:
		}
		binary.BigEndian.PutUint64(p, sent.Add(1))
		for s := range srv.Sessions() {
			if high, _ := s.Value().(bool); !high {
				_ = s.Send(p) // one that has ended, or is full, is told of by its end
			}
		}
	}
}

func memoryNow() (m streamMemory) {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	m.Heap = heap[0].Value.Uint64()
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		pages, _ := strconv.ParseUint(strings.Fields(string(b))[1], 10, 64)
		m.RSS = pages * uint64(os.Getpagesize())
	}
	if b, err := os.ReadFile("/proc/net/sockstat"); err == nil {
		if _, after, ok := strings.Cut(string(b), " mem "); ok {
			pages, _ := strconv.ParseUint(strings.Fields(after)[0], 10, 64)
			m.Kernel = pages * uint64(os.Getpagesize())
		}
	}
	return m
}

// watchMemory samples it from now on; the result tells the highest of each figure.
func watchMemory() func() []streamMemory {
	var mu sync.Mutex
	var worst streamMemory
	go func() {
		for ; ; time.Sleep(10 * time.Millisecond) {
			m := memoryNow()
			mu.Lock()
			worst = streamMemory{max(worst.Heap, m.Heap), max(worst.RSS, m.RSS), max(worst.Kernel, m.Kernel)}
			mu.Unlock()
		}
	}()
	return func() []streamMemory {
		mu.Lock()
		defer mu.Unlock()
		return []streamMemory{worst}
	}
}

// streamedRole is a process of so many peers that are streamed to. Those that "read" check the numbers, and tell the
// last when they are asked; those that "never" do have a small receive buffer, and do nothing at all.
func streamedRole(args []string) {
	n, err := strconv.Atoi(args[1])
	fatal(err)
	type found struct {
		Least uint64 // the lowest of the last numbers
		Wrong []string
	}
	var mu sync.Mutex
	var wrong []string
	last := make([]atomic.Uint64, n)
	for i := range n {
		dial := net.Dialer{}
		if args[2] == "never" {
			dial.Control = farAway
		}
		nc, err := dial.Dial("tcp", args[0])
		fatal(err)
		if args[2] == "never" {
			defer nc.Close() // so that it stays
			continue
		}
		go func() {
			err := readNumbers(nc, &last[i])
			mu.Lock()
			defer mu.Unlock()
			wrong = append(wrong, fmt.Sprintf("%d: %v", i, err))
		}()
	}
	fmt.Println(`"ready"`)
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		f := found{Least: ^uint64(0)}
		for i := range last {
			f.Least = min(f.Least, last[i].Load())
		}
		mu.Lock()
		f.Wrong = wrong
		mu.Unlock()
		fatal(out.Encode(f))
	}
}

// farAway gives a socket on the loopback a segment as short as elsewhere and a small receive buffer: the server's kernel takes
// megabytes for one whose segments are 64 KiB.
func farAway(_, _ string, raw syscall.RawConn) error {
	var err error
	if ctl := raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10))
	}); ctl != nil {
		return ctl
	}
	return err
}

// readNumbers reads messages that must be numbered on from the first, and answers Pings.
func readNumbers(nc net.Conn, last *atomic.Uint64) error {
	r := bufio.NewReaderSize(nc, 32<<10)
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		switch f.Type {
		case codec.Ping:
			if _, err := nc.Write(frame(codec.Pong, f.Payload)); err != nil {
				return err
			}
		case codec.Data:
			number := binary.BigEndian.Uint64(f.Payload)
			if before := last.Swap(number); before != 0 && number != before+1 {
				return fmt.Errorf("%d came after %d", number, before)
			}
		case codec.Goodbye:
			code, text, _ := codec.ParseGoodbye(f.Payload)
			return fmt.Errorf("goodbye %d: %s", code, text)
		}
	}
}

// TestSlowPeers streams to peers that never read, next to honest ones. They are ended as peer_slow: by what waits for
// them if it is sent on, by the want of progress if the sender heeds the marks. Memory stays within what the limits
// say, and comes back; the honest ones lose nothing.
//
//	go test ./bench -run TestSlowPeers -v -slow.peers 1000 -slow.honest 50 -slow.backlog 1048576
func TestSlowPeers(t *testing.T) {
	for _, heed := range []bool{false, true} {
		name := "who sends on"
		if heed {
			name = "who heeds the marks"
		}
		t.Run(name, func(t *testing.T) { slowPeersEnd(t, heed) })
	}
}

func slowPeersEnd(t *testing.T, heed bool) {
	const mib = 1 << 20
	const marks = 64 << 10 // BacklogHigh's default
	writeTimeout := 20 * time.Second
	if heed {
		writeTimeout = 2 * time.Second
	}
	spec, err := json.Marshal(streamSpec{BacklogMax: *slowBacklog, WriteTimeout: writeTimeout, Heed: heed})
	require.NoError(t, err)
	var addr string
	srv := spawn(t, role(t, "streamer", string(spec)), &addr)
	stats := func() (st streamStats) { srv.ask(t, "stats", &st); return st }
	honest := spawn(t, role(t, "streamed", addr, strconv.Itoa(*slowHonest), "read"), nil)
	spawn(t, role(t, "streamed", addr, strconv.Itoa(*slowPeers), "never"), nil)
	eventually(t, 20*time.Second, func() bool { return stats().Live == *slowHonest+*slowPeers }, "all are there")
	srv.ask(t, "gc", nil)
	before := stats()
	srv.ask(t, "go", nil)
	for deadline := time.Now().Add(time.Minute); stats().Live > *slowHonest && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(10 * streamEvery)
	srv.ask(t, "stop", nil)
	worst := stats()
	srv.ask(t, "gc", nil)
	after := stats()
	var got struct {
		Least uint64
		Wrong []string
	}
	eventually(t, 20*time.Second, func() bool {
		honest.ask(t, "tell", &got)
		return got.Least == after.Sent || len(got.Wrong) > 0
	}, "the honest have all")

	t.Logf("%d peers never read, %d do; each is sent %d bytes every %v; BacklogMax %d KiB", *slowPeers, *slowHonest, streamSize, streamEvery, *slowBacklog>>10)
	row := func(name string, heap, rss, kernel uint64) {
		t.Logf("  %-14s heap %5d MiB, RSS %5d MiB, kernel's TCP memory %5d MiB", name, heap/mib, rss/mib, kernel/mib)
	}
	row("before", before.Heap, before.RSS, before.Kernel)
	row("at the worst", worst.Worst[0].Heap, worst.Worst[0].RSS, worst.Worst[0].Kernel)
	row("after", after.Heap, after.RSS, after.Kernel)
	t.Logf("  ended: %v, after %v to %v; %d times told high; each of the honest has all %d messages", after.Reasons,
		worst.FirstAfter.Round(time.Millisecond), worst.LastAfter.Round(time.Millisecond), worst.HighTold, got.Least)

	assert.Empty(t, got.Wrong, "the honest")
	assert.Equal(t, map[string]uint64{server.PeerSlow.String(): uint64(*slowPeers)}, after.Reasons)
	waits := *slowBacklog + streamSize
	if heed {
		waits = marks + streamSize + 2*streamSize // what was on its way to the loop
		assert.GreaterOrEqual(t, int(worst.HighTold), *slowPeers)
	}
	// gnet keeps what waits in buffers of a power of two for each write, at most twice what is in them, and a ring of 64 KiB;
	// the garbage collector lets the heap double.
	bound := uint64(*slowPeers) * uint64(2*2*waits+64<<10)
	assert.LessOrEqual(t, worst.Worst[0].Heap-before.Heap, bound+16*mib, "bytes of heap at the worst")
	assert.LessOrEqual(t, after.Heap, before.Heap+8*mib, "bytes of heap afterwards")
}
