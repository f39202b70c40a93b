package heartbeat

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const (
	ms  = time.Millisecond
	mss = 1448
)

// still is a path on which 100 bytes in one segment have not been acknowledged for 5 s, sent again
// three times. Its patience is 500 ms.
var still = Path{Known: true, Outstanding: 100, Still: 5 * time.Second, Unacked: 1, Retransmits: 3, Backoff: 3,
	Window: 1 << 16, MSS: mss, LastSent: 2 * time.Second, LastAck: 5 * time.Second, RTT: 100 * ms, RTO: 250 * ms}

// shut is a path whose peer closed its window with nothing on its way, and answers probes.
var shut = Path{Known: true, Outstanding: 5000, Still: 5 * time.Second, NotSent: 5000, Backoff: 3, MSS: mss,
	LastSent: 5 * time.Second, LastAck: 300 * ms, RTT: 100 * ms, RTO: 250 * ms}

// shutOver is one whose peer closed its window over segments on their way: those are sent again.
var shutOver = Path{Known: true, Outstanding: 5000, Still: 5 * time.Second, Unacked: 2, NotSent: 2000, Backoff: 3, MSS: mss,
	LastSent: 500 * ms, LastAck: 450 * ms, RTT: 100 * ms, RTO: 250 * ms}

func TestPathDelivery(t *testing.T) {
	with := func(p Path, change func(*Path)) Path {
		change(&p)
		return p
	}
	for _, c := range []struct {
		name string
		path Path
		want Delivery
	}{
		{"the kernel does not tell", Path{}, DeliveryUnknown},
		{"the kernel does not tell, but we know how much we sent", Path{Outstanding: 5, Still: time.Minute}, DeliveryUnknown},
		{"everything acknowledged", with(still, func(p *Path) { p.Outstanding = 0 }), Delivering},
		{"everything acknowledged, and the window shut since", with(shut, func(p *Path) { p.Outstanding = 0 }), Delivering},

		{"nothing comes back", still, Undelivered},
		{"nothing comes back, and new data puts the retransmissions off", with(still, func(p *Path) { p.Retransmits, p.Backoff = 0, 0 }), Undelivered},
		{"nothing was sent since something came back", with(still, func(p *Path) { p.Retransmits, p.LastSent = 0, 6*time.Second }), DeliveryUnknown},
		{"the peer talks, and acknowledges nothing", with(still, func(p *Path) { p.LastAck = 0 }), Undelivered},
		{"the peer talks, and one retransmission is on its way", with(still, func(p *Path) { p.LastAck, p.Retransmits = 0, 1 }), DeliveryUnknown},
		{"acknowledged within a retransmission timeout", with(still, func(p *Path) { p.Still = p.RTO - 1 }), Delivering},
		{"not acknowledged for less than is usual", with(still, func(p *Path) { p.Still = p.RTO }), DeliveryUnknown},
		{"just within the patience", with(still, func(p *Path) { p.Still = 500*ms - 1 }), DeliveryUnknown},
		{"just beyond the patience", with(still, func(p *Path) { p.Still = 500 * ms }), Undelivered},
		{"far away, within four round trips", with(still, func(p *Path) { p.RTT, p.Still = 400*ms, 1600*ms-1 }), DeliveryUnknown},
		{"far away, within 2 s", with(still, func(p *Path) { p.RTT, p.Still = time.Minute, 2*time.Second-1 }), DeliveryUnknown},
		{"far away, beyond 2 s", with(still, func(p *Path) { p.RTT, p.Still = time.Minute, 2*time.Second }), Undelivered},

		{"it cannot even be sent", with(still, func(p *Path) { p.Unacked, p.Retransmits, p.NotSent, p.LastAck = 0, 0, 100, 0 }), Undelivered},
		{"it cannot be sent, but only just now", with(still, func(p *Path) { p.Unacked, p.Retransmits, p.NotSent, p.Still = 0, 0, 100, 400*ms }), DeliveryUnknown},
		{"unsent behind what is on its way", with(still, func(p *Path) { p.NotSent, p.Still = 1<<20, 100*ms }), Delivering},
		{"the window has opened just now", with(still, func(p *Path) { p.Retransmits, p.LastAck = 0, 50*ms }), DeliveryUnknown},

		{"a closed window, probed and answered", shut, WindowClosed},
		{"a window too small for a segment", with(shut, func(p *Path) { p.Window = mss - 1 }), WindowClosed},
		{"a window that has room for all that waits", with(shut, func(p *Path) { p.Window, p.NotSent = 200, 200 }), Undelivered},
		{"one probe unanswered, soon after another", with(shut, func(p *Path) { p.Probes, p.Backoff = 1, 2 }), WindowClosed},
		{"one probe unanswered", with(shut, func(p *Path) { p.Probes = 1 }), DeliveryUnknown},
		{"two probes unanswered", with(shut, func(p *Path) { p.Probes, p.LastAck = 2, time.Second }), Undelivered},
		{"two probes unanswered, within a second", with(shut, func(p *Path) { p.Probes, p.LastAck = 2, 999*ms }), DeliveryUnknown},
		{"six probes unanswered", with(shut, func(p *Path) { p.Probes, p.LastAck = 6, 2*time.Second }), Undelivered},

		{"closed over segments on their way, answered", with(shutOver, func(p *Path) { p.LastAck = p.LastSent }), WindowClosed},
		{"closed over segments, the last try may still be answered", with(shutOver, func(p *Path) { p.LastSent, p.LastAck = 300*ms, 900*ms }), WindowClosed},
		{"closed over segments, one try unanswered", with(shutOver, func(p *Path) { p.LastSent, p.LastAck = 500*ms, 1400*ms }), DeliveryUnknown},
		{"closed over segments, two tries unanswered", with(shutOver, func(p *Path) { p.LastSent, p.LastAck = 500*ms, 1600*ms }), Undelivered},
		{"closed over segments, the last try has just been made", with(shutOver, func(p *Path) { p.LastSent, p.LastAck = 12*ms, 1600*ms }), DeliveryUnknown},
		{"closed over segments, two tries unanswered within a second", with(shutOver, func(p *Path) { p.Backoff, p.RTT, p.LastSent, p.LastAck = 2, 40*ms, 200*ms, 950*ms }), DeliveryUnknown},
		{"closed over segments, sent once", with(shutOver, func(p *Path) { p.Backoff, p.LastSent, p.LastAck = 0, 500*ms, 5*time.Second }), WindowClosed},

		{"an old kernel, probes answered", with(shut, func(p *Path) { p.WindowUnknown = true }), WindowClosed},
		{"an old kernel, probes, too early to tell", with(shut, func(p *Path) { p.WindowUnknown, p.Still = true, time.Second }), DeliveryUnknown},
		{"an old kernel, one probe unanswered", with(shut, func(p *Path) { p.WindowUnknown, p.Probes = true, 1 }), DeliveryUnknown},
		{"an old kernel, probes unanswered", with(shut, func(p *Path) { p.WindowUnknown, p.Probes, p.LastAck = true, 2, 2*time.Second }), Undelivered},
		{"an old kernel, tries that are not counted, answered", with(shutOver, func(p *Path) { p.WindowUnknown = true }), WindowClosed},
		{"an old kernel, tries that are not counted, unanswered", with(still, func(p *Path) { p.WindowUnknown, p.Window, p.Retransmits = true, 0, 0 }), Undelivered},
		{"an old kernel, sent again and again", with(still, func(p *Path) { p.WindowUnknown, p.Window = true, 0 }), Undelivered},
		{"an old kernel, sent again once", with(still, func(p *Path) { p.WindowUnknown, p.Window, p.Retransmits = true, 0, 1 }), DeliveryUnknown},
		{"an old kernel, new data puts the tries off", with(still, func(p *Path) { p.WindowUnknown, p.Window, p.Retransmits, p.Backoff = true, 0, 0, 0 }), DeliveryUnknown},
	} {
		assert.Equal(t, c.want, c.path.Delivery(), c.name)
	}
}

func TestDeliveryString(t *testing.T) {
	for d, want := range map[Delivery]string{
		DeliveryUnknown: "unknown", Delivering: "delivering", WindowClosed: "window closed", Undelivered: "undelivered", 9: "delivery(9)",
	} {
		assert.Equal(t, want, d.String())
	}
}

// What cannot be sent is stuck like what is lost, and what an old kernel does not tell is no open window.
func TestPathStuckUnsent(t *testing.T) {
	p := stuck
	p.Unacked, p.NotSent = 0, 10
	assert.True(t, p.Stuck(600*ms))
	p.Window, p.MSS, p.NotSent = 100, mss, 200
	assert.False(t, p.Stuck(600*ms), "a window too small for what waits is closed")
	p = stuck
	p.Window, p.WindowUnknown = 0, true
	assert.False(t, p.Stuck(600*ms))
	p.Retransmits = 1
	assert.True(t, p.Stuck(600*ms), "under a closed window nothing is counted as sent again")
}
