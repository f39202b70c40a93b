package load

import (
	"math/bits"
	"time"
)

// stepBits: an octave of a Histogram has 1<<stepBits buckets, so a bucket is at most 3 % wide.
const stepBits = 5

// bucketsMax is how many buckets an int64 of nanoseconds can need.
const bucketsMax = (64 - stepBits) << stepBits

// A Histogram counts durations, in buckets that are at most 3 % wide. The zero value is empty. It
// travels as JSON.
type Histogram struct {
	Counts []uint64      // by bucket
	Max    time.Duration // exactly
}

// Add counts one duration; a negative one as zero.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	i := bucket(uint64(d))
	if i >= len(h.Counts) {
		h.Counts = append(h.Counts, make([]uint64, i+1-len(h.Counts))...)
	}
	h.Counts[i]++
	h.Max = max(h.Max, d)
}

// Merge counts what o has counted.
func (h *Histogram) Merge(o Histogram) {
	if more := len(o.Counts) - len(h.Counts); more > 0 {
		h.Counts = append(h.Counts, make([]uint64, more)...)
	}
	for i, n := range o.Counts {
		h.Counts[i] += n
	}
	h.Max = max(h.Max, o.Max)
}

// trim drops the empty buckets at the end.
func (h *Histogram) trim() {
	n := len(h.Counts)
	for n > 0 && h.Counts[n-1] == 0 {
		n--
	}
	h.Counts = h.Counts[:n]
}

// N returns how many durations have been counted.
func (h Histogram) N() uint64 {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Quantile returns a duration that a share q of those counted (0.99: 99 %) do not exceed, up to 3 %
// too long; zero for an empty Histogram.
func (h Histogram) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.N()))
	var n uint64
	for i, c := range h.Counts {
		if n += c; n > rank || n == h.N() && n > 0 {
			return min(time.Duration(upper(i)), h.Max)
		}
	}
	return 0
}

// bucket returns the bucket of v: v itself below 1<<stepBits, above it an octave and the next
// stepBits bits.
func bucket(v uint64) int {
	if v < 1<<stepBits {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - stepBits
	return shift<<stepBits + int(v>>shift)
}

// upper returns the largest value of bucket i.
func upper(i int) uint64 {
	if i < 1<<stepBits {
		return uint64(i)
	}
	shift := i>>stepBits - 1
	return (uint64(i-shift<<stepBits)+1)<<shift - 1
}
