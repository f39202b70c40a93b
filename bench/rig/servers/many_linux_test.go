package servers

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
)

func pair(t *testing.T, name string, o Options, l load.Options) *rig.Pair {
	t.Helper()
	p, err := rig.StartPair(rig.Candidate{Server: Server(name, o), Load: l})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Stop()) })
	return p
}

func TestPush(t *testing.T) {
	for _, name := range []string{EpollMany, GnetMany, PulsewheelMany} {
		for _, push := range []Push{
			{Sessions: 7, Payload: 100, For: 50 * time.Millisecond},
			{Sessions: 50, Payload: 10, For: 50 * time.Millisecond, Senders: 3, Window: 4},
		} {
			if name == EpollMany && push.Senders > 0 {
				continue
			}
			p := pair(t, name, Options{Loops: 2}, load.Options{Conns: push.Sessions, Message: frame(t, push.Payload), Reports: push.Reports(), Pongs: true})
			for range 2 {
				found, err := push.Ask(p.Server)
				require.NoError(t, err, name)
				assert.Greater(t, found.Messages, push.Sessions, name)
				if push.Senders == 0 {
					assert.Zero(t, found.Messages%push.Sessions, "all of a broadcast have got it")
				}
				assert.GreaterOrEqual(t, found.Elapsed, push.For)
				assert.Equal(t, name == PulsewheelMany, found.Wakes > 0)
			}
			usage, err := p.Server.Usage()
			require.NoError(t, err)
			time.Sleep(50 * time.Millisecond)
			later, err := p.Server.Usage()
			require.NoError(t, err)
			assert.Less(t, later.CPU-usage.CPU, 20*time.Millisecond, "nothing more is sent")
		}
	}
}

// What does not come is an error, not a figure.
func TestPushToNobody(t *testing.T) {
	defer func(before time.Duration) { flowMax = before }(flowMax)
	flowMax = 20 * time.Millisecond
	f := newFlow()
	f.told(make([]byte, 8))
	assert.Contains(t, f.push(`{"Sessions":2}`, crowd{}), "1 sessions: 0 messages were sent")
	sent := func([]byte) error { return nil }
	answer := f.push(`{"Sessions":1,"For":1000000}`, crowd{broadcast: sent, wakes: func() uint64 { return 0 }})
	assert.Contains(t, answer, "1 messages were sent and 0 have come")
}

func TestEvicted(t *testing.T) {
	const n = 20
	p := pair(t, PulsewheelMany, Options{Interval: 100 * time.Millisecond}, load.Options{Conns: n, Message: frame(t, 1), Reports: 1, Pongs: true})
	time.Sleep(200 * time.Millisecond)
	require.NoError(t, p.Load.Freeze())
	var e Evicted
	for deadline := time.Now().Add(10 * time.Second); len(e.Late) < n && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var err error
		e, err = AskEvicted(p.Server)
		require.NoError(t, err)
	}
	require.NoError(t, p.Load.Thaw())
	require.Len(t, e.Late, n)
	assert.Zero(t, e.Wrong)
	assert.Greater(t, e.Late[0], -20*time.Millisecond, "to the grain of the clocks: never early")
}
