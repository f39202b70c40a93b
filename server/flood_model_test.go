package server

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// meterWorld is a session with limits on a loop whose clock is the test's.
type meterWorld struct {
	srv *Server
	c   *conn
}

// newMeterWorld is called in a bubble, in which the clock goes on when the test says so.
func newMeterWorld(t testing.TB, tick time.Duration, r Rate) *meterWorld {
	t.Helper()
	srv, err := New(Base{}, Config{Loops: 1, Tick: tick, Rate: r})
	require.NoError(t, err)
	l := newLoop(srv, 0)
	l.asked = true // no byte is to be sent round: there is no engine
	c, err := newConn(srv, netip.AddrPort{}, false)
	require.NoError(t, err)
	c.loop, c.sock, c.phase = l, &paper{}, open
	c.setLimits(srv.limits)
	return &meterWorld{srv, c}
}

// at sets the clock: it is now, and the loop, whose clock is late ticks behind, knows that all that had come by dry was read.
func (w *meterWorld) at(now, dry time.Duration, late int) {
	w.srv.epoch = time.Now().Add(-now)
	l := w.c.loop
	if tick := w.srv.tickAt(now) - heartbeat.Tick(late); l.tick.Before(tick) {
		l.tick = tick
	}
	if tick := w.srv.tickAt(dry); l.dry.Before(tick) && !l.tick.Before(tick) {
		l.dry = tick
	}
}

// read brings frames of size bytes, and tells whether the session has been ended for it.
func (w *meterWorld) read(frames, size int) (flooded bool) {
	w.c.receive(frames * size)
	quota := w.c.meter.messages.quota
	for range frames {
		if w.c.framesIn++; w.c.framesIn > quota && !w.c.sealed.Load() {
			quota = w.c.overQuota(codec.Frame{Type: codec.Data})
		}
	}
	return w.c.sealed.Load()
}

// Who keeps to a rate is never ended, whenever the loop comes to read what has arrived, and who sends
// a third more is, after what a burst and the loop's not knowing allow.
func TestRateModel(t *testing.T) { synctest.Test(t, testRateModel) }

func testRateModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	proved := 0
	for round := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, round))
		tick := time.Duration(1+r.IntN(200)) * time.Millisecond
		size := 1 + r.IntN(1000)
		limits := Rate{Messages: 1 + r.IntN(2000), MessageBurst: 1 + r.IntN(300)}
		if r.IntN(2) == 0 { // the same, in bytes
			limits = Rate{Bytes: limits.Messages * size, ByteBurst: max(limits.MessageBurst*size, codec.DefaultPayloadMax+codec.HeaderSize)}
		}
		burst, rate := float64(limits.MessageBurst), float64(limits.Messages)
		if limits.Bytes != 0 {
			burst, rate = float64(limits.ByteBurst)/float64(size), float64(limits.Bytes)/float64(size)
		}
		for _, excess := range []float64{1, 1.34} {
			w := newMeterWorld(t, tick, limits)
			now, before, sent, held := time.Duration(0), time.Duration(0), 0.0, burst
			flooded := false
			var longest time.Duration
			w.at(0, 0, 0)
			for now < 60*time.Second && !flooded {
				before = now
				step := time.Duration(r.ExpFloat64() * float64(2*time.Millisecond))
				if r.IntN(200) == 0 {
					step = time.Duration(r.Int64N(int64(4 * time.Second))) // the loop is away
				}
				now += step
				longest = max(longest, step)
				// It sends some, or all that it may; what has come in this step has come at any moment of it.
				held += rate * excess * step.Seconds()
				may := int(held)
				if r.IntN(3) == 0 && excess == 1 {
					may = r.IntN(may + 1)
				}
				held = min(held-float64(may), burst)
				sent += float64(may)
				w.at(now, before-time.Duration(r.Int64N(int64(4*tick))), r.IntN(2))
				flooded = w.read(may, size)
			}
			if excess == 1 {
				require.False(t, flooded, "round %d: %+v, tick %v, %v after %.0f: %v", round, limits, tick, now, sent, w.c.end)
			} else if limit := burst + 4*rate*(longest+6*tick).Seconds() + 4; limit < 50*rate*0.34 {
				require.True(t, flooded, "round %d: %+v, tick %v, %.0f sent", round, limits, tick, sent)
				assert.Equal(t, PeerFlood, w.c.end.Reason)
				proved++
			}
		}
	}
	assert.Greater(t, proved, 100, "those of whom so many come in a minute that it must be seen")
}

// After an hour of silence no more than a burst, and what may have come evenly in a few ticks, is taken.
func TestRateBurst(t *testing.T) { synctest.Test(t, testRateBurst) }

func testRateBurst(t *testing.T) {
	w := newMeterWorld(t, 100*time.Millisecond, Rate{Messages: 100, MessageBurst: 30})
	w.at(0, 0, 0)
	require.False(t, w.read(30, 1))
	w.at(time.Hour, time.Hour-300*time.Millisecond, 0)
	require.False(t, w.read(30+30, 1), "%v", w.c.end)
	assert.True(t, w.read(30, 1))
	assert.Equal(t, "71 messages in 300ms: the limit is 100 a second, and 30 at once", w.c.end.Detail)
}

// A loop that was away for three seconds finds three seconds' worth.
func TestRateAway(t *testing.T) { synctest.Test(t, testRateAway) }

func testRateAway(t *testing.T) {
	for _, away := range []time.Duration{3 * time.Second, time.Hour} {
		w := newMeterWorld(t, 100*time.Millisecond, Rate{Messages: 100, MessageBurst: 1})
		w.at(time.Hour, time.Hour, 0)
		require.False(t, w.read(1, 1))
		for i := 1; i <= 100; i++ { // one at a time
			now := time.Hour + time.Duration(i)*10*time.Millisecond
			w.at(now, now, 0)
			require.False(t, w.read(1, 1))
		}
		now := time.Hour + time.Second + away
		w.at(now, time.Hour+time.Second, 0)
		come := int(min(away, fillMax).Seconds()) * 100
		require.False(t, w.read(come, 1), "%v", w.c.end)
		assert.True(t, w.read(40, 1), "and no more than that")
	}
}

// What a loop knows of when things have come: an idle one, one that is busy, one that was stopped.
func TestArrivals(t *testing.T) {
	srv, err := New(Base{}, Config{Loops: 1, Tick: 100 * time.Millisecond})
	require.NoError(t, err)
	late := heartbeat.Tick(srv.late)
	l := newLoop(srv, 0)
	begin := func(now heartbeat.Tick) {
		srv.now.Store(uint32(now))
		l.beginTurn()
	}
	begin(1000)
	assert.EqualValues(t, 1000-late, l.dry, "it had nothing to do before")
	srv.now.Store(1100) // it was in that turn until now
	l.endTurn()
	begin(1100)
	l.endTurn()
	begin(1100 + late)
	l.endTurn()
	assert.EqualValues(t, 1000-late, l.dry, "what comes now may have been there all the time")
	begin(1200)
	assert.EqualValues(t, 1200-late, l.dry)
	l.endTurn()

	srv.stalled.Store(1200<<32 | 1350)
	begin(1350)
	assert.EqualValues(t, 1200-late, l.dry, "the ticker was stopped with it")
	l.endTurn()
	begin(1350 + late + 1)
	assert.EqualValues(t, 1350+1, l.dry, "since then it was idle")

	for i := heartbeat.Tick(1); i <= 10; i++ { // it is busy: a byte is sent round in each tick, and comes back in the next
		if i > 1 {
			l.cameRound()
		}
		l.tick = 1400 + i
		l.askedAt = l.tick
		if i > 3 {
			assert.EqualValues(t, 1400+i-3, l.dry)
		}
	}
}
