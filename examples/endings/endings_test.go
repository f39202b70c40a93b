package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// TestMain lets the test binary be a client, as the program is.
func TestMain(m *testing.M) {
	if os.Getenv(clientEnv) != "" {
		os.Exit(clientMain())
	}
	os.Exit(m.Run())
}

// build builds the program and returns its path.
func build(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "endings.exe")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// program runs the program and returns what it says and its exit status.
func program(t testing.TB, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// line is what is promised of a line of -json.
type line struct {
	Case    *string   `json:"case"`
	Want    *[]string `json:"want"`
	Got     *string   `json:"got"`
	AfterMS *float64  `json:"after_ms"`
	LimitMS *float64  `json:"limit_ms"`
	OK      *bool     `json:"ok"`
}

func parse(t testing.TB, stdout string) []line {
	t.Helper()
	var lines []line
	for text := range strings.Lines(stdout) {
		var l line
		require.NoError(t, json.Unmarshal([]byte(text), &l), text)
		require.True(t, l.Case != nil && l.Want != nil && l.Got != nil && l.AfterMS != nil && l.LimitMS != nil && l.OK != nil, text)
		lines = append(lines, l)
	}
	return lines
}

func needsLinux(t testing.TB) {
	if runtime.GOOS != "linux" {
		t.Skip("it needs what only Linux tells")
	}
}

func TestEndings(t *testing.T) { busy.Try(t, testEndings) }

func testEndings(t *busy.T) {
	needsLinux(t)
	path := build(t)
	begun := time.Now()
	stdout, stderr, status := program(t, exec.Command(path, "-json"))
	t.NotLater(begun, time.Now(), 30*time.Second, "all")
	names := []string{"close", "rst", "kill9", "goodbye", "garbage", "too-long", "trickle", "says-nothing", "frozen",
		"stops-reading", "kicked", "ignores-goodbye", "handler-panics", "app-reason", "back-after-silence", "full", "shutdown"}
	lines := parse(t, stdout)
	require.Len(t, lines, len(names))
	for i, l := range lines {
		require.Equal(t, names[i], *l.Case)
		require.Contains(t, *l.Want, *l.Got, *l.Case)
		require.Positive(t, *l.AfterMS, *l.Case)
		require.LessOrEqual(t.IfQuiet(busy.Doze), *l.AfterMS, *l.LimitMS, *l.Case)
		require.True(t, *l.OK, *l.Case)
	}
	require.Zero(t, status, "%s%s", stdout, stderr)
}

// A wrong expectation must make the line, the table and the exit status wrong.
func TestWrongExpectation(t *testing.T) {
	path := build(t)
	wrong := func(flag string) *exec.Cmd {
		cmd := exec.Command(path, "-case", "goodbye,close", flag)
		cmd.Env = append(os.Environ(), wrongEnv+"=close=peer_reset")
		return cmd
	}
	stdout, _, status := program(t, wrong("-json"))
	require.Equal(t, 1, status)
	lines := parse(t, stdout)
	require.Len(t, lines, 2)
	require.Equal(t, []string{"peer_reset"}, *lines[0].Want)
	require.Equal(t, "peer_closed", *lines[0].Got)
	require.False(t, *lines[0].OK)
	require.True(t, *lines[1].OK)

	stdout, _, status = program(t, wrong("-markdown"))
	require.Equal(t, 1, status)
	require.Contains(t, stdout, "not as expected: want peer_reset")
	require.True(t, strings.HasPrefix(stdout, "| case |"), stdout)
	require.Equal(t, 4, strings.Count(stdout, "\n"))
}

func TestUsage(t *testing.T) {
	path := build(t)
	for _, tt := range []struct{ args, says string }{
		{"-case closed", `there is no "closed"`},
		{"-json -markdown", "only one of"},
		{"close", "no arguments"},
	} {
		_, stderr, status := program(t, exec.Command(path, strings.Fields(tt.args)...))
		require.Equal(t, 2, status, tt.args)
		require.Contains(t, stderr, tt.says)
	}
	stdout, _, status := program(t, exec.Command(path, "-list"))
	require.Zero(t, status)
	require.Equal(t, 17, strings.Count(stdout, "\n"))
}

// Ctrl-C in the middle of a case ends the clients too, the stopped one included.
func TestInterrupt(t *testing.T) { busy.Try(t, testInterrupt) }

func testInterrupt(t *busy.T) {
	needsLinux(t)
	path := build(t)
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-case", "frozen")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	begun := time.Now()
	_, stderr, status := program(t, cmd)
	require.Equal(t, 130, status, stderr)
	require.Contains(t, stderr, "no client process is left")
	t.NotLater(begun, time.Now(), 10*time.Second, "the end")
}

func TestJudge(t *testing.T) {
	late := ending{name: "x", want: reasons{server.PeerFrozen, server.PathDead}, deadline: time.Second}
	soon := ending{name: "x", want: reasons{server.PeerClosed}}
	deadline, limit := milliseconds(late.deadline), milliseconds(late.limit())
	for _, tt := range []struct {
		ending  ending
		got     string
		after   float64
		problem string // noted before
		says    string // "" is ok
	}{
		{late, "peer_frozen", deadline, "", ""},
		{late, "path_dead", limit, "", ""},
		{late, "peer_frozen", deadline - 0.001, "", "too early"},
		{late, "peer_frozen", limit + 0.001, "", "too late"},
		{late, "peer_closed", deadline, "", "want peer_frozen or path_dead"},
		{late, "peer_closed", deadline, "it was red", "want peer_frozen or path_dead; it was red"},
		{late, "", 0, "", "no reason was told"},
		{late, "peer_frozen", deadline, "it was red", "it was red"},
		{soon, "peer_closed", 0, "", ""},
		{soon, "peer_closed", milliseconds(slack), "", ""},
		{soon, "peer_closed", milliseconds(slack) + 0.001, "", "too late"},
	} {
		r := newResult(tt.ending)
		r.Got, r.AfterMS, r.Problem = tt.got, tt.after, tt.problem
		r.judge()
		require.Equal(t, tt.says == "", r.OK, "%+v", tt)
		require.Contains(t, r.Problem, tt.says)
	}
}

// What goes wrong in a play is said, and the play leaves neither client nor session.
func TestPlayFails(t *testing.T) {
	h, err := open(config)
	require.NoError(t, err)
	for _, tt := range []struct {
		play func(*play)
		says string
	}{
		{func(p *play) { p.must("order", p.join().order("dance")); p.ended(p.clients[0]) }, `there is no order "dance"`},
		{func(p *play) { p.join(); p.tell(p.clients[0], "raw nonsense") }, "the client cannot raw"},
		{func(p *play) { p.tell(p.process(), "dial 127.0.0.1:1") }, "connection refused"},
		{func(p *play) { c := p.join(); p.act(c, "close"); p.await(c, "suspect") }, "want peer_frozen; the session ended before"},
		{func(p *play) { p.join(); p.check(1 > 2, "%d is not %d", 1, 2) }, "1 is not 2"},
	} {
		r := ending{name: "x", want: reasons{server.PeerFrozen}, play: tt.play}.run(context.Background(), h)
		require.False(t, r.OK)
		require.Contains(t, r.Problem, tt.says)
		require.Contains(t, r.line(), "NO  x ")
	}
	require.NoError(t, h.close())
	require.NoError(t, noneLeft())
}

// The checks of the system must be able to fail.
func TestSystem(t *testing.T) {
	needsLinux(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	accepted, err := ln.Accept()
	require.NoError(t, err)
	n, err := timeWait(ln.Addr().String())
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, accepted.Close()) // first, so TIME_WAIT is the listener's
	require.NoError(t, client.Close())
	require.Eventually(t, func() bool { n, err = timeWait(ln.Addr().String()); return n == 1 && err == nil }, time.Minute, time.Millisecond)

	require.NoError(t, noneLeft())
	c, err := start()
	require.NoError(t, err)
	pid := fmt.Sprint(c.cmd.Process.Pid)
	require.ErrorContains(t, noneLeft(), pid)
	require.ErrorContains(t, isFrozen(c.cmd.Process.Pid), "not stopped")
	c.kill()
	require.NoError(t, noneLeft())
}
