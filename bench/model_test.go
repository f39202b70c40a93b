//go:build linux

package bench

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

var (
	modelLength   = flag.Duration("model", 8*time.Second, "for how long TestModel acts")
	modelSessions = flag.Int("model.sessions", 0, "how many sessions TestModel keeps up; 0: 300, and 5000 if -model is a minute or more")
	modelSeed     = flag.Uint64("model.seed", 0, "what TestModel draws its plan from; 0: the clock")
)

// TestModel lets a crowd of clients do everything that clients do, for as long as -model says, by a plan
// drawn from -model.seed. Who carries out the plan knows the truth of what was done to each of them,
// and every reason that the server tells must be true; whoever nothing was done to must live to the
// end. With root the clients are on ten legs of a network of their own, whose cables are pulled; without
// it they are on the loopback, and nothing is cut.
//
//	go test ./bench -run TestModel -v -model 5m -timeout 15m
func TestModel(t *testing.T) { busy.Try(t, testModel) }

func testModel(t *busy.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	sessions := *modelSessions
	if sessions == 0 {
		sessions = 300
		if *modelLength >= time.Minute {
			sessions = 5000
		}
	}
	lab, err := netlab.New(modelLegs)
	if err != nil {
		fmt.Printf("model: on the loopback, without cuts: %v\n", err)
		lab = nil
	} else {
		t.Cleanup(func() { assert.NoError(t, lab.Close()) })
	}
	p := newPlan(seed, sessions, *modelLength, lab != nil)
	p.introduce()
	d := &director{plan: p, slots: make([]*peer, len(p.traits)), peers: map[int]*peer{}, acting: map[*peer]bool{},
		blocked: make([][]int, len(p.procs)), cut: make([]bool, len(p.legs)), broken: make([]time.Time, len(p.legs)), stalled: make([]time.Time, len(p.legs)), lates: make([][]lateness, len(p.procs)+1),
		calling: map[netip.AddrPort][]*peer{}, arrived: map[netip.AddrPort][]telling{}, early: map[*server.Session][]telling{},
		sessions: map[*server.Session]*peer{}, held: watchHeldUp(), tally: newTally()}
	defer d.held.stop()
	d.world = newWorld(t, lab, p)
	d.play()
}

// play has everybody connect, carries out the plan, and drains the server.
func (d *director) play() {
	for i, p := range d.plan.procs {
		for k := range p.slots {
			d.retake(p.first+k, i)
		}
	}
	require.True(d.t, d.run(30*time.Second, d.complete), "not all clients are up: seed %d", d.plan.seed)
	d.begun = time.Now()
	busy := busyCores()
	d.liveMin = len(d.slots)
	for _, e := range d.plan.deeds {
		d.at(d.begun.Add(e.at), func() { d.do(e) })
	}
	end := d.begun.Add(d.plan.length)
	d.run(d.plan.length+30*time.Second, func() bool { return time.Now().After(end) && len(d.agenda) == 0 && d.complete() })
	for _, p := range d.slots {
		if !p.idle() {
			d.failf("a slot is not what it was: %+v", p)
		}
	}
	took := time.Since(d.begun)
	busy = busyCores() - busy
	d.drain()
	d.report(took, busy)
}

// complete tells whether everybody is there, and nothing is being done to anybody.
func (d *director) complete() bool {
	return len(d.acting) == 0 && !slices.ContainsFunc(d.slots, func(p *peer) bool { return !p.idle() })
}

// drain ends the server in good order. Everybody to whom nothing was done has lived until now, and is told; then
// the server's own counters must agree with what it told.
func (d *director) drain() {
	if live := d.srv.Stats().Live; live != len(d.slots) {
		d.failf("%d sessions live, and %d slots are taken", live, len(d.slots))
	}
	d.judgeRecent()
	d.ending = true
	for _, p := range d.slots {
		if p.idle() {
			d.begin(p, actNamed("drained"), 0)
			p.actedAt = time.Now()
		}
	}
	drained := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go func() { drained <- d.srv.Drain(ctx) }()
	d.run(20*time.Second, func() bool { return len(d.acting) == 0 })
	assert.NoError(d.t, <-drained)
	for p := range d.acting {
		d.fail(p, "still there after Drain")
	}
	st := d.srv.Stats()
	assert.Equal(d.t, d.told[toldOpen], st.Opened, "calls of OnOpen")
	assert.Equal(d.t, d.told[toldClose], st.Closed, "calls of OnClose")
	assert.Equal(d.t, st.Opened, st.Closed)
	assert.Equal(d.t, d.told[toldSuspect], st.Suspected, "calls of OnSuspect")
	assert.Equal(d.t, d.told[toldRecover], st.Recovered, "calls of OnRecover")
	assert.Equal(d.t, d.reasons, st.Reasons, "reasons")
	assert.EqualValues(d.t, d.suspicions[server.SuspectPath.String()], st.Warned, "suspicions of the path")
	assert.Zero(d.t, st.Suspect, "suspect and ended")
	assert.Zero(d.t, st.AcceptErrors)
	assert.Zero(d.t, st.Refused)
	for addr, unknown := range d.arrived {
		assert.Empty(d.t, unknown, "a session from %v that is no client of ours", addr)
	}
	d.judgeRecent()
}

// judgeRecent compares the server's own list of those that ended last with what was told.
func (d *director) judgeRecent() {
	recent := d.srv.Recent()
	assert.Len(d.t, recent, int(min(d.told[toldClose], 1024)))
	for i, e := range recent {
		if told, ok := d.reasonOf[e.ID]; !ok || told != e.End.Reason {
			d.failf("Recent()[%d]: session %d: %v, but OnClose was told %v", i, e.ID, e.End.Reason, told)
		}
	}
	newestFirst := slices.IsSortedFunc(recent, func(a, b server.Ended) int {
		return b.At.Truncate(50 * time.Millisecond).Compare(a.At.Truncate(50 * time.Millisecond))
	})
	assert.True(d.t, newestFirst, "the newest first")
}
