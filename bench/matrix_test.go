//go:build linux

package bench

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	matrixReps   = flag.Int("matrix.reps", 20, "how often TestMatrix does each thing to a connection, for each of its observers")
	matrixWindow = flag.Duration("matrix.window", 25*time.Second, "for how long TestMatrix waits for an observer that sees nothing")
)

// matrixConfig has deadlines that fit into the window, and differ.
var matrixConfig = server.Config{
	Policy:           heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second},
	HandshakeTimeout: 2 * time.Second,
	FrameTimeout:     2 * time.Second,
	Tick:             20 * time.Millisecond,
}

// patientPolicy is that of the sessions that show a suspicion long before any silence would.
var patientPolicy = heartbeat.Policy{Interval: 20 * time.Second, Timeout: time.Minute}

// turnLimit is within what an ending that the kernel tells must be told on, p99.
const turnLimit = 5 * time.Millisecond

// warnLimit is within what a peer that is streamed to must be suspect once its cable is pulled, p99.
const warnLimit = time.Second

// afterSilence is within what a deadline of d is told: two ticks later, and as the kernel dates the last byte by its own
// clock, one tick of that.
func afterSilence(d time.Duration) time.Duration {
	return d + 2*matrixConfig.Tick + sockstat.Jiffy()
}

// TestMatrix does to connections everything that a client can do, or have done to it, and prints as one
// markdown table what each of the usual methods makes of it by itself, on a plain socket of its own, next
// to what a session of pulsewheel is told. It fails on a wrong reason, on a p99 past its limit, and if a plain method
// sees anything but what is expected of it.
//
// What is quick is done to one connection at a time. What is slow is done to many at once, each
// case in a leg of the network of its own where it is done to the network.
func TestMatrix(t *testing.T) { busy.Try(t, testMatrix) }

func testMatrix(t *busy.T) {
	if testing.Short() {
		t.Skip("it takes the window (-matrix.window), and ten seconds")
	}
	require.Positive(t, *matrixReps, "-matrix.reps")
	require.GreaterOrEqual(t, *matrixWindow, 10*time.Second, "-matrix.window: the slowest method takes 7 s")
	m := newMatrix(t)
	var rows []*row
	for _, q := range quickCases {
		rows = append(rows, m.quick(q))
	}
	for _, k := range killCases {
		rows = append(rows, m.kill(k))
	}
	rows = append(rows, m.slow()...)
	for _, r := range rows {
		r.collect()
		m.check(r)
	}
	fmt.Printf("%s\n%s\n", m.table(rows), legend())
}

// A matrix is a network with a server, and next to it one observer for each plain method.
type matrix struct {
	*busy.T
	lab       *netlab.Lab
	book      *book
	port      int // of the server
	observers [methods]*observer
	stream    *stream
	held      *heldUp
	guests    guests
}

func newMatrix(t *busy.T) *matrix {
	lab, err := netlab.New(legs)
	if err != nil {
		t.Skip("no network to pull a cable in: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, lab.Close()) })
	m := &matrix{T: t, lab: lab, held: watchHeldUp()}
	t.Cleanup(m.held.stop)
	m.book = &book{held: m.held, entries: map[netip.AddrPort]*entry{}}

	srv, err := server.New(m.book, matrixConfig)
	require.NoError(t, err)
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	m.port = int(netip.MustParseAddrPort(ln.Addr().String()).Port())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-served, server.ErrServerClosed)
	})
	for how := range methods {
		require.NoError(t, lab.InServer(func() (err error) {
			m.observers[how], err = newObserver(how)
			return err
		}))
		t.Cleanup(m.observers[how].close)
	}
	m.stream = startStream()
	t.Cleanup(m.stream.stop)
	t.Cleanup(m.guests.leave)
	return m
}

// A row is one case, as all its observers saw it.
type row struct {
	name    string
	truth   []server.Reason // what is true of it; nil: its end is not waited for
	expect  [methods]string // what each plain method has to see: see sees
	limit   time.Duration   // from the act to OnClose
	since   bool            // the limit, and that of the suspicion, count from trial.from instead
	suspect time.Duration   // to OnSuspect; 0: no suspicion is asked for
	warned  bool            // the suspicion counts from the act, and is the path's
	acked   bool            // the limit counts from an acknowledgement, of which the server need not know when it came
	alone   bool            // the plain methods watch too
	slow    string          // why it was not done as it should have been: the machine was too slow

	trials   []*trial
	watching []watched
	sights   [methods][]sighting // when all is over
}

// A watched socket is one to which something was done at the time act.
type watched struct {
	*plain
	act time.Duration
}

// collect takes over what was told and seen, when all is over.
func (r *row) collect() {
	for _, tr := range r.trials {
		tr.collect()
	}
	if r.acked {
		r.limit += r.ackDelay()
	}
	for _, w := range r.watching {
		r.sights[w.o.how] = append(r.sights[w.o.how], w.sighting(w.act))
	}
}

// ackDelay is how long after the last segment its acknowledgement may have come, as the server's kernel knows it. The kernel dates
// the last acknowledgement of all, and if that was one of a probe, the server takes this for the time of the one before.
func (r *row) ackDelay() (longest time.Duration) {
	for _, tr := range r.trials {
		if tr.end != nil {
			longest = max(longest, tr.end.Record.TCP.RTT+4*tr.end.Record.TCP.RTTVar)
		}
	}
	return longest
}

// A trial is one session to which something is done.
type trial struct {
	entry *entry

	mu   sync.Mutex
	act  moment // what is done to it
	from moment // what starts its deadline: usually the last byte that the server got

	verdict // when all is over
}

// acted notes that the act is done now.
func (tr *trial) acted(at moment) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.act = at
}

// began notes that the deadline starts, again, now.
func (tr *trial) began(at moment) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.from = at
}

// collect takes over what was told.
func (tr *trial) collect() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.verdict = tr.entry.verdict()
}

// A moment is a time, and what the machine had held this process up by until then.
type moment struct {
	at   time.Duration // CLOCK_MONOTONIC
	held time.Duration
}

// since is the time from start to a moment, less what the machine held us up by meanwhile.
func (a moment) since(start moment) time.Duration { return a.at - start.at - (a.held - start.held) }

// wall is when it was by Go's clock.
func (a moment) wall() time.Time { return time.Now().Add(a.at - monotonic()) }

func (m *matrix) now() moment { return moment{monotonic(), m.held.total()} }

// monotonic is CLOCK_MONOTONIC, which is the same for all processes.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// check holds what was seen against what must be.
func (m *matrix) check(r *row) {
	if r.slow != "" {
		m.CannotTell("%s: %s", r.name, r.slow)
		return
	}
	for how, seen := range r.sights {
		if !r.alone {
			break
		}
		assert.Len(m, seen, *matrixReps, "%s: %v", r.name, method(how))
		contrary := slices.DeleteFunc(slices.Clone(seen), func(s sighting) bool { return sees(r.expect[how], s.what) && s.at >= 0 })
		assert.Empty(m, contrary, "%s: %v alone must see %q", r.name, method(how), r.expect[how])
	}
	assert.Len(m, r.trials, *matrixReps, r.name)
	assert.Empty(m, r.wrong(), "%s: it must be %v", r.name, r.truth)
	if r.truth != nil {
		if late := quantile(r.lateness(), 0.99); late > r.limit+m.held.unseen() {
			for _, tr := range r.trials {
				if tr.end != nil && tr.told.since(r.start(tr)) == late {
					m.NotLater(r.start(tr).wall(), tr.told.wall(), r.limit+m.held.unseen(), "%s, p99: OnClose", r.name)
				}
			}
		}
	}
	if r.suspect == 0 {
		return
	}
	for _, tr := range r.trials {
		assert.GreaterOrEqual(m, tr.suspect.at, tr.act.at, "%s: suspect never, or before anything was done to it", r.name)
		if r.truth == nil {
			assert.Equal(m, server.SuspectPath, tr.why, r.name)
		}
	}
	if late := quantile(r.suspicions(), 0.99); late > r.suspect+m.held.unseen() {
		for _, tr := range r.trials {
			if from := r.suspectFrom(tr); tr.suspect.at != 0 && tr.suspect.since(from) == late {
				m.NotLater(from.wall(), tr.suspect.wall(), r.suspect+m.held.unseen(), "%s, p99: OnSuspect", r.name)
			}
		}
	}
}

// wrong are the ends that are not true.
func (r *row) wrong() (ends []string) {
	for _, tr := range r.trials {
		switch {
		case r.truth == nil:
		case tr.end == nil:
			ends = append(ends, "never told")
		case !slices.Contains(r.truth, tr.end.Reason):
			ends = append(ends, fmt.Sprintf("%v; %v", tr.end, tr.end.Record))
		}
	}
	return ends
}

// start is what the limit of a trial counts from.
func (r *row) start(tr *trial) moment {
	if r.since {
		return tr.from
	}
	return tr.act
}

// lateness is the time from what started each deadline to OnClose, less what the machine held us up by.
func (r *row) lateness() (ds []time.Duration) {
	for _, tr := range r.trials {
		if tr.end != nil {
			ds = append(ds, tr.told.since(r.start(tr)))
		}
	}
	return ds
}

// suspectFrom is what the suspicion of a trial counts from.
func (r *row) suspectFrom(tr *trial) moment {
	if r.warned {
		return tr.act
	}
	return r.start(tr)
}

// suspicions is the time from what each suspicion counts from to OnSuspect, likewise.
func (r *row) suspicions() (ds []time.Duration) {
	for _, tr := range r.trials {
		if tr.suspect.at != 0 {
			ds = append(ds, tr.suspect.since(r.suspectFrom(tr)))
		}
	}
	return ds
}
