//go:build linux

package bench

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
	"github.com/pulsewheel/pulsewheel/server"
)

// evictionCost is what ending one session may take: most of it is close(2).
const evictionCost = 20 * time.Microsecond

// A register is a Handler that writes down what becomes of each session, under the name that its
// client has sent as its first message.
type register struct {
	server.Base
	mu       sync.Mutex // guards the rest
	named    map[string][]*server.Session
	suspects map[string][]suspected
	ends     map[string][]ended
}

type suspected struct {
	at  time.Time
	why server.Suspicion
}

type ended struct {
	s   *server.Session
	at  time.Time
	end *server.CloseError
}

func newRegister() *register {
	return &register{named: map[string][]*server.Session{}, suspects: map[string][]suspected{}, ends: map[string][]ended{}}
}

func nameOf(s *server.Session) string {
	name, _ := s.Value().(string)
	return name
}

func (r *register) OnMessage(s *server.Session, p []byte) error {
	if s.Value() == nil {
		s.SetValue(string(p))
		r.mu.Lock()
		r.named[string(p)] = append(r.named[string(p)], s)
		r.mu.Unlock()
	}
	return nil
}

func (r *register) OnSuspect(s *server.Session, why server.Suspicion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.suspects[nameOf(s)] = append(r.suspects[nameOf(s)], suspected{time.Now(), why})
}

func (r *register) OnClose(s *server.Session, end *server.CloseError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends[nameOf(s)] = append(r.ends[nameOf(s)], ended{s, time.Now(), end})
}

// present waits until n sessions have said that name, and returns them.
func (r *register) present(t testing.TB, name string, n int) (all []*server.Session) {
	t.Helper()
	eventually(t, 20*time.Second, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		all = slices.Clone(r.named[name])
		return len(all) == n
	}, "%d named %s", n, name)
	return all
}

// endsOf are the sessions of that name that have ended so far.
func (r *register) endsOf(name string) []ended {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ends[name])
}

// suspectsOf are the suspicions so far of sessions of that name.
func (r *register) suspectsOf(name string) []suspected {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.suspects[name])
}

// newLab makes a network that lasts until the test ends, or skips the test.
func newLab(t testing.TB, legs int) *netlab.Lab {
	t.Helper()
	lab, err := netlab.New(legs)
	if err != nil {
		t.Skipf("no network to break: %v", err)
	}
	t.Cleanup(func() { assert.NoError(t, lab.Close()) })
	return lab
}

// serveIn serves h in the lab until the test ends, and returns the port.
func serveIn(t testing.TB, lab *netlab.Lab, h server.Handler, cfg server.Config) (*server.Server, int) {
	t.Helper()
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	return serveOn(t, h, cfg, ln), ln.Addr().(*net.TCPAddr).Port
}

// startHerd starts n sheep of that name in a process in the client's namespace of leg.
func startHerd(t testing.TB, leg *netlab.Leg, port, n int, name string) *child {
	t.Helper()
	cmd := role(t, "herd", net.JoinHostPort(netlab.ServerAddr, strconv.Itoa(port)), strconv.Itoa(n), name)
	in := leg.Command(cmd.Path, cmd.Args[1:]...)
	in.Env, in.Stderr = cmd.Env, cmd.Stderr
	return spawn(t, in, nil)
}

// freeze stops the child's process. It returns the time when that is certain.
func (c *child) freeze(t testing.TB) time.Time {
	t.Helper()
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGSTOP))
	eventually(t, 10*time.Second, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
		require.NoError(t, err)
		_, rest, _ := strings.Cut(string(b), ") ")
		return strings.HasPrefix(rest, "T")
	}, "stopped")
	return time.Now()
}

// Thousands may die at once in different ways with others alive among them: each is told for what it
// is, and in time; the living notice nothing.
func TestMass(t *testing.T) {
	lab := newLab(t, 3)
	for _, c := range []struct {
		name string
		each int
		talk bool
	}{
		{"1000 of each, beating", 1000, false},
		{"1000 of each, talking", 1000, true},
		{"100 of each, beating", 100, false},
		{"100 of each, talking", 100, true},
	} {
		t.Run(c.name, busy.Test(func(t *busy.T) { mass(t, lab, c.each, c.talk) }))
	}
}

func mass(t *busy.T, lab *netlab.Lab, each int, talk bool) {
	policy := heartbeat.Policy{Interval: 500 * time.Millisecond, Timeout: 1500 * time.Millisecond}
	const tick = 50 * time.Millisecond
	h := newRegister()
	srv, port := serveIn(t, lab, h, server.Config{Policy: policy, Tick: tick, Loops: 2})
	frozen := startHerd(t, lab.Leg(0), port, each, "frozen")
	cut := startHerd(t, lab.Leg(1), port, each, "cut")
	live := startHerd(t, lab.Leg(2), port, each, "live")
	t.Cleanup(func() { assert.NoError(t, lab.Leg(1).Mend()) })
	for _, name := range []string{"frozen", "cut", "live"} {
		h.present(t, name, each)
	}
	if talk { // all that is to die will come due within two ticks
		frozen.ask(t, "talk 50ms", nil)
		cut.ask(t, "talk 50ms", nil)
		time.Sleep(policy.Interval)
	} else {
		time.Sleep(policy.Timeout) // each beats at its own time
	}
	before := srv.Stats()

	held := watchHeldUp()
	defer held.stop()
	cutAt, err := lab.Leg(1).Cut()
	require.NoError(t, err)
	frozenAt := frozen.freeze(t)
	eventually(t, 4*policy.Timeout, func() bool { return len(h.endsOf("frozen")) == each && len(h.endsOf("cut")) == each },
		"%d frozen and %d cut told", each, each)
	heldFor := held.total()
	time.Sleep(policy.Timeout) // whatever happens to the living, happens
	st := srv.Stats()

	limit := 2*tick + sockstat.Jiffy() + heldFor
	if each >= 1000 {
		limit += policy.Interval + 3*time.Duration(each)*evictionCost
	}
	t.Logf("%s: %d frozen, %d cut, %d live; timeout %v, interval %v, tick %v; %d suspected, %d grace rounds (this process was held up for %v)",
		t.Name(), each, each, each, policy.Timeout, policy.Interval, tick, st.Suspected-before.Suspected, st.GraceRounds, heldFor.Round(time.Millisecond))
	told(t, "frozen", h.endsOf("frozen"), server.PeerFrozen, frozenAt, policy.Timeout, limit)
	told(t, "cut", h.endsOf("cut"), server.PathDead, cutAt, policy.Timeout, limit)
	assert.Empty(t, h.endsOf("live"), "the living")
	var gone []string
	live.ask(t, "gone", &gone)
	assert.Empty(t, gone, "the living")
	if heldFor < policy.Interval/4 {
		assert.Empty(t.IfQuiet(policy.Interval/4), h.suspectsOf("live"), "the living")
	}
	assert.Equal(t, uint64(2*each), st.Closed, "%v", st.Reasons)
	switch {
	case each < 256:
		assert.Zero(t, st.GraceRounds, "too few for a symptom of the server")
	case talk:
		assert.NotZero(t, st.GraceRounds, "all came due at once")
	}
}

// told checks that all of ends are of that reason and not later than timeout and limit, not by the
// last byte that was heard of each, nor by the moment at which none could send any more.
func told(t *busy.T, name string, ends []ended, want server.Reason, act time.Time, timeout, limit time.Duration) {
	t.Helper()
	wrong := map[string]int{}
	var byByte, byAct []time.Duration
	for _, e := range ends {
		if e.end.Reason != want {
			wrong[fmt.Sprintf("%v; %+v", e.end, e.end.Record.TCP)]++
		}
		byByte = append(byByte, e.end.Record.Idle-timeout)
		byAct = append(byAct, e.at.Sub(act)-timeout)
	}
	assert.Empty(t, wrong, "%s: not %v", name, want)
	t.Logf("  %-6s %4d told %v, %d otherwise; late by the last byte heard: %s; by the act: %s; limit %v",
		name, len(ends), want, len(wrong), spread(byByte), spread(byAct), limit.Round(time.Millisecond))
	if len(ends) > 0 {
		assert.GreaterOrEqual(t, slices.Min(byByte), -sockstat.Jiffy(), "%s: told early", name)
		worst := slices.MaxFunc(ends, func(a, b ended) int { return cmp.Compare(a.end.Record.Idle, b.end.Record.Idle) })
		t.NotLater(worst.at.Add(-worst.end.Record.Idle), worst.at, timeout+limit, "%s, by the last byte: the verdict", name)
		worst = slices.MaxFunc(ends, func(a, b ended) int { return a.at.Compare(b.at) })
		t.NotLater(act, worst.at, timeout+limit, "%s, by the act: the verdict", name)
	}
}

// spread puts the shape of some durations in a few words.
func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	slices.Sort(d)
	at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1))].Round(time.Millisecond) }
	return fmt.Sprintf("p50 %v p99 %v max %v", at(0.5), at(0.99), at(1))
}
