//go:build linux

package bench

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/server"
)

// TestNoFalseConviction: on a path with a round trip of 300 ms that stands still for 2 s again and
// again, the default policy ends no session and loses no message. A session that is streamed to may be
// suspect while its path stands still; it recovers when that goes on.
func TestNoFalseConviction(t *testing.T) {
	t.Parallel()
	const stall = 2 * time.Second
	stalls := 5
	if *linkLong {
		stalls = 40
	}
	t.Logf("-link.seed=%d", *linkSeed)
	far := link{name: "rtt 300", shape: linkDelay(300 * time.Millisecond), legs: 1}
	g := playLinks(t, *linkSeed, []link{far}, func(link) (all []*linkPlayer) {
		for range 22 {
			all = append(all, &linkPlayer{}, &linkPlayer{down: linkStream{size: 100, every: 100 * time.Millisecond}})
		}
		for range 6 {
			all = append(all, &linkPlayer{up: linkStream{size: 4 << 10, every: 100 * time.Millisecond}})
		}
		return all
	})
	began := time.Now()
	g.stream()
	random := rand.New(rand.NewPCG(*linkSeed, 2))
	for range stalls {
		time.Sleep(3*time.Second + time.Duration(random.Int64N(int64(time.Second)))) // every 5 to 6 s
		g.stallAll(t, far.name, stall)
		time.Sleep(stall)
	}
	g.stop()
	eventually(t, 10*time.Second, g.arrived, "not all that was sent has arrived")
	eventually(t, 10*time.Second, func() bool { return g.srv.Stats().Suspect == 0 }, "not all have recovered")
	st, r := g.srv.Stats(), g.report(far.name)
	t.Logf("%d sessions, %d stalls of %v in %v: %d suspected for the path, %d for silence, %d recovered, %d ended",
		r.players, stalls, stall, time.Since(began).Round(time.Second),
		r.suspected[server.SuspectPath], r.suspected[server.SuspectSilence], r.recovered, r.ended)
	assert.Empty(t, r.complaints)
	assert.Zero(t, st.Closed)
	assert.EqualValues(t, r.players, st.Live)
	assert.Equal(t, st.Suspected, st.Recovered)
	assert.EqualValues(t, r.suspected[server.SuspectPath], st.Warned)
}

// TestSlowLinksAreNotSuspect streams to players behind healthy links, slow, uneven, narrow and lossy,
// under the default policy. It prints how often it suspects them. That must be never where nothing is
// lost or held up.
func TestSlowLinksAreNotSuspect(t *testing.T) {
	t.Parallel()
	players, lasts := 8, 5*time.Second
	if *linkLong {
		players, lasts = 24, 2*time.Minute
	}
	t.Logf("-link.seed=%d", *linkSeed)
	links := healthyLinks(players)
	g := playLinks(t, *linkSeed, links, func(l link) (all []*linkPlayer) {
		for _, s := range l.streams() {
			for range s.conns {
				all = append(all, &linkPlayer{down: s})
			}
		}
		return all
	})
	worst := watchWorst(t)
	g.stream()
	began := time.Now()
	for time.Since(began) < lasts {
		time.Sleep(linkStallEvery)
		for _, l := range links {
			if l.stall > 0 {
				g.stallAll(t, l.name, l.stall)
			}
		}
	}
	g.stop()
	took := time.Since(began)
	eventually(t, 20*time.Second, g.arrived, "not all that was sent has arrived")
	eventually(t, 20*time.Second, func() bool { return g.srv.Stats().Suspect == 0 }, "not all have recovered")

	// Had this process been away, so had the relay: the links were not what they are said to be.
	away := worst() > linkAway
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "link\tsessions\tsession-minutes\tsuspected (path)\tper session-minute\t(silence)\trecovered\tended\t")
	for _, l := range links {
		r := g.report(l.name)
		minutes := float64(r.players) * took.Minutes()
		path := r.suspected[server.SuspectPath]
		fmt.Fprintf(tw, "%s\t%d\t%.1f\t%d\t%.3f\t%d\t%d\t%d\t\n", l.name, r.players, minutes, path, float64(path)/minutes,
			r.suspected[server.SuspectSilence], r.recovered, r.ended)
		assert.Empty(t, r.complaints, l.name)
		if l.steady() && !away {
			assert.Zero(t, path, "%s: false alarms", l.name)
			assert.Zero(t, r.suspected[server.SuspectSilence], "%s: suspected of silence", l.name)
		}
	}
	require.NoError(t, tw.Flush())
	t.Logf("held up by %v at a time\n%s", worst(), b.String())
}
