//go:build linux

package bench

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// hear acts on what a client process says; see modelClients.
func (d *director) hear(l procLine) {
	if l.text == "" {
		if !l.from.dead {
			d.failf("client process %d ended by itself", l.from.index)
		}
		return
	}
	word, rest, _ := strings.Cut(l.text, " ")
	var number int
	switch word {
	case "ready":
		l.from.ready = true
		d.unblock(l.from.index)
		return
	case "late":
		var at, late int64
		d.scan(rest, &at, &late)
		d.lates[l.from.index] = append(d.lates[l.from.index], lateness{time.Unix(0, at), time.Duration(late)})
		return
	}
	head, rest, _ := strings.Cut(rest, " ")
	d.scan(head, &number)
	p := d.peers[number]
	if p == nil {
		return // it was killed when it said so
	}
	var at int64
	switch word {
	case "dialed":
		var addr string
		d.scan(rest, &addr, &at)
		p.addr = netip.MustParseAddrPort(addr)
		if p.act != nil {
			p.actedAt = time.Unix(0, at)
		}
		d.match(p)
	case "up":
		p.up = true
	case "acted":
		d.scan(rest, &at, &p.sent, &p.frames)
		if p.act == actNamed("closed, does not close") {
			d.close(p)
		} else {
			p.actedAt = time.Unix(0, at)
			d.settle(p)
		}
	case "over":
		d.scan(rest, &p.how, &p.got, &p.heard)
		p.note("%v: over at the client: %s, told %d", d.since(time.Now()), p.how, p.heard)
		d.settle(p)
	case "wrong":
		d.fail(p, "%s", rest)
	default: // failed
		if p.slot >= 0 && p.act == nil && time.Since(d.broken[p.proc.leg]) < redialFor {
			d.redials++
			d.in(500*time.Millisecond, func() { d.retake(p.slot, p.proc.index) })
			return
		}
		d.fail(p, "%s", l.text)
	}
}

// redialFor is for how long after a path was whole again a dial over it may still fail: a link's carrier
// and a neighbour's address come back behind whatever else the kernel has to do with its networks.
const redialFor = 30 * time.Second

func (d *director) scan(s string, into ...any) {
	if n, err := fmt.Sscan(s, into...); err != nil {
		d.failf("a client process said %q: %d of %d: %v", s, n, len(into), err)
	}
}

// match brings a client's connection and the server's session together, by the client's address. An
// address may be used again, by then the former is through; so they are matched in order.
func (d *director) match(p *peer) {
	if waiting := d.arrived[p.addr]; len(waiting) > 0 {
		d.arrived[p.addr] = waiting[1:]
		d.claim(p, waiting[0])
		return
	}
	d.calling[p.addr] = append(d.calling[p.addr], p)
}

// claim makes a session that the server has opened a peer's.
func (d *director) claim(p *peer, t telling) {
	p.s, p.openedAt = t.s, t.at
	d.sessions[t.s] = p
	early := d.early[t.s]
	delete(d.early, t.s)
	for _, t := range early {
		d.learn(t)
	}
}

// learn acts on what the server told its application.
func (d *director) learn(t telling) {
	d.told[t.kind]++
	if t.kind == toldOpen {
		addr := t.s.RemoteAddr()
		if waiting := d.calling[addr]; len(waiting) > 0 {
			d.calling[addr] = waiting[1:]
			d.claim(waiting[0], t)
			return
		}
		d.arrived[addr] = append(d.arrived[addr], t)
		return
	}
	p := d.sessions[t.s]
	if p == nil {
		d.early[t.s] = append(d.early[t.s], t)
		return
	}
	if p.end != nil {
		d.fail(p, "%s after OnClose", t.kind)
		return
	}
	switch t.kind {
	case toldSuspect:
		d.suspected(p, t)
	case toldRecover:
		if p.suspectAt.IsZero() {
			d.fail(p, "OnRecover, and it was not suspect")
		}
		p.suspectAt = time.Time{}
		p.note("%v: recovered", d.since(t.at))
	case toldClose:
		d.reasons[t.end.Reason]++
		d.reasonOf[t.s.ID()] = t.end.Reason
		p.end, p.endAt = t.end, t.at
		p.note("%v: OnClose: %v", d.since(t.at), t.end)
		d.judge(p)
		d.settle(p)
	}
}

// suspected judges a suspicion. Nobody is suspect to whom nothing was done, unless it is slow to
// answer anyway or the machine did not let it.
func (d *director) suspected(p *peer, t telling) {
	if !p.suspectAt.IsZero() {
		d.fail(p, "OnSuspect twice")
	}
	p.suspectAt = t.at
	p.note("%v: suspect: %v", d.since(t.at), t.why)
	d.suspicions[t.why.String()]++
	switch {
	case p.act != nil && !p.act.lives():
		if p.actedAt.IsZero() || d.plan.legs[p.proc.leg].kind == slowLeg {
			return
		}
		after := t.at.Sub(p.actedAt)
		if !d.wasAway(p.actedAt, t.at) {
			d.counts[p.act].suspect = append(d.counts[p.act].suspect, after)
		}
		// Whose last round trip was measured over a brief cut is given as much time to answer (heartbeat.Policy).
		interval := modelConfig.Policy.Interval
		far := max(min(p.s.RTT()*5/4, interval)-interval/4, 0)
		most := d.limit(p, interval+far+actLate+p.act.words)
		if p.act.kind != byClient && !p.act.mayLive && after > most { // who may live may become suspect again
			d.fail(p, "suspect after %v, not within %v", after, most)
		}
	case t.at.Before(p.calmAt):
		d.counts[p.survives].suspects++
	case t.at.Before(d.stalled[p.proc.leg]):
		d.counts[actNamed("stalled briefly")].suspects++
	case p.trait == lazy, d.plan.legs[p.proc.leg].kind == slowLeg:
		d.slowSuspects++
	case d.heldUp(p.proc, t.at.Add(-modelConfig.Policy.Interval-300*time.Millisecond), t.at) >= 50*time.Millisecond:
		d.heldSuspects++
	default:
		d.fail(p, "suspect, although nothing was done to it")
	}
}

// heldUp is for how long the machine kept the server's process or a client's from running, in a span of time.
func (d *director) heldUp(proc *clientProc, from, to time.Time) (sum time.Duration) {
	for _, lates := range [][]lateness{d.lates[proc.index], d.lates[len(d.procs)]} {
		for _, l := range slices.Backward(lates) {
			if l.at.Add(5 * time.Second).Before(from) { // they are in order, more or less
				break
			}
			if l.at.Add(100*time.Millisecond).After(from) && l.at.Add(-l.d).Before(to) {
				sum += l.d
			}
		}
	}
	return sum
}

// wasAway tells whether a loop was blocked in a span of time: what took long then is judged, but no measure of
// the server.
func (d *director) wasAway(from, to time.Time) bool {
	return slices.ContainsFunc(d.away, func(l lateness) bool {
		return from.Before(l.at.Add(100*time.Millisecond)) && l.at.Add(-l.d).Before(to)
	})
}

// judge judges an end by what was done.
func (d *director) judge(p *peer) {
	r := p.end.Record
	switch {
	case p.act == nil, p.act.lives():
		d.fail(p, "it was to live")
		return
	case p.end.Reason == server.HeartbeatLost && slices.Contains(p.act.told, server.PathDead) &&
		d.heldUp(p.proc, p.actedAt, p.endAt) >= 200*time.Millisecond:
		// Who looked seldom cannot know: it is not blamed.
	case d.mayBeStill(p):
	case !slices.Contains(p.act.told, p.end.Reason):
		d.fail(p, "the truth is %s", p.act.truth())
	case p.endAt.Before(p.orderedAt):
		d.fail(p, "told before it was done")
	}
	d.counts[p.act].told[p.end.Reason]++
	if age := p.endAt.Sub(p.openedAt); (r.Age - age).Abs() > d.limit(p, actSlack) {
		d.fail(p, "the record's age, %v, is not %v", r.Age, age)
	}
	if p.end.Reason/100 == 2 && !d.mayBeStill(p) {
		d.judgeSilence(p)
	}
	switch p.end.Reason {
	case server.PeerGoodbye:
		if want := fmt.Sprintf("code %d", p.code); int(p.end.PeerCode) != p.code || p.end.Detail != want {
			d.fail(p, "its Goodbye was %d %q", p.code, want)
		}
	case server.PeerSlow:
		if r.Unsent == 0 {
			d.fail(p, "slow, and nothing was unsent")
		}
	case server.PeerUnready:
		if r.Age < modelConfig.HandshakeTimeout || r.FramesIn != 0 {
			d.fail(p, "unready too early")
		}
	case server.PeerStalledFrame:
		if r.Age < modelConfig.FrameTimeout {
			d.fail(p, "stalled too early")
		}
	}
}

// mayBeStill reports whether a client that was deaf was not called slow because its link, which stalls
// now and then, had just taken nothing for more than two round trips: which of the two it is, nothing
// tells when Config.BacklogMax is reached.
func (d *director) mayBeStill(p *peer) bool {
	ti := p.end.Record.TCP
	return p.end.Reason == server.HeartbeatLost && slices.Contains(p.act.told, server.PeerSlow) &&
		d.plan.legs[p.proc.leg].kind == slowLeg && ti.Unacked > 0 && ti.LastAckRecv > 2*ti.RTT &&
		strings.Contains(p.end.Detail, "more than Config.BacklogMax")
}

// judgeSilence judges the record of one who was silent for too long.
func (d *director) judgeSilence(p *peer) {
	r := p.end.Record
	timeout := modelConfig.Policy.Timeout
	most := p.endAt.Sub(p.orderedAt) + modelConfig.Policy.Interval + d.limit(p, actSlack)
	stoodStill := p.act.words > 0 && p.endAt.Sub(p.actedAt) >= timeout-modelConfig.Policy.Interval // that convicts who is heard
	switch {
	case r.Idle < timeout && !stoodStill || r.Idle > most:
		d.fail(p, "silent for %v, not %v to %v", r.Idle, timeout, most)
	case p.suspectAt.IsZero():
		d.fail(p, "never suspect")
	case r.Pings < 2 && !stoodStill && !strings.Contains(p.end.Detail, "held up"):
		d.fail(p, "not asked twice")
	}
	if back := p.endAt.Sub(p.freeAt); p.act.mayLive && back > 0 && r.TCP.LastAckRecv+r.TCPAge < back-d.limit(p, actSlack) {
		d.fail(p, "its kernel was reached again %v before it was ended", r.TCP.LastAckRecv+r.TCPAge)
	}
	retransmits := r.TCP.Unacked > 0 && r.TCP.Retransmits > 0 && r.TCP.SndWnd > 0
	if n := p.act.name; n == ownLinkDown || n == ownRouteGone { // what was on its way then may be sent again, what was not cannot be sent
		retransmits = retransmits || r.TCP.Unacked == 0 && r.TCP.NotSent > 0
	}
	_, errno := p.end.Errno()
	loses := d.plan.legs[p.proc.leg].kind == slowLeg // then something may be sent again to one who is frozen
	if p.end.Reason == server.PathDead && !retransmits && errno == 0 || p.end.Reason == server.PeerFrozen && retransmits && !loses {
		d.fail(p, "the kernel's evidence is otherwise: %+v", r.TCP)
	}
}

// limit is d, and for how long the machine held up what was done to p.
func (d *director) limit(p *peer, most time.Duration) time.Duration {
	from := p.actedAt
	if from.IsZero() {
		from = p.orderedAt
	}
	return most + d.heldUp(p.proc, from, time.Now())
}

// settle closes the book on a peer when both sides have said what they know, and has its slot taken again.
func (d *director) settle(p *peer) {
	switch {
	case p.end == nil:
		return
	case p.proc.dead:
	case p.how == "":
		if p.act != nil && p.act.drop {
			p.proc.order("drop", p.number)
		}
		return
	case p.act != nil && p.actedAt.IsZero():
		return
	}
	delete(d.peers, p.number)
	delete(d.acting, p)
	delete(d.sessions, p.s)
	if p.act != nil && !p.act.lives() {
		d.judgeBooks(p)
	}
	if p.slot >= 0 && d.slots[p.slot] == p {
		d.slots[p.slot] = nil
		if !d.ending {
			d.retake(p.slot, p.proc.index)
		}
	}
}

// judgeBooks compares what both sides have counted, and takes the time.
func (d *director) judgeBooks(p *peer) {
	r := p.end.Record
	if p.trait != lazy && d.plan.legs[p.proc.leg].kind != slowLeg {
		after := p.endAt.Sub(p.actedAt)
		if c := d.counts[p.act]; !d.wasAway(p.actedAt, p.endAt) {
			c.after = append(c.after, after)
		}
		if most := d.limit(p, p.act.limit); after > most {
			d.fail(p, "told after %v, not within %v", after, most)
		}
	}
	if p.heard != 0 && p.heard != int(p.end.Reason) {
		d.fail(p, "its client was told %d", p.heard)
	}
	// What is reset may lose its Goodbye where packets are lost.
	surely := p.end.Reason == server.PeerProtocol && d.plan.legs[p.proc.leg].kind != slowLeg
	if p.heard == 0 && (p.end.Reason >= server.ServerClosed || surely) {
		d.fail(p, "its client was told nothing")
	}
	if p.act.stays && p.how != "reset" {
		d.fail(p, "it stayed, and was not reset but %s", p.how)
	}
	if p.act.exact {
		if r.BytesIn != p.sent || r.FramesIn != p.frames {
			d.fail(p, "it has sent %d bytes in %d frames", p.sent, p.frames)
		}
		if out := r.BytesOut - uint64(r.Unsent); p.got != out {
			d.fail(p, "it has received %d bytes", p.got)
		}
	}
}

// look finds what should have been told by now, and notes when this process was held up.
func (d *director) look() {
	now := time.Now()
	if total := d.held.total(); total-d.heldBefore >= 4*doze {
		own := len(d.procs)
		d.lates[own] = append(d.lates[own], lateness{now, total - d.heldBefore})
		d.heldBefore = total
	}
	if !d.begun.IsZero() && !d.ending {
		live := d.srv.Stats().Live
		d.liveSum, d.liveLooks = d.liveSum+live, d.liveLooks+1
		d.liveMin = min(d.liveMin, live)
	}
	for p := range d.acting {
		switch {
		case p.overdue:
		case p.end == nil && !p.actedAt.IsZero() && now.Sub(p.actedAt) > d.limit(p, p.act.limit+2*time.Second):
			p.overdue = true
			d.fail(p, "told nothing after %v", now.Sub(p.actedAt))
		case p.end == nil && p.actedAt.IsZero() && now.Sub(p.orderedAt) > 10*time.Second:
			p.overdue = true
			d.fail(p, "not done after %v", now.Sub(p.orderedAt))
		case p.end != nil && now.After(p.freeAt) && now.Sub(p.endAt) > 5*time.Second && now.Sub(p.freeAt) > 5*time.Second:
			p.overdue = true
			d.fail(p, "its client has not seen the end")
		}
	}
}
