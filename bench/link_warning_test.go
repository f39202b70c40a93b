//go:build linux

package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/server"
)

// TestWarningIsSoon cuts paths of up to 50 ms round trip while the server streams to players, under the
// default policy: each is suspect, because of its path, within a second, however much the kernel may
// still send without an acknowledgement, and recovers when the cable is plugged in again.
func TestWarningIsSoon(t *testing.T) {
	players, cuts := 10, 1
	if *linkLong {
		players, cuts = 25, 8
	}
	t.Logf("-link.seed=%d", *linkSeed)
	links := cleanLinks(players)
	g := playLinks(t, *linkSeed, links, func(l link) (all []*linkPlayer) {
		for range l.conns {
			all = append(all, &linkPlayer{down: l.streams()[0]}, &linkPlayer{down: l.streams()[1]})
		}
		return all
	})
	worst := watchWorst(t)
	g.stream()
	took := map[linkKey][]time.Duration{}
	for range cuts {
		time.Sleep(2500 * time.Millisecond) // it streams, and the kernel's round trip has come down again
		for _, p := range g.players {
			p.mu.Lock()
			p.suspected = nil
			p.mu.Unlock()
		}
		at := map[string]time.Time{}
		for _, l := range links {
			cut, err := g.legs[l.name][0].Cut()
			require.NoError(t, err)
			at[l.name] = cut
		}
		time.Sleep(2 * time.Second)
		for i, p := range g.players {
			p.mu.Lock()
			all := p.suspected
			p.mu.Unlock()
			if assert.Len(t, all, 1, "player %d: %s, %s", i, p.link, p.down.name) {
				assert.Equal(t, server.SuspectPath, all[0].why)
				key := linkKey{p.link, p.down.name}
				took[key] = append(took[key], all[0].at.Sub(at[p.link]))
			}
		}
		for _, l := range links {
			require.NoError(t, g.legs[l.name][0].Mend())
		}
		eventually(t, 10*time.Second, func() bool { return g.srv.Stats().Suspect == 0 }, "not all have recovered")
	}
	g.stop()
	eventually(t, 20*time.Second, g.arrived, "not all that was sent has arrived")
	for _, l := range links {
		assert.Empty(t, g.report(l.name).complaints)
		for _, s := range l.streams()[:2] {
			times := took[linkKey{l.name, s.name}]
			if len(times) == 0 {
				continue
			}
			t.Logf("%s, %s: suspect within %s ms (p50/p99/max of %d)", l.name, s.name, linkSpread(times), len(times))
			assert.LessOrEqual(t, linkPart(times, 0.99), linkSoon+worst(), "%s, %s", l.name, s.name)
		}
	}
}
