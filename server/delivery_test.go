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
		assert.Equal(t, want, silentReason(paths[name], false), name)
		if want = PeerFrozen; name == "not told" {
			want = HeartbeatLost // not TCP, or another system: acknowledged means no more than written
		}
		assert.Equal(t, want, silentReason(paths[name], true), "%s, but the Ping arrived", name)
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
