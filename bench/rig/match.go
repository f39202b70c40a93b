package rig

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
)

// A Pair is a server process and the process that puts load on it, connected. Call Stop.
type Pair struct {
	Server *Process
	Load   *Load
}

// StartPair starts a server and its load, and opens the connections. The load process is bound to
// Load.CPUs.
func StartPair(c Candidate) (*Pair, error) {
	s, err := Start(c.Server)
	if err != nil {
		return nil, err
	}
	p := &Pair{Server: s}
	if p.Load, err = StartLoad(c.Load.Threads, c.Load.CPUs); err == nil {
		o := c.Load
		o.Addr = s.Addr()
		err = p.Load.Open(o)
	}
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// Measure measures one round.
func (p *Pair) Measure(r load.Round) (Measure, error) {
	before, err := p.Server.Usage()
	if err != nil {
		return Measure{}, err
	}
	begun := time.Now()
	res, err := p.Load.Run(r)
	took := time.Since(begun)
	if err != nil {
		return Measure{}, err
	}
	after, err := p.Server.Usage()
	return Measure{
		Load: res, Took: took, CPU: after.CPU - before.CPU,
		Switches: after.Voluntary + after.Involuntary - before.Voluntary - before.Involuntary,
	}, err
}

// Stop ends both processes.
func (p *Pair) Stop() error {
	var err error
	if p.Load != nil {
		err = p.Load.Stop()
	}
	return errors.Join(err, p.Server.Stop())
}

// withDefaults fills zero fields in.
func (m Match) withDefaults() Match {
	if m.Rounds == 0 {
		m.Rounds = 7
	}
	if m.Round == (load.Round{}) {
		m.Round = load.Round{Warm: 50 * time.Millisecond, For: 300 * time.Millisecond}
	}
	if m.Seed == 0 {
		m.Seed = rand.Uint64()>>32 + 1
	}
	return m
}

// Interleave calls f for each of n contenders in each round, in an order that is shuffled anew for each
// round, and returns the seed of these orders. It is for what is not measured by Compare.
func (m Match) Interleave(n int, f func(round, contender int)) (seed uint64) {
	m = m.withDefaults()
	order := rand.New(rand.NewPCG(m.Seed, 0))
	for round := range m.Rounds {
		for _, i := range order.Perm(n) {
			f(round, i)
		}
	}
	return m.Seed
}

// Compare measures the candidates, all of which are there at the same time. One that cannot be started,
// or fails, is left out from then on, and its Row says why.
func (m Match) Compare(candidates []Candidate) *Outcome {
	m = m.withDefaults()
	out := &Outcome{Rows: make([]Row, len(candidates))}
	pairs := make([]*Pair, len(candidates))
	for i, c := range candidates {
		out.Rows[i].Candidate = c
		pairs[i], out.Rows[i].Err = StartPair(c)
	}
	out.Seed = m.Interleave(len(pairs), func(_, i int) {
		row := &out.Rows[i]
		if row.Err != nil {
			return
		}
		var found Measure
		if found, row.Err = pairs[i].Measure(m.Round); row.Err == nil {
			row.Rounds = append(row.Rounds, found)
		}
	})
	for i, p := range pairs {
		if p == nil {
			continue
		}
		if err := p.Stop(); err != nil && out.Rows[i].Err == nil {
			out.Rows[i].Err = err
		}
	}
	return out
}
