package server

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// paths are one for each answer.
var paths = map[string]heartbeat.Path{
	"not told":     {},
	"too early":    {Known: true, Outstanding: 9, Unacked: 1, Window: 99, Still: 300 * time.Millisecond, RTO: 250 * time.Millisecond},
	"all arrived":  {Known: true, Window: 99},
	"arriving":     {Known: true, Outstanding: 9, Unacked: 1, Window: 99, Still: time.Millisecond, RTO: 250 * time.Millisecond},
	"just stopped": {Known: true, Outstanding: 9, Unacked: 1, Window: 99, Still: 100 * time.Millisecond, LastAck: 100 * time.Millisecond, RTO: 250 * time.Millisecond},
	"closed":       {Known: true, Outstanding: 9, NotSent: 9, Still: time.Minute, RTO: 250 * time.Millisecond},
	"lost":         {Known: true, Outstanding: 9, Unacked: 1, Window: 99, Retransmits: 2, Still: time.Minute, RTO: 250 * time.Millisecond},
	"unsendable":   {Known: true, Outstanding: 9, NotSent: 9, Window: 99, Still: time.Minute, RTO: 250 * time.Millisecond},
}

// What a silence is, by what the kernel knows and whether the second Ping arrived.
func TestSilentReason(t *testing.T) {
	for name, want := range map[string]Reason{
		"not told": HeartbeatLost, "too early": HeartbeatLost, "arriving": HeartbeatLost, "just stopped": HeartbeatLost,
		"all arrived": PeerFrozen, "closed": PeerFrozen, "lost": PathDead, "unsendable": PathDead,
	} {
		assert.Equal(t, want, silentReason(paths[name], false, false), name)
		if want = PeerFrozen; name == "not told" {
			want = HeartbeatLost // not TCP, or another system: acknowledged means no more than written
		}
		assert.Equal(t, want, silentReason(paths[name], true, false), "%s, but the Ping arrived", name)
		switch name {
		case "all arrived":
			want = HeartbeatLost // what the peer says may wait for a try of its own kernel
		default:
			want = silentReason(paths[name], false, false)
		}
		assert.Equal(t, want, silentReason(paths[name], true, true), "%s, the answer may come", name)
	}
}

// Why a peer takes too little: it is blamed only if what it is sent arrives, or if nothing is known.
func TestSlowReason(t *testing.T) {
	for name, want := range map[string]Reason{
		"not told": PeerSlow, "arriving": PeerSlow, "closed": PeerSlow, "all arrived": PeerSlow,
		"too early": HeartbeatLost, "just stopped": HeartbeatLost, "lost": PathDead, "unsendable": PathDead,
	} {
		assert.Equal(t, want, slowReason(paths[name]), name)
	}
}

// The retransmission timeout of a segment is told doubled, that of a probe is not.
func TestFirstRTO(t *testing.T) {
	assert.Equal(t, time.Second, firstRTO(TCPInfo{Unacked: 1, Backoff: 3, RTO: 8 * time.Second}))
	assert.Equal(t, time.Second, firstRTO(TCPInfo{Backoff: 3, RTO: time.Second}))
	assert.Zero(t, firstRTO(TCPInfo{Unacked: 1, Backoff: 40, RTO: time.Second}))
}

// A Ping that has arrived late may be answered late: by a try of the peer's own, which may be as far
// away as the path was gone.
func TestAnswerMayCome(t *testing.T) {
	policy := heartbeat.Policy{Interval: 5 * time.Second, Timeout: 15 * time.Second}
	ms := time.Millisecond
	for name, c := range map[string]struct {
		heldUp, stood   time.Duration // until the second Ping arrived
		silent, since   time.Duration // when it arrived, and how long ago that is
		mayCome, spared bool
		reason          Reason
	}{
		"it arrived at once":                        {1 * ms, 0, 6 * time.Second, 9 * time.Second, false, false, PeerFrozen},
		"held up for less than the patience":        {900 * ms, 900 * ms, 14100 * ms, 1 * time.Second, false, false, PeerFrozen},
		"after an outage":                           {9 * time.Second, 9 * time.Second, 14900 * ms, 10200 * ms, true, true, 0},
		"and too long ago":                          {9 * time.Second, 9 * time.Second, 14900 * ms, 16 * time.Second, false, false, PeerFrozen},
		"looked at two ticks late":                  {9 * time.Second, 1 * time.Second, 15020 * ms, 10200 * ms, true, true, 0},
		"after Timeout, in an outage":               {9 * time.Second, 9 * time.Second, 15500 * ms, 9 * time.Second, true, true, 0},
		"and after all that may be spared":          {9 * time.Second, 9 * time.Second, 15500 * ms, 10100 * ms, true, false, HeartbeatLost},
		"after Timeout, while other things arrived": {9 * time.Second, 300 * ms, 15500 * ms, 9 * time.Second, false, false, PeerFrozen},
	} {
		now := time.Minute
		arrived := now - c.since
		at := arrived - c.heldUp
		conn := &conn{srv: &Server{cfg: Config{Tick: 10 * ms}}, policy: &policy}
		conn.asking = &asking{pings: 6, pinged: [2]pinged{{at: at - time.Second, arrived: arrived}, {at: at, arrived: arrived, stood: c.stood}}}
		silence := c.silent + c.since
		assert.Equal(t, c.mayCome, conn.answerMayCome(now, silence), name)
		p := paths["all arrived"]
		assert.Equal(t, c.spared, conn.underWay(p, now, silence) > 0, name)
		if !c.spared {
			assert.Equal(t, c.reason, silentReason(p, true, c.mayCome), name)
		}
	}
}
