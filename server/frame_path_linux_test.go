package server_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// A frame deadline that comes long before any heartbeat asks for itself whether the path takes what we
// send: a cable that was pulled within a frame is not the peer's stall.
func TestPathShortFrameTimeout(t *testing.T) { busy.Try(t, testPathShortFrameTimeout) }

func testPathShortFrameTimeout(t *busy.T) {
	t.Parallel()
	cfg := brief()
	cfg.Policy = heartbeat.Policy{Interval: 2 * time.Second, Timeout: 4 * time.Second}
	cfg.FrameTimeout = 600 * time.Millisecond
	for _, cut := range []bool{true, false} {
		h := newRecorder()
		srv, leg := far(t, h, cfg)
		c := dialFar(t, srv, leg)
		h.nextOpen(t)
		c.echoes(t)
		_, err := c.Write(frame(codec.Data, make([]byte, 9000))[:3000])
		require.NoError(t, err)
		begun := time.Now()
		if cut {
			time.Sleep(50 * time.Millisecond)
			_, err = leg.Cut()
			require.NoError(t, err)
			if took := time.Since(begun); took > cfg.FrameTimeout/3 { // by half of it a Ping may have arrived
				t.CannotTell("the cable was pulled %v after the frame had begun", took)
				return
			}
		}
		e := h.nextClose(t)
		t.Logf("cut %v: %v after %v", cut, e.end, e.at.Sub(begun))
		if cut {
			assert.Equal(t, server.PathDead, e.end.Reason)
			assert.GreaterOrEqual(t, e.at.Sub(begun), cfg.Policy.Timeout-jiffy)
		} else {
			assert.Equal(t, server.PeerStalledFrame, e.end.Reason)
			assert.GreaterOrEqual(t, e.at.Sub(begun), cfg.FrameTimeout-jiffy)
			t.NotLater(begun, e.at, cfg.FrameTimeout+2*cfg.Tick+slack, "the verdict")
		}
	}
}

// A Judge of the application's own decides on silences, also of one that is sent to.
func TestPathOfAPatientJudge(t *testing.T) {
	t.Parallel()
	cfg := brief()
	cfg.Judge = heartbeat.Policy{Interval: 20 * time.Second, Timeout: time.Minute}
	h := newRecorder()
	srv, leg := far(t, h, cfg)
	c := dialFar(t, srv, leg)
	s := h.nextOpen(t)
	c.echoes(t)
	go push(s, 100, 50*time.Millisecond)
	_, err := leg.Cut()
	require.NoError(t, err)
	lives(t, h, 10*time.Second) // the kernel waits for 13 s
}
