package rig

import (
	"fmt"
	"slices"

	"github.com/pulsewheel/pulsewheel/bench/load"
)

// SpreadOf returns how v is spread, zeros if it is empty.
func SpreadOf(v []float64) Spread {
	if len(v) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(v))
	return Spread{Median: at(s, 0.5), Low: at(s, 0.25), High: at(s, 0.75), Min: s[0], Max: s[len(s)-1], N: len(s)}
}

// at is the quantile q of sorted numbers, between two of them in proportion.
func at(s []float64, q float64) float64 {
	x := q * float64(len(s)-1)
	i := int(x)
	if i+1 == len(s) {
		return s[i]
	}
	return s[i] + (x-float64(i))*(s[i+1]-s[i])
}

// Ratio returns how the ratios of paired rounds are spread: a[i]/b[i], for as many as both have.
func Ratio(a, b []float64) Spread {
	var v []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			v = append(v, a[i]/b[i])
		}
	}
	return SpreadOf(v)
}

// String returns the median and the quartiles.
func (s Spread) String() string {
	if s.N == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", s.Median, s.Low, s.High)
}

// Rates returns the messages per second of each round.
func (r Row) Rates() []float64 {
	return r.each(func(m Measure) float64 { return m.Load.Rate() })
}

// PerMessage returns the server's CPU time for each message, in nanoseconds, of each round.
func (r Row) PerMessage() []float64 {
	return r.each(func(m Measure) float64 { return float64(m.CPU) / float64(max(m.Load.Total, 1)) })
}

// Busy returns how many cores the server kept busy, of each round.
func (r Row) Busy() []float64 {
	return r.each(func(m Measure) float64 { return m.CPU.Seconds() / m.Took.Seconds() })
}

// LoadBusy returns how many cores the load kept busy, of each round.
func (r Row) LoadBusy() []float64 {
	return r.each(func(m Measure) float64 { return m.Load.CPU.Seconds() / m.Load.Elapsed.Seconds() })
}

// Quantiles returns a quantile of the latency of bursts of each round, in nanoseconds.
func (r Row) Quantiles(q float64) []float64 {
	return r.each(func(m Measure) float64 { return float64(m.Load.Latency.Quantile(q)) })
}

// Latency returns the latency of the bursts of all rounds.
func (r Row) Latency() load.Histogram {
	var h load.Histogram
	for _, m := range r.Rounds {
		h.Merge(m.Load.Latency)
	}
	return h
}

func (r Row) each(f func(Measure) float64) []float64 {
	v := make([]float64, len(r.Rounds))
	for i, m := range r.Rounds {
		v[i] = f(m)
	}
	return v
}

// Row returns the row of this name, or nil.
func (o *Outcome) Row(name string) *Row {
	for i := range o.Rows {
		if o.Rows[i].Name == name {
			return &o.Rows[i]
		}
	}
	return nil
}

// Best returns that of the named rows with the highest median rate, or nil if none could be measured.
func (o *Outcome) Best(names ...string) *Row {
	var best *Row
	for _, name := range names {
		r := o.Row(name)
		if r == nil || r.Err != nil {
			continue
		}
		if best == nil || SpreadOf(r.Rates()).Median > SpreadOf(best.Rates()).Median {
			best = r
		}
	}
	return best
}
