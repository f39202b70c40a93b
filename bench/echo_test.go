//go:build linux

package bench

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
	"github.com/pulsewheel/pulsewheel/codec"
)

func init() { servers.Register() }

// BenchmarkEcho sends messages to a server process from a load process, and takes them back: to raw epoll, to gnet
// alone with its handler written by hand for the same frames, and to the library with liveness on, as always, and off
// (unwatched). With one loop each has CPUs of its own, if there are two; with all, server and load share
// the machine. An operation is one message; the load sends b.N of them, rounded up to whole bursts, so a short
// benchtime measures the first burst. allocs/op and B/op are the server's.
//
// To compare servers go run ./bench/compare is better: it interleaves them.
func BenchmarkEcho(b *testing.B) {
	all := max(len(rig.CPUs()), 1)
	for _, conns := range []int{1, 100, 1000, 5000} {
		for _, outstanding := range []int{1, 16} {
			for _, size := range []int{64, 512} {
				if conns == 5000 && size == 512 {
					continue // it takes a third of a second to open them: the command has this cell
				}
				for _, p := range []struct {
					loops int
					place rig.Place
				}{{1, rig.Apart(1)}, {all, rig.Together()}} {
					for _, name := range []string{servers.Epoll, servers.Gnet, servers.Pulsewheel, servers.Unwatched} {
						c := rig.Candidate{Server: servers.Server(name, servers.Options{Loops: p.loops}), Load: load.Options{
							Conns: conns, Outstanding: outstanding, Message: frame(codec.Data, make([]byte, size)), Pongs: true,
							Threads: p.place.Threads, CPUs: p.place.Load,
						}}
						c.Server.CPUs, c.Server.GOMAXPROCS = p.place.Server, p.loops
						benchmarkEcho(b, fmt.Sprintf("conns=%d/outstanding=%d/size=%d/loops=%d/%s", conns, outstanding, size, p.loops, name), c)
					}
				}
			}
		}
	}
}

// benchmarkEcho runs one of them. Its processes are started once, however often the testing package calls it.
func benchmarkEcho(b *testing.B, name string, c rig.Candidate) {
	var pair *rig.Pair
	b.Run(name, func(b *testing.B) {
		if pair == nil {
			var err error
			pair, err = rig.StartPair(c)
			require.NoError(b, err)
		}
		before := serverMallocs(b, pair)
		r, err := pair.Load.Run(load.Round{Messages: b.N})
		require.NoError(b, err)
		after := serverMallocs(b, pair)
		asking := serverMallocs(b, pair).less(after) // what it takes to ask is not the messages'
		used := after.less(before).less(asking)
		n := float64(r.Messages)
		b.SetBytes(int64(len(c.Load.Message)))
		b.ReportAllocs()
		b.ReportMetric(float64(r.Elapsed)/n, "ns/op")
		b.ReportMetric(r.Rate(), "msgs/s")
		b.ReportMetric(float64(r.Latency.Quantile(0.99)), "p99-ns")
		b.ReportMetric(used.objects/n, "allocs/op")
		b.ReportMetric(used.bytes/n, "B/op")
	})
	if pair != nil {
		require.NoError(b, pair.Stop())
	}
}

// mallocs is what a process has allocated.
type mallocs struct{ objects, bytes float64 }

func (m mallocs) less(o mallocs) mallocs {
	return mallocs{max(m.objects-o.objects, 0), max(m.bytes-o.bytes, 0)}
}

func serverMallocs(b *testing.B, pair *rig.Pair) mallocs {
	objects, bytes, err := pair.Server.Mallocs()
	require.NoError(b, err)
	return mallocs{float64(objects), float64(bytes)}
}
