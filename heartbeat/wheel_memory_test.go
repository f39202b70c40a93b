package heartbeat

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Ids that are far apart take the memory of their own pages only, and are as good as dense ones.
func TestSparseIDs(t *testing.T) {
	w := NewWheel(1)
	ids := []uint32{1 << 20, 3 * pageLen, 2*pageLen - 1, pageLen, 0, 2 * pageLen, 5 * pageLen}
	for i, id := range ids {
		w.Touch(id, Tick(i+1))
		w.Schedule(id, Tick(i+10))
	}
	assert.Equal(t, uint32(4*pageLen), w.dense)
	for i, id := range ids {
		assert.Equal(t, Tick(i+1), w.Last(id))
		assert.Equal(t, Tick(i+10), w.When(id))
		w.Touch(id, Tick(i+2))
		assert.Equal(t, Tick(i+2), w.Last(id))
	}
	made := 0
	for _, pg := range w.pages {
		made += len(pg)
	}
	assert.Equal(t, 6*pageLen, made)
	assert.ElementsMatch(t, ids, sweep(t, w, 20))
	checkWheel(t, w)
}

func TestMemory(t *testing.T) {
	const n = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	w := NewWheel(1)
	for i := range uint32(n) {
		w.Touch(i, 1)
		w.Schedule(i, 1+Tick(i*2654435761%Horizon))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	size := float64(after.HeapAlloc-before.HeapAlloc) / n
	objects := float64(after.HeapObjects-before.HeapObjects) / n
	t.Logf("%.2f bytes, %.5f objects per entry", size, objects)
	assert.LessOrEqual(t, size, 14.0)
	assert.Less(t, objects, 0.001)
	runtime.KeepAlive(w)
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	const n = 10_000
	w := NewWheel(1)
	now := Tick(1)
	for i := range uint32(n) {
		w.Schedule(i, now.Add(1+i%1000))
	}
	look := func(id uint32, last Tick) Tick { return now.Add(1 + id%1000) }
	run := func() {
		for i := range uint32(n / 10) {
			w.Touch(i, now)
			w.Cancel(i * 7 % n)
			w.Schedule(i*7%n, now.Add(i%100))
		}
		now = now.Add(100)
		w.Advance(now, noLimit, look)
	}
	for range 100 {
		run()
	}
	assert.Zero(t, testing.AllocsPerRun(100, run))
}

// checkWheel counts every entry, chunk and bit of w.
func checkWheel(t *testing.T, w *Wheel) {
	t.Helper()
	here, elsewhere := map[uint32]uint32{}, map[uint32]uint32{} // entries where an id is filed, and others
	pending, chunks := 0, 0
	walk := func(slot uint32, c chain) {
		for ; c != 0; c = chain(*w.ids.next(c)) {
			chunks++
			pending += int(c.len())
			for _, id := range w.ids.first(c) {
				if here[id] == 0 && w.record(id).plan.isFiledAt(slot) {
					here[id]++
				} else {
					elsewhere[id]++
				}
			}
		}
	}
	for s, c := range w.heads {
		word := w.isSet[s/64]
		if set := word>>(s%64)&1 != 0; set != (c != 0) || w.summary[s/64/64]>>(s/64%64)&1 != 0 != (word != 0) {
			t.Fatalf("slot %d: chain %x, word %x, summary %x", s, c, word, w.summary)
		}
		walk(uint32(s), c)
	}
	require.Zero(t, w.heads[w.slot(0)], "the slot of now is detached")
	walk(w.slot(0), w.rest)
	require.Equal(t, w.pending, pending)
	require.Equal(t, int(w.ids.made), chunks+len(w.ids.free), "every chunk is in use or free")
	for i, pg := range w.pages {
		for j := 0; pg != nil && j < len(pg); j++ {
			id, p := uint32(i<<pageBits|j), pg[j].plan
			filed, wanted := p&isFiled != 0, p&isWanted != 0
			switch {
			case filed != (here[id] == 1), p.forgotten() != elsewhere[id], here[id]+elsewhere[id] > 12,
				wanted && !filed, wanted && w.distance(p.filed()) > w.distance(p.wanted()):
				t.Fatalf("id %d: plan %x, %d entries and %d elsewhere", id, p, here[id], elsewhere[id])
			}
		}
	}
}
