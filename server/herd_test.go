//go:build unix

package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
)

func init() {
	roles["herd"] = herd
	// A herd is many descriptors on both sides.
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) == nil {
		lim.Cur = lim.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim)
	}
}

// herd is a process of n polite clients: each answers Pings and closes when it is told Goodbye. It
// says "ready" when all are connected. A line on its standard input makes them act: "goodbye" has
// each say Goodbye and close, "wait" only waits. In the end it says how many Goodbyes they got, and
// exits.
func herd(args []string) {
	addr := args[0]
	n, _ := strconv.Atoi(args[1])
	var connected, over sync.WaitGroup
	var goodbyes atomic.Int64
	clients := make([]*client, n)
	slots := make(chan struct{}, 64) // dials at a time
	beat := func(c *client) {
		defer over.Done()
		defer c.Close()
		if goodbye, _ := c.beat(); goodbye != nil {
			goodbyes.Add(1)
		}
	}
	for i := range n {
		connected.Add(1)
		slots <- struct{}{}
		go func() {
			defer connected.Done()
			defer func() { <-slots }()
			begun := time.Now()
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				fmt.Fprintf(os.Stderr, "herd: dial %d, after %v: %v\n", i, time.Since(begun), err)
				os.Exit(1)
			}
			_, _ = nc.Write(frame(codec.Ping, nil)) // ready at once
			clients[i] = &client{nc, bufio.NewReaderSize(nc, 256)}
			over.Add(1)
			go beat(clients[i]) // a busy machine may take longer than a timeout for all the dials
		}()
	}
	connected.Wait()
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "goodbye" {
			for _, c := range clients {
				_, _ = c.Write(frame(codec.Goodbye, nil))
				_ = c.Close()
			}
		}
	}
	over.Wait()
	fmt.Println("goodbyes", goodbyes.Load())
}

// flock is a running herd, as the test sees it.
type flock struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startHerd returns when n clients are connected to addr.
func startHerd(t testing.TB, addr net.Addr, n int) *flock {
	t.Helper()
	f := &flock{cmd: role(t, "herd", addr.String(), strconv.Itoa(n))}
	var err error
	f.in, err = f.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := f.cmd.StdoutPipe()
	require.NoError(t, err)
	f.out = bufio.NewScanner(out)
	require.NoError(t, f.cmd.Start())
	t.Cleanup(func() {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
	})
	require.Equal(t, "ready", f.line())
	return f
}

func (f *flock) line() string {
	f.out.Scan()
	return f.out.Text()
}

// act tells the herd what to do and that it may go.
func (f *flock) act(what string) {
	fmt.Fprintln(f.in, what)
	f.in.Close()
}

// goodbyes waits for the end and returns how many Goodbyes the herd was told.
func (f *flock) goodbyes(t testing.TB) int {
	t.Helper()
	var n int
	_, err := fmt.Sscanf(f.line(), "goodbyes %d", &n)
	require.NoError(t, err)
	require.NoError(t, f.cmd.Wait())
	return n
}

// timeWaits counts the sockets in TIME_WAIT whose local end is addr, by ss(8), or by the kernel's own
// table where that is not installed. The address should be one that no other test's clients use: they
// leave TIME_WAIT on ports that a later server may be given.
func timeWaits(t *testing.T, addr net.Addr) int {
	t.Helper()
	a := addr.(*net.TCPAddr)
	if ss, err := exec.LookPath("ss"); err == nil {
		out, err := exec.Command(ss, "-Htan", "state", "time-wait", "src", a.String()).Output()
		require.NoError(t, err)
		return strings.Count(string(out), "\n")
	}
	b, err := os.ReadFile("/proc/net/tcp")
	require.NoError(t, err, "neither ss nor the kernel's table")
	ip := a.IP.To4()
	local := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], a.Port)
	n := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == local && f[3] == "06" {
			n++
		}
	}
	return n
}

// affordable is n, or fewer (and said so) where the process may not have that many descriptors.
func affordable(t testing.TB, n int) int {
	var lim syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim))
	if most := int(lim.Cur) - 1000; n > most {
		t.Logf("only %d of %d: this process may have %d descriptors", most, n, lim.Cur)
		return most
	}
	return n
}
