package rig

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestSpread(t *testing.T) {
	assert.Equal(t, Spread{Median: 3, Low: 2, High: 4, Min: 1, Max: 5, N: 5}, SpreadOf([]float64{5, 1, 4, 2, 3}))
	assert.Equal(t, Spread{Median: 2.5, Low: 1.75, High: 3.25, Min: 1, Max: 4, N: 4}, SpreadOf([]float64{4, 3, 2, 1}))
	assert.Equal(t, "-", SpreadOf(nil).String())
	// Of pairs: the ratio of the medians would be 1.
	assert.Equal(t, 2.0, Ratio([]float64{2, 20, 100}, []float64{1, 10, 200}).Median)
	assert.Equal(t, 1, Ratio([]float64{2, 20}, []float64{1}).N)
	assert.Equal(t, "1.50 (1.25-1.75)", Ratio([]float64{1, 2}, []float64{1, 1}).String())
}

func TestInterleave(t *testing.T) {
	play := func(seed uint64) (all []int) {
		used := Match{Rounds: 50, Seed: seed}.Interleave(4, func(round, i int) {
			assert.Equal(t, len(all)/4, round)
			all = append(all, i)
		})
		assert.Equal(t, seed, used)
		return all
	}
	all := play(3)
	assert.Len(t, all, 200)
	first := map[int]int{}
	for r := 0; r < len(all); r += 4 {
		assert.ElementsMatch(t, []int{0, 1, 2, 3}, all[r:r+4])
		first[all[r]]++
	}
	assert.Len(t, first, 4, "each is the first at times")
	assert.Equal(t, all, play(3))
	assert.NotEqual(t, all, play(4))
	assert.NotZero(t, Match{}.Interleave(0, nil))
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	table := Table{Head: []string{"a", "b"}}
	table.Add("x|y", Count(1234567))
	table.Add("-", Count(-123))
	table.Print(&b)
	assert.Equal(t, "| a | b |\n|---|--:|\n| x\\|y | 1,234,567 |\n| - | -123 |\n", b.String())
	for d, s := range map[time.Duration]string{
		123: "123ns", 1234: "1.23µs", 12345: "12.3µs", 1234567: "1.23ms", 123456789: "123.5ms", 12 * time.Second: "12s",
	} {
		assert.Equal(t, s, Short(d))
	}
}
