//go:build unix

package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
)

// Everything here is done to the program as it is built, from outside, by other processes and by
// plain sockets.
func TestEcho(t *testing.T) {
	program := build(t)
	for name, test := range map[string]func(*busy.T, string){
		"answers": testAnswers, "fin": testFIN, "rst": testRST, "goodbye": testGoodbye, "garbage": testGarbage,
		"silence": testSilence, "half": testHalf, "says-nothing": testSaysNothing,
		"flags": testFlags, "in use": testInUse, "drain": testDrain, "twice": testSecondSignal,
		"stream": testStream, "sink": testSink, "max-conns": testMaxConns, "unix": testUnix, "many": testMany, "text": testText, "recovers": testRecovers,
	} {
		t.Run(name, busy.Test(func(t *busy.T) {
			t.Parallel()
			test(t, program)
		}))
	}
}

// tick is the grain of the servers in the tests of deadlines: nothing may be told earlier than its
// deadline, nor more than two ticks later.
const tick = 20 * time.Millisecond

// peerCase runs one case of peer.py and returns what both sides said of it.
func peerCase(t testing.TB, program, name string, flags ...string) (peerReport, line) {
	s := start(t, program, flags...)
	report := peer(t, s.addr, name)
	end := s.await("closed")
	s.drain()
	r := end.closed
	t.Logf("%s: %s %d %q %s %s, after %d ms, idle %d ms, %d ms after its last byte, reset %v, tcp %s",
		name, r.Reason, r.PeerCode, r.Detail, r.Syscall, r.Errno, r.AfterMS, r.IdleMS, report.since(end).Milliseconds(), r.Reset, r.TCPState)
	return report, end
}

func testFIN(t *busy.T, program string) {
	_, end := peerCase(t, program, "fin")
	require.Equal(t, "peer_closed", end.closed.Reason)
	require.Empty(t, end.closed.Errno)
	require.EqualValues(t, 9, end.closed.BytesIn)
	require.EqualValues(t, 9, end.closed.BytesOut)
	require.EqualValues(t, 1, end.closed.FramesIn)
	require.False(t, end.closed.Reset)
}

func testRST(t *busy.T, program string) {
	_, end := peerCase(t, program, "rst")
	require.Equal(t, "peer_reset", end.closed.Reason)
	require.Equal(t, "ECONNRESET", end.closed.Errno)
	require.NotEmpty(t, end.closed.Syscall)
}

func testGoodbye(t *busy.T, program string) {
	report, end := peerCase(t, program, "goodbye")
	require.Equal(t, "peer_goodbye", end.closed.Reason)
	require.EqualValues(t, 1007, end.closed.PeerCode)
	require.Equal(t, "so long", end.closed.Detail)
	require.Empty(t, report.frames(t), "no Goodbye is answered")
}

func testGarbage(t *busy.T, program string) {
	report, end := peerCase(t, program, "garbage")
	require.Equal(t, "peer_protocol", end.closed.Reason)
	require.NotEmpty(t, end.closed.Detail)
	require.True(t, end.closed.Reset)
	report.requireGoodbye(t, 103)
}

func testSilence(t *busy.T, program string) {
	const timeout = 900 * time.Millisecond
	late := watchMachine(t)
	report, end := peerCase(t, program, "silence", "-interval", "300ms", "-timeout", timeout.String(), "-tick", tick.String())
	require.Equal(t, "peer_frozen", end.closed.Reason)
	require.True(t, end.closed.Reset)
	require.GreaterOrEqual(t, end.closed.PingsUnanswered, 2)
	requireWithin(t, "by the wall clock", report.since(end), timeout, late())
	requireWithin(t, "by the record", time.Duration(end.closed.IdleMS)*time.Millisecond, timeout, tick+late()) // idle_ms is whole ticks
	suspected := end.before("suspect")
	require.NotNil(t, suspected, "suspicion comes before conviction")
	require.Equal(t, "silence", suspected.values["why"])
	requireWithin(t, "the suspicion, by the wall clock", report.since(*suspected), 300*time.Millisecond, late())
}

func testHalf(t *busy.T, program string) {
	const deadline = 600 * time.Millisecond
	late := watchMachine(t)
	report, end := peerCase(t, program, "half", "-frame", deadline.String(), "-tick", tick.String())
	require.Equal(t, "peer_stalled_frame", end.closed.Reason)
	require.EqualValues(t, 6, end.closed.BytesIn)
	requireWithin(t, "by the wall clock", report.since(end), deadline, late())
	report.requireGoodbye(t, 107)
}

func testSaysNothing(t *busy.T, program string) {
	const deadline = 600 * time.Millisecond
	late := watchMachine(t)
	report, end := peerCase(t, program, "says-nothing", "-handshake", deadline.String(), "-tick", tick.String())
	require.Equal(t, "peer_unready", end.closed.Reason)
	require.Zero(t, end.closed.BytesIn)
	requireWithin(t, "by the record", time.Duration(end.closed.AfterMS)*time.Millisecond, deadline, late())
	report.requireGoodbye(t, 106)
	require.Equal(t, codec.Ping, report.frames(t)[0].Type, "it was given something to answer")
}

// A client that does nothing but answer is never suspected, in 100 intervals. It can be suspected
// only a quarter of an interval after it was asked, so on a machine that keeps it from the CPU for
// longer than that it is not healthy: each suspicion must have such an answer to it.
func testAnswers(t *busy.T, program string) {
	const interval = 100 * time.Millisecond
	s := start(t, program, "-interval", interval.String(), "-timeout", "1s", "-tick", "10ms")
	report := peer(t, s.addr, "answers", fmt.Sprint((100 * interval).Seconds()))
	end := s.await("closed")
	s.drain()
	late, worst := 0, 0.0
	for _, wait := range report.Waits {
		worst = max(worst, wait)
		if wait >= (interval / 4).Seconds() {
			late++
		}
	}
	r := end.closed
	suspected := len(end.all("suspect"))
	t.Logf("answers: %s after %d ms, %d Pings answered, round trip %d us; the slowest answer took %.1f ms, %d took %v or more, suspected %d times",
		r.Reason, r.AfterMS, r.FramesIn, r.RTTus, worst*1000, late, interval/4, suspected)
	require.Equal(t, "peer_closed", r.Reason)
	require.GreaterOrEqual(t, r.AfterMS, 100*interval.Milliseconds())
	require.GreaterOrEqual(t, r.FramesIn, uint64(100))
	require.InDelta(t, r.FramesOut, r.FramesIn, 1, "the last Ping may have crossed the FIN")
	require.NotZero(t, r.RTTus)
	require.LessOrEqual(t, suspected, late, "a healthy client was suspected")
}

// A client that is silent for longer than the interval and then speaks is told twice.
func testRecovers(t *busy.T, program string) {
	s := start(t, program, "-interval", "100ms", "-timeout", "30s", "-tick", "10ms")
	c := dial(t, s)
	c.say("before")
	c.expectData("before")
	suspected := s.await("suspect")
	require.Equal(t, []string{"msg", "session", "peer", "why"}, suspected.keys)
	c.say("after")
	c.expectData("after")
	recovered := s.await("recovered")
	require.Equal(t, []string{"msg", "session", "peer"}, recovered.keys)
	require.Equal(t, suspected.values["session"], recovered.values["session"])
	require.Equal(t, c.LocalAddr().String(), recovered.values["peer"])
	require.NoError(t, c.Close())
	s.await("closed")
	s.drain()
}

// Many sessions on several loops: each line is whole, and the keys of each are those that tools
// are promised, in that order.
func testMany(t *busy.T, program string) {
	const sessions = 200
	s := start(t, program, "-loops", "4")
	var all sync.WaitGroup
	for i := range sessions {
		all.Go(func() {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			word := fmt.Sprintf("hello from %d", i)
			b, _ := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: []byte(word)})
			got := make([]byte, len(b))
			if _, err := c.Write(b); err != nil {
				t.Error(err)
			} else if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(b, got) {
				t.Errorf("sent %q, read %q, %v", b, got, err)
			}
		})
	}
	all.Wait()
	seen := map[float64]string{}
	for ends := 0; ends < sessions; {
		l := s.next()
		id := l.values["session"].(float64)
		switch l.msg {
		case "opened":
			require.Equal(t, []string{"msg", "session", "peer"}, l.keys)
			require.Empty(t, seen[id])
			seen[id] = l.values["peer"].(string)
		case "closed":
			ends++
			require.Equal(t, []string{"msg", "session", "peer", "reason", "detail", "errno", "after_ms", "idle_ms",
				"syscall", "peer_code", "bytes_in", "bytes_out", "frames_in", "frames_out", "rtt_us", "pings_unanswered",
				"unsent", "reset", "tcp_state", "tcp"}, l.keys)
			require.Equal(t, seen[id], l.values["peer"], "opened before closed, by the same peer")
			require.Equal(t, "peer_closed", l.closed.Reason)
			if l.closed.TCP != nil {
				require.Equal(t, []string{"state", "rtt_us", "rtt_var_us", "unacked", "retransmits", "backoff", "probes",
					"total_retrans", "last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms", "snd_wnd", "notsent", "age_ms"},
					keysOf(t, l.values["tcp"].(json.RawMessage)))
			}
		default:
			t.Fatalf("unexpected line %s", l.text)
		}
	}
	require.Len(t, seen, sessions)
	last := s.drain()
	require.Equal(t, []string{"msg", "opened", "closed", "refused", "reasons"}, last.keys)
	require.JSONEq(t, `{"msg":"drained","opened":200,"closed":200,"refused":0,"reasons":{"peer_closed":200}}`, last.text)
}

// On SIGTERM three clients leave as they are asked to, and a fourth does not.
func testDrain(t *busy.T, program string) {
	s := start(t, program, "-close-timeout", "300ms", "-loops", "2")
	var polite []*client
	for range 3 {
		polite = append(polite, dial(t, s))
	}
	stubborn := dial(t, s)
	for range 4 {
		s.await("opened")
	}
	s.signal(syscall.SIGTERM)
	for _, c := range polite {
		c.expectGoodbye(301)
		require.NoError(t, c.Close())
	}
	stubborn.expectGoodbye(301)
	last := s.exit(0)
	require.JSONEq(t, `{"msg":"drained","opened":4,"closed":4,"refused":0,"reasons":{"server_shutdown":4}}`, last.text)
	resets := 0
	for _, l := range last.all("closed") {
		require.Equal(t, "server_shutdown", l.closed.Reason)
		if l.closed.Reset {
			resets++
		}
	}
	require.Equal(t, 1, resets, "only who stays is reset")
}

func testSecondSignal(t *busy.T, program string) {
	s := start(t, program, "-close-timeout", "10m")
	c := dial(t, s)
	s.await("opened")
	s.signal(syscall.SIGINT)
	c.expectGoodbye(301)
	s.signal(syscall.SIGINT) // c has not left
	require.Empty(t, s.exit(1).all("drained"))
}

func testStream(t *busy.T, program string) {
	const frames, every = 20, 30 * time.Millisecond
	late := watchMachine(t)
	// A tick longer than the stream's own period must not slow it down.
	for _, tick := range []time.Duration{10 * time.Millisecond, 50 * time.Millisecond} {
		s := start(t, program, "-stream", every.String(), "-tick", tick.String())
		began := time.Now()
		c := dial(t, s)
		for range frames {
			c.expectData(string(make([]byte, 100)))
		}
		took := time.Since(began)
		t.Logf("stream: %d frames of 100 bytes, one in %v, tick %v: took %v", frames, every, tick, took.Round(time.Millisecond))
		require.GreaterOrEqual(t, took, frames*every)
		t.NotLater(began, began.Add(took), frames*every+2*tick+slack+late(), "the stream")
		require.NoError(t, c.Close())
		s.await("closed")
		s.drain()
	}
}

// What a server sends is in order: with -sink the answer to a Ping is the first that comes after any
// number of messages.
func testSink(t *busy.T, program string) {
	s := start(t, program, "-sink")
	c := dial(t, s)
	for range 5 {
		c.say("hello")
	}
	c.send(codec.Ping, "any")
	f := c.read()
	require.Equal(t, codec.Pong, f.Type)
	require.Equal(t, "any", string(f.Payload))
	require.NoError(t, c.Close())
	end := s.await("closed")
	require.Equal(t, "peer_closed", end.closed.Reason)
	require.EqualValues(t, 6, end.closed.FramesIn, "five messages and the Ping")
	s.drain()
}

func testMaxConns(t *busy.T, program string) {
	s := start(t, program, "-max-conns", "1")
	first := dial(t, s)
	first.say("in")
	first.expectData("in")
	// On one machine a reset can be faster than connect(2) is at returning, which then fails. So
	// the server sleeps until that has returned.
	var second *client
	s.asleep(func() { second = dial(t, s) })
	second.expectGoodbye(304)
	require.NoError(t, first.Close())
	s.await("closed")
	last := s.drain()
	require.JSONEq(t, `{"msg":"drained","opened":1,"closed":1,"refused":1,"reasons":{"peer_closed":1}}`, last.text)
}

func testUnix(t *busy.T, program string) {
	folder, err := os.MkdirTemp("", "echo") // t.TempDir may be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	path := filepath.Join(folder, "s")
	s := start(t, program, "-listen", "unix://"+path)
	require.Equal(t, "unix://"+path, s.addr)
	c := dial(t, s)
	c.say("hello")
	c.expectData("hello")
	require.NoError(t, c.Close())
	end := s.await("closed")
	require.Equal(t, "unix", end.values["peer"])
	require.Equal(t, "peer_closed", end.closed.Reason)
	require.Nil(t, end.closed.TCP)
	require.Equal(t, "null", string(end.values["tcp"].(json.RawMessage)))
	s.drain()
	require.NoFileExists(t, path)
}

// The text form says the same; what a peer wrote is quoted.
func testText(t *busy.T, program string) {
	s := launch(t, program, "-log", "text", "-max-conns", "1")
	addr := strings.TrimPrefix(s.nextText(), "listening on ")
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	c := &client{nc, t}
	c.send(codec.Goodbye, "\x03\xefso \"long\"")
	require.Equal(t, fmt.Sprintf("session 1 (%v) opened", nc.LocalAddr()), s.nextText())
	require.Regexp(t, `^session 1 \(127\.0\.0\.1:\d+\) closed after \d+m?s: peer_goodbye 1007 "so \\"long\\""; age .* in 15 B/1 frames `, s.nextText())
	require.NoError(t, nc.Close())
	s.signal(syscall.SIGTERM)
	require.Equal(t, "drained: 1 opened, 1 closed, 0 refused, peer_goodbye 1", s.nextText())
	s.exit(0)
}

func testInUse(t *busy.T, program string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	status, stdout, stderr := runToEnd(t, program, "-listen", ln.Addr().String(), "-log", "json")
	require.Equal(t, 1, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "-listen "+ln.Addr().String())
	require.Contains(t, stderr, "address already in use")
}

func testFlags(t *busy.T, program string) {
	for _, tt := range []struct {
		flags string
		want  []string
	}{
		{"-interval 20s", []string{"-timeout: 15s", "-interval, 20s"}},
		{"-interval 3s -timeout 3s", []string{"-timeout: 3s", "-interval, 3s"}},
		{"-interval 5", []string{"-interval", `"5"`, "500ms"}},
		{"-interval 0", []string{"-interval", `"0"`, "more than 0"}},
		{"-timeout -1s", []string{"-timeout", `"-1s"`, "negative"}},
		{"-handshake -2s", []string{"-handshake", `"-2s"`, "negative"}},
		{"-frame 0s", []string{"-frame", `"0s"`}},
		{"-write-timeout -1ms", []string{"-write-timeout", `"-1ms"`}},
		{"-close-timeout x", []string{"-close-timeout", `"x"`}},
		{"-tick 2s", []string{"-tick: 2s", "too coarse", "-interval of 5s"}},
		{"-tick 1us", []string{"-tick: 1µs", "1ms"}},
		{"-loops -1", []string{"-loops: -1"}},
		{"-loops 300", []string{"-loops: 300", "255"}},
		{"-max-conns -1", []string{"-max-conns: -1"}},
		{"-max-conns many", []string{"-max-conns", `"many"`}},
		{"-backlog 0", []string{"-backlog: 0"}},
		{"-backlog 100", []string{"-backlog: 100", "65540"}},
		{"-stream 1us", []string{"-stream", `"1us"`, "1ms"}},
		{"-log xml", []string{"-log", `"xml"`, "json"}},
		{"-listen foo://127.0.0.1:1", []string{"-listen foo://127.0.0.1:1", `"foo"`}},
		{"-listen 127.0.0.1:99999", []string{"-listen 127.0.0.1:99999", "invalid port"}},
		{"-listen 127.0.0.1", []string{"-listen 127.0.0.1", "missing port"}},
		{"-port 7070", []string{"-port", "-h"}},
		{"7070", []string{`"7070"`}},
	} {
		status, stdout, stderr := runToEnd(t, program, strings.Fields(tt.flags)...)
		require.Equal(t, 2, status, tt.flags)
		require.Empty(t, stdout, tt.flags)
		require.Equal(t, 1, strings.Count(stderr, "\n"), "one line: %s", stderr)
		for _, want := range tt.want {
			require.Contains(t, stderr, want, tt.flags)
		}
		require.NotContains(t, stderr, "Config", tt.flags)
	}
	status, stdout, stderr := runToEnd(t, program, "-h")
	require.Zero(t, status)
	require.Empty(t, stderr)
	for _, name := range strings.Fields("listen interval timeout handshake frame write-timeout close-timeout tick loops max-conns backlog sink stream log") {
		require.Regexp(t, "\n  -"+name+"[ \n]", stdout)
	}
}

// runToEnd runs the program with flags with which it should end by itself.
func runToEnd(t testing.TB, program string, flags ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, flags...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	guard := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer guard.Stop()
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// peerReport is what peer.py prints.
type peerReport struct {
	Sent  float64   // when its last byte left, in seconds since 1970
	Read  string    // in hexadecimal
	Waits []float64 // seconds
}

// peer runs peer.py to its end.
func peer(t testing.TB, addr, name string, more ...string) (r peerReport) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skipf("the clients in Python cannot run: %v", err)
	}
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), python, append([]string{"testdata/peer.py", host, port, name}, more...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s%s", out.String(), errs.String())
	require.NoError(t, json.Unmarshal(out.Bytes(), &r), out.String())
	return r
}

// since is how long after the peer's last byte l was told: a little more than the truth, as the
// peer looks at the clock before it sends.
func (r peerReport) since(l line) time.Duration {
	return time.Duration(float64(l.at.UnixNano()) - r.Sent*float64(time.Second))
}

func (r peerReport) frames(t testing.TB) (all []codec.Frame) {
	b, err := hex.DecodeString(r.Read)
	require.NoError(t, err)
	for len(b) > 0 {
		f, n, err := codec.Binary{}.Decode(b)
		require.NoError(t, err)
		require.NotZero(t, n, "half a frame: %x", b)
		all, b = append(all, f), b[n:]
	}
	return all
}

// requireGoodbye says that the last thing the peer could read was why it was thrown out.
func (r peerReport) requireGoodbye(t testing.TB, code uint16) {
	all := r.frames(t)
	require.NotEmpty(t, all)
	requireGoodbye(t, all[len(all)-1], code)
}

func requireGoodbye(t testing.TB, f codec.Frame, code uint16) {
	require.Equal(t, codec.Goodbye, f.Type)
	got, text, err := codec.ParseGoodbye(f.Payload)
	require.NoError(t, err)
	require.Equal(t, code, got, text)
	require.NotEmpty(t, text)
}
