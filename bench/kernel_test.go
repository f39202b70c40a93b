//go:build linux

package bench

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

// A watch follows, in the kernel's own table, which connections of the server's namespace are
// established.
type watch struct {
	mu   sync.Mutex
	left map[netip.AddrPort]time.Time // the clients of those that were and are not any more, and since when
}

// watchTable watches the connections of the server's port until the test ends.
func watchTable(t testing.TB, lab *netlab.Lab, port int) *watch {
	t.Helper()
	var table *os.File
	require.NoError(t, lab.InServer(func() (err error) {
		table, err = os.Open("/proc/thread-self/net/tcp")
		return err
	}))
	w, quit := &watch{left: map[netip.AddrPort]time.Time{}}, make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		was := map[netip.AddrPort]bool{}
		for {
			is := established(t, table, port)
			w.mu.Lock()
			for a := range was {
				if !is[a] && w.left[a].IsZero() {
					w.left[a] = time.Now()
				}
			}
			w.mu.Unlock()
			was = is
			select {
			case <-time.After(10 * time.Millisecond):
			case <-quit:
				return
			}
		}
	})
	t.Cleanup(func() { close(quit); all.Wait(); table.Close() })
	return w
}

// established reads the clients of the established connections of port (proc_pid_net(5)).
func established(t testing.TB, table *os.File, port int) map[netip.AddrPort]bool {
	_, err := table.Seek(0, io.SeekStart)
	assert.NoError(t, err)
	b, err := io.ReadAll(table)
	assert.NoError(t, err)
	is := map[netip.AddrPort]bool{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && f[3] == "01" {
			host, service, _ := strings.Cut(f[2], ":")
			ip, err := hex.DecodeString(host)
			assert.NoError(t, err)
			p, err := strconv.ParseUint(service, 16, 16)
			assert.NoError(t, err)
			var a [4]byte
			binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(ip))
			is[netip.AddrPortFrom(netip.AddrFrom4(a), uint16(p))] = true
		}
	}
	return is
}

// since is when the connection of s was not established any more; zero: it still is.
func (w *watch) since(s *server.Session) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left[s.RemoteAddr()]
}

// While our only loop is stuck, the kernel's own watch is all there is. It ends those that are gone, and
// what it says becomes the reason that our own watch would have found; it ends nobody who is
// alive, be the path bad; and it ends nobody before the policy would have.
func TestKernelFirst(t *testing.T) { busy.Try(t, testKernelFirst) }

func testKernelFirst(t *busy.T) {
	t.Parallel()
	const each, block, stall = 3, 16 * time.Second, 2 * time.Second
	policy := hasty
	lab := newLab(t, 4)
	stalls, loses := lab.Leg(2), lab.Leg(3)
	path := netlab.Shape{Delay: 10 * time.Millisecond, Seed: 1}
	lossy := path
	lossy.Loss = 0.1
	require.NoError(t, stalls.Relay(path))
	require.NoError(t, loses.Relay(path))

	h := newRegister()
	srv, port := serveIn(t, lab, h, server.Config{Policy: policy, Loops: 1})
	w := watchTable(t, lab, port)
	frozen := startHerd(t, lab.Leg(0), port, each, "frozen, window closed")
	startDeaf(t, lab.Leg(0), port, each, "sends, does not read")
	inLeg(t, lab.Leg(1), port, each, "cut, data on the way")
	idle := inLeg(t, lab.Leg(1), port, each, "cut, idle")
	alive := map[string]*herd{
		"alive, 2 s stalls": inLeg(t, stalls, port, each, "alive, 2 s stalls"),
		"alive, 10 % loss":  inLeg(t, loses, port, each, "alive, 10 % loss"),
	}
	sendTo := func(name string, times, size int) {
		for _, s := range h.present(t, name, each) {
			for range times {
				require.NoError(t, s.Send(make([]byte, size)))
			}
		}
	}
	for _, herd := range alive {
		herd.talk(100 * time.Millisecond)
	}
	frozenAt := frozen.freeze(t)
	sendTo("frozen, window closed", 12, 50<<10)
	sendTo("sends, does not read", 12, 50<<10)
	h.present(t, "cut, idle", each)
	time.Sleep(policy.Interval / 4)
	for _, s := range idle.sheep { // so that no Ping is on its way to them
		require.NoError(t, s.say())
	}
	time.Sleep(policy.Interval / 10)

	cutAt, err := lab.Leg(1).Cut()
	require.NoError(t, err)
	require.NoError(t, stalls.Stall(stall))
	require.NoError(t, loses.Relay(lossy))
	sendTo("cut, data on the way", 1, 4<<10)
	for name := range alive {
		sendTo(name, 1, 4<<10)
	}
	time.Sleep(policy.Interval / 20) // it has been flushed
	blocked := make(chan time.Time)
	require.NoError(t, h.present(t, "cut, idle", each)[0].Post(func() { blocked <- time.Now(); time.Sleep(block) }))
	until := (<-blocked).Add(block)
	// Early enough for what TCP has put off to come: what the loop finds when it is back is the policy's.
	healed := time.AfterFunc(time.Until(until)-5*time.Second, func() { assert.NoError(t, loses.Relay(path)) })
	defer healed.Stop()
	for time.Until(until) > stall+policy.Interval {
		time.Sleep(stall + policy.Interval)
		require.NoError(t, stalls.Stall(stall))
	}
	time.Sleep(time.Until(until) - 200*time.Millisecond)
	require.Zero(t, srv.Stats().Closed, "the loop is not stuck")

	eventually(t, 10*time.Second, func() bool { return srv.Stats().Closed >= 4*each }, "the dead are told: %v", srv.Stats().Reasons)
	time.Sleep(policy.Timeout) // whatever happens to the living, happens
	for _, c := range []struct {
		name  string
		act   time.Time
		want  []server.Reason
		errno bool          // else our own look comes before gnet's, and finds the same
		late  server.Reason // told if the loop was away for long after the kernel had ended it; 0: none
	}{
		{"cut, data on the way", cutAt, []server.Reason{server.PathDead}, true, 0},
		{"cut, idle", cutAt, []server.Reason{server.PathDead}, true, 0},
		{"frozen, window closed", frozenAt, []server.Reason{server.PeerFrozen, server.PeerSlow}, false, server.HeartbeatLost},
		{"sends, does not read", frozenAt, []server.Reason{server.PeerSlow}, false, server.PeerFrozen},
	} {
		ends := h.endsOf(c.name)
		assert.Len(t, ends, each, c.name)
		for _, e := range ends {
			since := w.since(e.s)
			t.Logf("%-21s the kernel gave it up after %v; %v", c.name, since.Sub(c.act).Round(10*time.Millisecond), e.end)
			away := until.Sub(since)
			if e.end.Reason == c.late && away > policy.Timeout*9/10 {
				t.CannotTell("the loop was away for %v after the kernel had ended it: what came before is too old by then", away)
				continue
			}
			assert.Contains(t, c.want, e.end.Reason, "%s: %v; %+v", c.name, e.end, e.end.Record.TCP)
			if _, errno := e.end.Errno(); c.errno {
				assert.Equal(t, syscall.ETIMEDOUT, errno, "%s: %v", c.name, e.end)
			}
			if assert.False(t, since.IsZero(), "%s: the kernel did not end it", c.name) {
				assert.Greater(t, since.Sub(c.act), policy.Timeout, "%s: the kernel was early", c.name)
				assert.Less(t, since, until, "%s: the kernel was not first", c.name)
			}
		}
	}
	for name, herd := range alive {
		herd.hush()
		t.Logf("%-21s %d gone, %d ended by the server, %d suspected", name, len(herd.gone()), len(h.endsOf(name)), len(h.suspectsOf(name)))
		assert.Empty(t, herd.gone(), name)
		for _, s := range h.present(t, name, each) {
			assert.True(t, w.since(s).IsZero(), "%s: the kernel ended it", name)
		}
		for _, e := range h.endsOf(name) {
			assert.Fail(t, "ended", "%s: %v; %v; %+v", name, e.end, e.end.Record, e.end.Record.TCP)
		}
	}
}

// startDeaf starts n clients of that name that send all the time and never read, until the test ends.
func startDeaf(t testing.TB, leg *netlab.Leg, port, n int, name string) {
	t.Helper()
	quit := make(chan struct{})
	var all sync.WaitGroup
	t.Cleanup(func() { close(quit); all.Wait() })
	for range n {
		nc, err := leg.Dial(port)
		require.NoError(t, err)
		all.Go(func() {
			defer nc.Close()
			for {
				_, _ = nc.Write(frame(codec.Data, []byte(name)))
				select {
				case <-time.After(100 * time.Millisecond):
				case <-quit:
					return
				}
			}
		})
	}
}
