package rig

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/load"
)

func TestMain(m *testing.M) {
	Role("echo", serveEcho)
	Role("silent", func([]string) { fmt.Println("nothing for the rig") })
	Main()
	os.Setenv("GORACE", "atexit_sleep_ms=0") // else each role takes a second to end under the race detector
	os.Exit(m.Run())
}

// serveEcho echoes bytes, each after a pause, and closes a connection after so many reads.
func serveEcho(args []string) {
	fmt.Println("a banner") // as frameworks do
	pause, _ := time.ParseDuration(args[0])
	reads, _ := strconv.Atoi(args[1])
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				for range reads {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					time.Sleep(pause)
					_, _ = c.Write(b[:n])
				}
			}()
		}
	}()
	var held []byte
	Serving(ln.Addr().String(), map[string]func(string) string{
		"say": func(arg string) string { fmt.Println("more noise"); return arg },
		"cpus": func(string) string {
			return fmt.Sprintf("%d %d %s", runtime.NumCPU(), runtime.GOMAXPROCS(0), os.Getenv("RIG_TEST"))
		},
		"hold": func(arg string) string {
			n, _ := strconv.Atoi(arg)
			held = bytes.Repeat([]byte{1}, n)
			return strconv.Itoa(len(held))
		},
		"spin": func(string) string {
			for begun := time.Now(); time.Since(begun) < 50*time.Millisecond; {
			}
			return "ok"
		},
	})
}

func echoServer(pause string, reads int) Server {
	return Server{Role: "echo", Args: []string{pause, strconv.Itoa(reads)}}
}

func started(t *testing.T, s Server) *Process {
	p, err := Start(s)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Stop()) })
	return p
}

func TestRole(t *testing.T) {
	s := echoServer("0s", 1)
	s.CPUs, s.GOMAXPROCS, s.Env = CPUs()[:1], 3, []string{"RIG_TEST=x"}
	p := started(t, s)
	c, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	for question, answer := range map[string]string{"say so  it is": "so  it is", "cpus": "1 3 x", "what": "no answer to what"} {
		said, err := p.Ask(question)
		require.NoError(t, err)
		assert.Equal(t, answer, said)
	}
	objects, bytes, err := p.Mallocs()
	require.NoError(t, err)
	_, err = p.Ask("hold 1000000")
	require.NoError(t, err)
	more, size, err := p.Mallocs()
	require.NoError(t, err)
	assert.Greater(t, more, objects)
	assert.InDelta(t, 1_000_000, size-bytes, 100_000)
}

func TestUsage(t *testing.T) {
	p := started(t, echoServer("0s", 1))
	before, err := p.Usage()
	require.NoError(t, err)
	_, err = p.Ask("spin")
	require.NoError(t, err)
	after, err := p.Usage()
	require.NoError(t, err)
	assert.Greater(t, after.CPU-before.CPU, time.Millisecond)
	assert.Less(t, after.CPU-before.CPU, time.Second)
	assert.Greater(t, after.Voluntary, before.Voluntary, "it has waited for a line")

	const size = 64 << 20
	small, err := p.RSS()
	require.NoError(t, err)
	_, err = p.Ask(fmt.Sprintf("hold %d", size))
	require.NoError(t, err)
	large, err := p.RSS()
	require.NoError(t, err)
	if raceEnabled {
		assert.Greater(t, large-small, size*7/8)
		return // what it keeps for itself it does not give back
	}
	assert.InDelta(t, size, large-small, size/8)
	_, err = p.Ask("hold 0")
	require.NoError(t, err)
	again, err := p.RSS()
	require.NoError(t, err)
	assert.InDelta(t, small, again, size/8, "it has given back what it does not need")
}

func TestForeignProgram(t *testing.T) {
	p := started(t, Server{Command: []string{"sh", "-c", "echo 127.0.0.1:7; echo noise; cat > /dev/null"}})
	assert.Equal(t, "127.0.0.1:7", p.Addr())
	_, err := p.Ask("gc")
	require.ErrorContains(t, err, "a foreign program answers nothing")
	rss, err := p.RSS()
	require.NoError(t, err)
	assert.Greater(t, rss, 10<<10)
}

func TestWhatCannotStart(t *testing.T) {
	for says, s := range map[string]Server{
		"needs a Role or a Command": {},
		`no role "nobody"`:          {Role: "nobody"},
		"no such file":              {Command: []string{"/does/not/exist"}},
		"has said no address":       {Role: "silent"},
		"cannot be bound to CPUs":   {Role: "echo", CPUs: []int{1000}},
	} {
		_, err := Start(s)
		require.ErrorContains(t, err, says)
	}
}

func TestCompare(t *testing.T) {
	l := load.Options{Conns: 3, Message: []byte("hello")}
	out := Match{Rounds: 3, Seed: 7, Round: load.Round{Messages: 60}}.Compare([]Candidate{
		{Name: "fast", Server: echoServer("0s", 1<<30), Load: l},
		{Name: "slow", Server: echoServer("5ms", 1<<30), Load: l, Remark: "sleeps"},
		{Name: "rude", Server: echoServer("0s", 20), Load: l},
		{Name: "none", Server: Server{Role: "nobody"}, Load: l},
	})
	assert.EqualValues(t, 7, out.Seed)
	for _, name := range []string{"fast", "slow"} {
		r := out.Row(name)
		require.NoError(t, r.Err)
		require.Len(t, r.Rounds, 3)
		for _, m := range r.Rounds {
			assert.Equal(t, 60, m.Load.Messages)
			assert.Positive(t, m.CPU)
			assert.GreaterOrEqual(t, m.Took, m.Load.Elapsed)
		}
	}
	assert.Less(t, Ratio(out.Row("slow").Rates(), out.Row("fast").Rates()).Median, 1.0)
	assert.Greater(t, SpreadOf(out.Row("slow").Quantiles(0.5)).Min, float64(5*time.Millisecond))
	assert.Same(t, out.Row("fast"), out.Best("slow", "fast", "none", "nobody"))
	require.ErrorContains(t, out.Row("rude").Err, "load: connection") // closed or reset
	require.ErrorContains(t, out.Row("none").Err, "no role")
	var b bytes.Buffer
	out.Print(&b, "fast")
	assert.Contains(t, b.String(), "\n| fast | ")
	assert.Contains(t, b.String(), "| 1.00 (1.00-1.00) |")
	assert.Contains(t, b.String(), "\n- slow: sleeps")
	assert.Contains(t, b.String(), "\n- rude could not be measured: load: connection")
}

func TestStorm(t *testing.T) {
	p := started(t, echoServer("0s", 1<<30))
	l, err := StartLoad(1, nil)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Stop()) })
	r, err := l.Storm(load.StormOptions{Addr: p.Addr(), For: 30 * time.Millisecond, Message: []byte("hello")})
	require.NoError(t, err)
	assert.Positive(t, r.Total)
	_, err = l.Run(load.Round{For: time.Millisecond})
	require.ErrorContains(t, err, "Run before Open")
}
