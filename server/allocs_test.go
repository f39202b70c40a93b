package server_test

import (
	"bytes"
	"io"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
)

// The whole echo path, from a real socket's readiness to the write, allocates nothing, with liveness on:
// not in a thousand messages. The client is in the same process and uses one buffer. What a collection of garbage, or
// something else in the process, allocates now and then can only add, so the best of some runs counts.
func TestAllocsEcho(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool forgets some of what it is given, on purpose: then buffers are allocated")
	}
	const messages, runs = 1000, 30
	h := newRecorder()
	cfg := patient() // liveness is on, and nobody is asked while the test lasts
	cfg.Loops = 1
	srv := start(t, h, cfg)
	c := dial(t, srv)
	h.nextOpen(t)
	for _, burst := range []int{1, 10} {
		out := bytes.Repeat(frame(codec.Data, make([]byte, 64)), burst)
		in := make([]byte, len(out))
		echo := func() {
			for range messages / burst {
				if _, err := c.Write(out); err != nil {
					panic(err)
				}
				if _, err := io.ReadFull(c.Conn, in); err != nil {
					panic(err)
				}
			}
		}
		best := 1e9
		func() {
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pool of buffers
			for range runs {
				if best = min(best, testing.AllocsPerRun(1, echo)); best == 0 {
					break
				}
			}
		}()
		assert.Zero(t, best, "objects allocated for %d messages, %d at a time", messages, burst)
		require.Equal(t, out, in)
	}
}
