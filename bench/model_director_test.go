//go:build linux

package bench

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// director carries a plan out. It knows what was done to whom, before it is done, and judges by that
// what the server tells. It is one goroutine.
type director struct {
	*world
	plan  *plan
	begun time.Time
	slots []*peer // who has which slot
	last  int     // number given to a peer

	longest time.Duration // that one deed took to do

	agenda  agenda
	peers   map[int]*peer // by number: all whose end is not settled
	acting  map[*peer]bool
	blocked [][]int     // by process: slots to be taken again when it can
	cut     []bool      // by leg
	broken  []time.Time // by leg: when it last was
	stalled []time.Time // by leg: by then a stall has no effect any more
	away    []lateness  // when loops were blocked, of all loops

	calling  map[netip.AddrPort][]*peer    // connected, not yet seen by the server
	arrived  map[netip.AddrPort][]telling  // seen by the server, not yet heard of from the client
	early    map[*server.Session][]telling // told of those
	sessions map[*server.Session]*peer

	held  *heldUp
	lates [][]lateness // by process; the last: this one
	tally
}

// lateness is for how long a process was held up, up to a moment.
type lateness struct {
	at time.Time
	d  time.Duration
}

// peer is one connection, as the model knows it.
type peer struct {
	number, slot int // slot -1: it takes none
	proc         *clientProc
	trait        trait
	up           bool // the server has answered it
	addr         netip.AddrPort

	act       *act      // what was done to it; nil: nothing
	orderedAt time.Time // it had not been done before
	actedAt   time.Time // it was done
	freeAt    time.Time // a group is let go again
	code      int       // of its Goodbye
	calmAt    time.Time // by then what was done to it can no longer make it suspect
	survives  *act      // what that was
	sent      uint64    // bytes and frames, when it was done
	frames    uint64

	s         *server.Session
	openedAt  time.Time
	suspectAt time.Time // zero: it is not
	endAt     time.Time
	end       *server.CloseError
	how       string // the end of the connection as the client saw it; empty: not yet
	got       uint64
	heard     int // number in the Goodbye that it was told
	overdue   bool
	history   []string
}

func (p *peer) note(format string, args ...any) {
	p.history = append(p.history, fmt.Sprintf(format, args...))
}

// agenda is what is to be done, by time.
type (
	agenda []appointment
	// appointment is one of these; seq keeps those of the same time in order.
	appointment struct {
		at  time.Time
		seq int
		do  func()
	}
)

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at.Before(a[j].at) || a[i].at.Equal(a[j].at) && a[i].seq < a[j].seq
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(appointment)) }
func (a *agenda) Pop() any {
	old := *a
	x := old[len(old)-1]
	*a = old[:len(old)-1]
	return x
}

func (d *director) at(t time.Time, do func()) {
	d.seq++
	heap.Push(&d.agenda, appointment{t, d.seq, do})
}

func (d *director) in(after time.Duration, do func()) { d.at(time.Now().Add(after), do) }

// run works until done says so, which is asked now and then, or for so long at most; it reports whether
// done did.
func (d *director) run(most time.Duration, done func() bool) bool {
	deadline := time.Now().Add(most)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		for len(d.agenda) > 0 && !d.agenda[0].at.After(time.Now()) {
			begun := time.Now()
			heap.Pop(&d.agenda).(appointment).do()
			d.longest = max(d.longest, time.Since(begun))
		}
		wait := time.Hour
		if len(d.agenda) > 0 {
			wait = time.Until(d.agenda[0].at)
		}
		select {
		case <-time.After(wait):
		case l := <-d.lines:
			d.hear(l)
		case <-d.witness.ready:
			for _, t := range d.witness.take() {
				d.learn(t)
			}
		case <-look.C:
			d.look()
			if done() {
				return true
			}
			if time.Now().After(deadline) {
				return false
			}
		}
	}
}

// take has a new client take a slot, or connect without one. word is the client's for how.
func (d *director) take(word string, proc *clientProc, slot int) *peer {
	d.last++
	p := &peer{number: d.last, slot: slot, proc: proc, orderedAt: time.Now()}
	d.peers[p.number] = p
	if slot < 0 {
		proc.order(word, p.number)
		return p
	}
	p.trait = d.plan.traits[slot]
	d.slots[slot] = p
	proc.order(word, p.number, p.trait.String(), strconv.Itoa(slot))
	return p
}

// retake has a slot taken again, now or when its process can.
func (d *director) retake(slot, index int) {
	p := d.procs[index]
	if p.ready && !p.frozen && !p.dead && !d.cut[p.leg] {
		d.take("dial", p, slot)
		return
	}
	d.blocked[index] = append(d.blocked[index], slot)
}

// unblock has the slots taken that waited for this process.
func (d *director) unblock(index int) {
	slots := d.blocked[index]
	d.blocked[index] = nil
	for _, slot := range slots {
		d.retake(slot, index)
	}
}

// begin notes that an act is about to be done to a peer, and for how long: from now on its reasons are
// the truth.
func (d *director) begin(p *peer, a *act, lasts time.Duration) {
	p.act, p.orderedAt, p.actedAt = a, time.Now(), time.Time{}
	p.note("%v: %s", d.since(p.orderedAt), a.name)
	d.counts[a].done++
	if a.streams != streamNothing {
		s := p.s
		_ = s.Post(func() { s.Value().(*seat).stream(s, int32(a.streams)) })
	}
	if a.lives() || a.mayLive {
		p.survives, p.calmAt = a, p.orderedAt.Add(lasts+a.limit)
		if a.mayLive {
			p.calmAt = p.orderedAt.Add(a.limit + actSlack)
		}
		d.at(p.calmAt, func() {
			if p.act == a && p.end == nil {
				delete(d.acting, p)
				p.act = nil
				d.counts[a].lived++
			}
		})
	}
	if !a.lives() {
		d.acting[p] = true
	}
}

// idle tells whether a peer is there, and nothing is being done to it.
func (p *peer) idle() bool {
	return p != nil && p.up && p.s != nil && p.act == nil && p.end == nil && p.how == ""
}

// do carries out one deed.
func (d *director) do(e deed) {
	switch e.act.kind {
	case toPack, toLeg:
		d.doToMany(e, time.Now().Add(ahead-100*time.Millisecond))
		return
	case toLoop:
		d.block(e)
		return
	}
	p := d.slots[e.target]
	switch {
	case e.act.extra:
		proc := d.procs[d.procOf(e.target)]
		if !proc.ready || proc.frozen || proc.dead {
			d.skipped++
			return
		}
		p := d.take(e.act.order, proc, -1)
		d.begin(p, e.act, 0)
	case !p.idle():
		d.skipped++
	default:
		d.begin(p, e.act, 0)
		d.doTo(p, e)
	}
}

func (d *director) procOf(slot int) int {
	for i, p := range d.plan.procs {
		if slot < p.first+p.slots {
			return i
		}
	}
	panic("no such slot")
}

// doTo does something to one peer.
func (d *director) doTo(p *peer, e deed) {
	word, args, _ := strings.Cut(e.act.order, " ")
	switch {
	case e.act.name == "replaced":
		p.actedAt = time.Now()
		d.take("dial", p.proc, p.slot)
	case e.act.name == "closed by the app":
		d.close(p)
	case strings.HasPrefix(word, "goodbye"):
		p.code = int(e.arg % 3000)
		p.proc.order(word, p.number, strconv.Itoa(p.code))
	case word == "nap":
		nap := 500*time.Millisecond + time.Duration(e.arg%700)*time.Millisecond
		p.proc.order(word, p.number, nap.String())
	default:
		p.proc.order(word, p.number, args)
	}
}

// close has the server close a session with the act's reason.
func (d *director) close(p *peer) {
	p.actedAt = time.Now()
	if err := p.s.Close(p.act.told[0], p.act.name); err != nil {
		d.fail(p, "Close: %v", err)
	}
}

// block has a handler block the loop of one client. What that holds up is the application's doing, and
// counts as if the machine had done it.
func (d *director) block(e deed) {
	i := e.target
	for !d.slots[i].idle() || d.slots[i].s.Post(func() { time.Sleep(e.lasts) }) != nil {
		if i = (i + 1) % len(d.slots); i == e.target {
			d.skipped++
			return
		}
	}
	c := d.counts[e.act]
	c.done++
	away := lateness{time.Now().Add(e.lasts), e.lasts}
	d.away = append(d.away, away)
	d.lates[len(d.procs)] = append(d.lates[len(d.procs)], away)
	d.in(e.lasts+e.act.limit, func() { c.lived++ })
}

// doToMany does something to a pack or a leg, once all who are in it are there; it waits for that until
// the time given.
func (d *director) doToMany(e deed, until time.Time) {
	var procs []int
	if e.act.kind == toPack {
		procs = []int{e.target}
	} else {
		procs = d.plan.legs[e.target].procs
	}
	var group []*peer
	for _, i := range procs {
		p := d.plan.procs[i]
		group = append(group, d.slots[p.first:p.first+p.slots]...)
	}
	if e.act.name == "stalled briefly" {
		d.counts[e.act].done += len(group)
		d.stalled[e.target] = time.Now().Add(e.lasts + time.Second)
		d.must(d.lab.Leg(e.target).Stall(e.lasts))
		d.in(e.act.limit, func() { d.counts[e.act].lived += len(group) })
		return
	}
	for _, p := range group {
		if !p.idle() {
			if time.Now().After(until) {
				d.skipped++
			} else {
				d.in(20*time.Millisecond, func() { d.doToMany(e, until) })
			}
			return
		}
	}
	rng := rand.New(rand.NewPCG(e.arg, 0))
	flooded, inFrame := 0, []*peer(nil)
	for _, p := range group {
		flood := e.act.name == "frozen, some flooded" && p.trait != patient && flooded < 5 && rng.IntN(3) == 0
		if flood {
			flooded++
		}
		half := e.act.name == "cut" && p.trait != streamed && rng.IntN(5) == 0
		if half {
			inFrame = append(inFrame, p)
		}
		a := e.act.appliesTo(p.trait, flood, half)
		d.begin(p, a, e.lasts)
		p.freeAt = p.orderedAt.Add(e.lasts)
	}
	for _, p := range inFrame {
		p.proc.order(p.act.order, p.number)
	}
	strike := func() {
		at := d.strike(e)
		for _, p := range group {
			p.actedAt = at
		}
		if len(inFrame) > 0 && time.Since(inFrame[0].orderedAt) > modelConfig.FrameTimeout/2 {
			for _, p := range inFrame {
				d.counts[p.act].done--
				p.act = actNamed("cut, late in a frame")
				d.counts[p.act].done++
			}
		}
		d.in(e.lasts, func() {
			for _, p := range group {
				p.freeAt = time.Now()
			}
			d.release(e)
		})
	}
	if len(inFrame) > 0 {
		d.in(200*time.Millisecond, strike) // the halves arrive
		return
	}
	strike()
}

// strike begins what is done to a group and returns the time just before.
func (d *director) strike(e deed) (at time.Time) {
	var err error
	switch {
	case e.act.kind == toLeg:
		d.cut[e.target], d.broken[e.target] = true, time.Now()
		at, err = d.sever(e.act, e.target)
	case e.act.name == "kill -9":
		d.procs[e.target].dead = true
		at, err = d.procs[e.target].signal(syscall.SIGKILL)
	default:
		d.procs[e.target].frozen = true
		at, err = d.procs[e.target].signal(syscall.SIGSTOP)
	}
	d.must(err)
	return at
}

// release ends it.
func (d *director) release(e deed) {
	if e.act.kind == toLeg {
		d.must(d.rejoin(e.act, e.target))
		d.in(e.act.settles(), func() {
			d.cut[e.target], d.broken[e.target] = false, time.Now()
			for _, i := range d.plan.legs[e.target].procs {
				d.unblock(i)
			}
		})
		return
	}
	p := d.procs[e.target]
	if e.act.name == "kill -9" {
		d.start(p.index, p.leg) // unblocked when it is ready
		return
	}
	p.frozen = false
	_, err := p.signal(syscall.SIGCONT)
	d.must(err)
	d.unblock(e.target)
}

// sever breaks a leg in an act's way, and returns the time just before.
func (d *director) sever(a *act, leg int) (at time.Time, err error) {
	end, at := d.ends(leg), time.Now()
	switch a.name {
	case oneWay:
		return at, d.serverIP("neigh replace " + end.router + " lladdr 02:00:00:00:00:01 dev " + end.device + " nud permanent")
	case ownLinkDown:
		return at, d.serverIP("link set " + end.device + " down")
	case ownRouteGone:
		return at, d.serverIP("route del " + end.clients)
	}
	return d.lab.Leg(leg).Cut()
}

// rejoin repairs it.
func (d *director) rejoin(a *act, leg int) error {
	end := d.ends(leg)
	route := "route replace " + end.clients + " via " + end.router
	switch a.name {
	case oneWay:
		return d.serverIP("neigh del " + end.router + " dev " + end.device)
	case ownLinkDown:
		return d.serverIP("link set "+end.device+" up", route)
	case ownRouteGone:
		return d.serverIP(route)
	}
	return d.lab.Leg(leg).Mend()
}

// ends are the server's end of a leg, and what is behind it.
func (d *director) ends(leg int) struct{ device, router, clients string } {
	return struct{ device, router, clients string }{
		fmt.Sprintf("toclient%d", leg+1), fmt.Sprintf("10.77.%d.2", leg+1), fmt.Sprintf("10.77.%d.4/30", leg+1)}
}

// serverIP runs commands of ip(8) in the server's namespace.
func (d *director) serverIP(commands ...string) error {
	cmd := d.lab.ServerCommand("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %v: %w: %s", commands, err, out)
	}
	return nil
}
