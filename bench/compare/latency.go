package main

import (
	"fmt"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
)

// latencyCell is what the latency part puts on servers: as many messages as they can take, so a latency is mostly
// time in a queue of a thousand.
var latencyCell = cell{1000, 1, 64}

func planLatency(at place) string {
	n := len(contenders(at))
	return fmt.Sprintf("%v, %d servers, %d rounds of %v: about %v", latencyCell, n, *rounds, 2**counted, 2*took(n))
}

// runLatency prints a row for each server: quantiles over all rounds, and their ratios by rounds.
func runLatency(at place) error {
	m := match()
	m.Round.For *= 2
	out := m.Compare(contendersFor(at, latencyCell))
	if err := failed(out); err != nil {
		return err
	}
	base := out.Best(gnet, gnetMore)
	t := rig.Table{Head: []string{"server", "messages/s", "p50", "p99", "p99.9", "longest", "p99 : gnet", "p99.9 : gnet"}}
	t.Head = append(t.Head, older.heads("messages/s", "p99", "p99.9")...)
	for _, r := range out.Rows {
		if r.Name == gnet && base.Name == gnetMore || r.Name == gnetMore && base.Name == gnet || r.Name == servers.Unwatched {
			continue
		}
		h := r.Latency()
		cells := []string{r.Name, rig.Count(rig.SpreadOf(r.Rates()).Median),
			rig.Short(h.Quantile(0.5)), rig.Short(h.Quantile(0.99)), rig.Short(h.Quantile(0.999)), rig.Short(h.Max),
			rig.Ratio(r.Quantiles(0.99), base.Quantiles(0.99)).String(), rig.Ratio(r.Quantiles(0.999), base.Quantiles(0.999)).String()}
		if older != nil {
			was := out.Row(older.name)
			cells = append(cells, rig.Ratio(r.Rates(), was.Rates()).String(),
				rig.Ratio(r.Quantiles(0.99), was.Quantiles(0.99)).String(), rig.Ratio(r.Quantiles(0.999), was.Quantiles(0.999)).String())
		}
		t.Add(cells...)
	}
	t.Print(os.Stdout)
	return nil
}

func nanoseconds(ns float64) string { return rig.Short(time.Duration(ns)) }
