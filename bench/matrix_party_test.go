//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/internal/netlab"
)

func init() { roles["matrix-party"] = partyMain }

// partyMain is a process of guests, to be stopped or killed: reps for the server and as many for each observer. It
// says who they are, then "ready", and of each of ours when it last wrote. The deaf read nothing, and say
// "unread" when all have something to read. It leaves when its input ends.
//
//	matrix-party REPS DEAF PORT...     the ports of the observers, in their order, and of the server
func partyMain(args []string) {
	reps, _ := strconv.Atoi(args[0])
	deaf := args[1] == "true"
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	say("pid %d", os.Getpid())
	var all []*guest
	for rep := range reps {
		for kind, port := range args[2:] {
			d := net.Dialer{Timeout: 20 * time.Second, KeepAlive: -1}
			nc, err := d.Dial("tcp4", net.JoinHostPort(netlab.ServerAddr, port))
			if err != nil {
				fmt.Fprintln(os.Stderr, "matrix-party:", err)
				os.Exit(1)
			}
			g := newGuest(method(kind), rep, nc.(*net.TCPConn))
			say("conn %d %d %v", kind, rep, g.addr())
			g.wrote = func() { say("byte %d %d", rep, monotonic()) }
			if err := g.join(); err != nil {
				fmt.Fprintln(os.Stderr, "matrix-party:", err)
				os.Exit(1)
			}
			if !deaf {
				g.live()
			}
			all = append(all, g)
		}
		if reps > 1 {
			time.Sleep(joinSpread / time.Duration(reps))
		}
	}
	say("ready")
	if deaf {
		for _, g := range all {
			for g.unread() == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		say("unread")
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// joinSpread is the time over which those of one case join, so that their beats are spread.
const joinSpread = time.Second

// A party is such a process, as the test sees it.
type party struct {
	pid    int
	plains [methods][]netip.AddrPort
	trials []*trial
	said   chan string // "ready", "unread"; closed when it has said its last
}

// startParty starts a party in a leg. It ends with the test at the latest.
func (m *matrix) startParty(leg, reps int, deaf bool) (*party, error) {
	args := []string{strconv.Itoa(reps), strconv.FormatBool(deaf)}
	for _, o := range m.observers {
		args = append(args, strconv.Itoa(o.port))
	}
	as := role(m, "matrix-party", append(args, strconv.Itoa(m.port))...)
	cmd := m.lab.Leg(leg).Command(as.Path, as.Args[1:]...)
	cmd.Env, cmd.Stderr = as.Env, as.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &party{said: make(chan string, 2)}
	for range reps {
		c.trials = append(c.trials, &trial{})
	}
	heard := make(chan struct{})
	m.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		<-heard
		_ = cmd.Wait()
	})
	go func() {
		defer close(heard)
		defer close(c.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.hear(m, strings.Fields(lines.Text()))
		}
	}()
	return c, nil
}

// hear takes in a line of what it says.
func (c *party) hear(m *matrix, words []string) {
	number := func(i int) int { n, _ := strconv.Atoi(words[i]); return n }
	switch words[0] {
	case "pid":
		c.pid = number(1)
	case "conn":
		kind, rep, peer := method(number(1)), number(2), netip.MustParseAddrPort(words[3])
		if kind == ours {
			c.trials[rep].entry = m.book.of(peer)
		} else {
			c.plains[kind] = append(c.plains[kind], peer)
		}
	case "byte":
		c.trials[number(1)].began(moment{time.Duration(number(2)), m.held.total()})
	default:
		c.said <- words[0]
	}
}

// wait waits until it says what.
func (c *party) wait(what string) error {
	select {
	case w, ok := <-c.said:
		if !ok || w != what {
			return fmt.Errorf("the party said %q, not %q", w, what)
		}
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("the party did not say %q within 20 s", what)
	}
}
