package load

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBucketsAreNarrow(t *testing.T) {
	require.Less(t, bucket(math.MaxInt64), bucketsMax)
	next := 0
	for v := uint64(0); v < 1<<16; v++ {
		i := bucket(v)
		require.True(t, i == next || i == next+1, "%d", v)
		next = i
		require.LessOrEqual(t, v, upper(i))
		require.LessOrEqual(t, float64(upper(i)), float64(v)*1.0313)
	}
}

func TestQuantiles(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var all []time.Duration
	parts := make([]Histogram, 3)
	for range 10_000 {
		d := time.Duration(math.Exp(random.Float64() * 20))
		all = append(all, d)
		parts[random.IntN(len(parts))].Add(d)
	}
	var h Histogram
	assert.Zero(t, h.Quantile(0.5))
	for _, p := range parts {
		h.Merge(p)
	}
	slices.Sort(all)
	assert.EqualValues(t, len(all), h.N())
	for _, q := range []float64{0, 0.5, 0.99, 0.999, 1} {
		want := float64(all[min(int(q*float64(len(all))), len(all)-1)])
		assert.InEpsilon(t, want, float64(h.Quantile(q)), 0.032, "%v", q)
	}
	assert.Equal(t, all[len(all)-1], h.Max)
}
