//go:build linux

package bench

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/server"
)

// A slow case takes seconds to be told, and so is done to all its connections at the same time.
type slowCase struct {
	*row
	leg       int
	process   bool // the clients are a process of their own
	comesLate bool // the clients connect with the act
	patient   bool // the sessions have patientPolicy, and there is nothing else in this case
	load      int  // bytes that are sent to each client every 100 ms
	talks     bool // the sessions' clients send by themselves

	// One of two: what is done to all, or how a connection begins that is never one. begin says that
	// what starts the deadline comes now; otherwise that is the dial.
	act   func(m *matrix, c *cast) error
	opens func(g *guest, begin func()) error

	prepare func(m *matrix, c *cast) error // is called a second before act; may be nil
}

const (
	lightly = 100      // bytes every 100 ms: many minutes until a window is full
	heavily = 16 << 10 // and half a second
)

func slowCases() []slowCase {
	policy := matrixConfig.Policy
	deadline := func(name string, r server.Reason, d time.Duration, expect [methods]string) *row {
		return &row{name: name, truth: []server.Reason{r}, expect: expect, alone: true, limit: afterSilence(d)}
	}
	silent := func(name string, r server.Reason, expect [methods]string) *row {
		row := deadline(name, r, policy.Timeout, expect)
		row.since, row.suspect = true, afterSilence(policy.Interval)
		return row
	}
	streamed := func(name string, r server.Reason, expect [methods]string) *row {
		row := silent(name, r, expect)
		row.suspect, row.warned = warnLimit, true
		return row
	}
	// A frozen process does not read what it is sent either: which of the two is told first depends on how much its
	// kernel takes.
	frozenFull := silent("process frozen, streamed to heavily", server.PeerFrozen,
		[methods]string{byHeartbeat: "silent", byUserTimeout: "ETIMEDOUT"})
	frozenFull.truth = append(frozenFull.truth, server.PeerSlow)
	// Its kernel may still be taking the stream when the Ping is written, which is held up behind that; it is not a
	// question before, and an answer is given a quarter of Interval.
	frozenFull.suspect = afterSilence(policy.Interval + policy.Interval/4)
	slow := deadline("stops reading, streamed to heavily", server.PeerSlow, policy.Timeout, // which is WriteTimeout, too
		[methods]string{byUserTimeout: "ETIMEDOUT"})
	slow.since, slow.acked = true, true // counted from the last acknowledgement of a byte
	pulled := []slowCase{
		{row: silent("cable pulled, idle", server.PathDead,
			[methods]string{byKeepalive: "ETIMEDOUT", byHeartbeat: "silent"}), leg: legIdle, act: pull},
		{row: streamed("cable pulled, streamed to", server.PathDead,
			[methods]string{byHeartbeat: "silent", byUserTimeout: "ETIMEDOUT"}), leg: legStream, load: lightly, act: pull},
		{row: &row{name: "the same, with Interval 20 s", suspect: warnLimit, warned: true},
			leg: legPatient, load: lightly, patient: true, act: pull},
	}
	return slices.Concat(pulled, pathCases(silent, streamed), []slowCase{
		{row: streamed("host gone, says its router (ICMP), streamed to", server.PathUnreachable,
			[methods]string{byHeartbeat: "silent", byUserTimeout: "EHOSTUNREACH"}), leg: legGone, load: lightly, act: vanish},
		{row: silent("process frozen (SIGSTOP), idle", server.PeerFrozen,
			[methods]string{byHeartbeat: "silent"}), process: true, act: freeze},
		{row: silent("process frozen, streamed to lightly", server.PeerFrozen,
			[methods]string{byHeartbeat: "silent"}), process: true, load: lightly, act: freeze},
		{row: frozenFull, process: true, load: heavily, act: freeze},
		{row: slow, load: heavily, talks: true, act: goDeaf},
		{row: deadline("a frame byte by byte", server.PeerStalledFrame, matrixConfig.FrameTimeout,
			[methods]string{byEpoll: "IN"}), opens: trickle},
		{row: deadline("connects and says nothing", server.PeerUnready, matrixConfig.HandshakeTimeout,
			[methods]string{byHeartbeat: "silent"}), opens: func(*guest, func()) error { return nil }},
	})
}

// A cast is all who take part in a slow case.
type cast struct {
	slowCase
	sessions []*guest // those of this process, as the row's trials
	plains   []*guest // likewise
	party    *party
}

// slow does all slow cases at the same time, each to all its connections, and waits for what is seen.
func (m *matrix) slow() (rows []*row) {
	for _, o := range m.observers {
		o.grain.Store(int64(slowGrain))
	}
	var casts []*cast
	var joining sync.WaitGroup
	cases := slowCases()
	errs := make([]error, len(cases))
	for i, sc := range cases {
		c := &cast{slowCase: sc}
		casts, rows = append(casts, c), append(rows, c.row)
		joining.Add(1)
		go func() {
			defer joining.Done()
			switch {
			case c.process:
				errs[i] = c.joinParty(m)
			case !c.comesLate:
				errs[i] = c.join(m)
			}
		}()
	}
	joining.Wait()
	for i, err := range errs {
		require.NoError(m, err, cases[i].name)
	}
	time.Sleep(2*matrixConfig.Policy.Interval - time.Second) // so that all have come to beat
	prepared := time.Now()
	for _, c := range casts {
		if c.prepare != nil {
			require.NoError(m, c.prepare(m, c), c.name)
		}
	}
	time.Sleep(time.Second)
	for _, c := range casts {
		if c.act != nil {
			require.NoError(m, c.act(m, c), c.name)
		}
		if took := time.Since(prepared); c.prepare != nil && took > matrixConfig.Policy.Timeout/2 {
			c.slow = fmt.Sprintf("it was done %v after it had been prepared", took) // another deadline is near
		}
	}
	time.Sleep(*matrixWindow)
	return rows
}

// join connects all of a case, for each repetition a session and one for each observer.
func (c *cast) join(m *matrix) error {
	for rep := range *matrixReps {
		if err := c.joinSession(m, rep); err != nil {
			return fmt.Errorf("session %d: %w", rep, err)
		}
		for how := range methods {
			if c.patient {
				break
			}
			if err := c.joinPlain(m, how, rep); err != nil {
				return fmt.Errorf("%v %d: %w", how, rep, err)
			}
		}
		time.Sleep(joinSpread / time.Duration(*matrixReps))
	}
	return nil
}

func (c *cast) joinSession(m *matrix, rep int) error {
	at := m.now()
	g, tr, err := m.dialSession(c.leg, rep)
	if err != nil {
		return err
	}
	c.sessions, c.trials = append(c.sessions, g), append(c.trials, tr)
	if c.opens != nil {
		tr.acted(at)
		return c.opens(g, func() { tr.acted(m.now()) })
	}
	if g.talks = c.talks; !c.talks {
		g.wrote = func() { tr.began(m.now()) }
	}
	if err := g.join(); err != nil {
		return err
	}
	g.live()
	if c.patient {
		s, err := tr.entry.opened()
		if err != nil {
			return err
		}
		if err := s.SetPolicy(patientPolicy); err != nil {
			return err
		}
	}
	return c.streamSession(m, rep, tr)
}

func (c *cast) joinPlain(m *matrix, how method, rep int) error {
	at := monotonic()
	g, p, err := m.dialPlain(c.leg, how, rep)
	if err != nil {
		return err
	}
	c.plains = append(c.plains, g)
	if c.opens != nil {
		err := c.opens(g, func() { at = monotonic() })
		c.watching = append(c.watching, watched{p, at})
		return err
	}
	g.live()
	c.watching = append(c.watching, watched{plain: p})
	c.streamPlain(m, rep, p)
	return nil
}

// joinParty is join for a process of its own.
func (c *cast) joinParty(m *matrix) (err error) {
	if c.party, err = m.startParty(c.leg, *matrixReps, false); err != nil {
		return err
	}
	if err := c.party.wait("ready"); err != nil {
		return err
	}
	c.trials = c.party.trials
	for rep, tr := range c.trials {
		if err := c.streamSession(m, rep, tr); err != nil {
			return err
		}
	}
	for how, peers := range c.party.plains {
		for rep, peer := range peers {
			p, err := m.observers[how].await(peer)
			if err != nil {
				return err
			}
			c.watching = append(c.watching, watched{plain: p})
			c.streamPlain(m, rep, p)
		}
	}
	return nil
}

func (c *cast) streamSession(m *matrix, rep int, tr *trial) error {
	if c.load == 0 {
		return nil
	}
	s, err := tr.entry.opened()
	if err != nil {
		return err
	}
	b := make([]byte, c.load)
	m.stream.add(rep, func() { _ = s.Send(b) }) // once it has ended, an error
	return nil
}

func (c *cast) streamPlain(m *matrix, rep int, p *plain) {
	if c.load > 0 {
		b := make([]byte, c.load)
		m.stream.add(rep, func() { p.send(b) })
	}
}

// acted notes when it was done to all of them.
func (c *cast) acted(at moment) {
	for _, tr := range c.trials {
		tr.acted(at)
	}
	for i := range c.watching {
		c.watching[i].act = at.at
	}
}
