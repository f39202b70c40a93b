package server_test

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

// A crowd of clients shares a leg, to which something may be done. The question is who lives.
type multitude struct {
	name   string
	n      int
	cfg    func(*server.Config)
	shape  *netlab.Shape
	rcvbuf int             // of the clients
	hush   bool            // they say no first word
	client func(c *client) // what each does; nil: it reads nothing
	talk   time.Duration   // each sends a message this often; 0: never
	echo   bool            // and is sent it back
	// so many messages of so many bytes are sent to each as it joins
	join   [2]int
	size   int                                    // bytes of each message that the server sends later
	every  time.Duration                          // how often; 0: never
	settle time.Duration                          // before act
	act    func(*netlab.Lab, time.Duration) error // lasts so long
	lasts  time.Duration
	wait   time.Duration // for ends, after act

	judge func(t testing.TB, o outcome)
}

// An outcome is what became of a multitude.
type outcome struct {
	multitude
	acted, over time.Time // when act was begun, and had been done
	ends        []ending
	suspected   map[server.Suspicion]int
	recovered   uint64
	srv         *server.Server
}

func beats(c *client) { _, _ = c.beat() }

// slowly has a client read so much at a time, at such a pace, and answer nothing.
func slowly(pause time.Duration, chunk int) func(c *client) {
	return func(c *client) {
		for b := make([]byte, chunk); ; {
			time.Sleep(pause)
			if _, err := c.Conn.Read(b); err != nil {
				return
			}
		}
	}
}

func (m multitude) play(t *busy.T) {
	lab, err := netlab.New(1)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lab.Close()) })
	cfg := brief()
	if m.cfg != nil {
		m.cfg(&cfg)
	}
	h := newRecorder()
	var mu sync.Mutex
	o := outcome{multitude: m, suspected: map[server.Suspicion]int{}}
	h.onSuspect = func(s *server.Session) {
		mu.Lock()
		defer mu.Unlock()
		o.suspected[s.Suspicion()]++
	}
	if !m.echo {
		h.onMessage = func(*server.Session, []byte) error { return nil }
	}
	h.onOpen = func(s *server.Session) error {
		for range m.join[0] {
			if err := s.Send(make([]byte, m.join[1])); err != nil {
				return err
			}
		}
		return nil
	}
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	o.srv = serveOn(t, h, cfg, ln)
	if m.shape != nil { // a connection that is begun behind losses takes seconds
		clean := *m.shape
		clean.Loss = 0
		require.NoError(t, lab.Leg(0).Relay(clean))
	}
	for range m.n {
		c := dialFar(t, o.srv, lab.Leg(0))
		if m.rcvbuf > 0 {
			require.NoError(t, c.Conn.(*net.TCPConn).SetReadBuffer(m.rcvbuf))
		}
		if !m.hush {
			c.send(t, codec.Data, []byte("hello"))
		}
		if m.client != nil {
			go m.client(c)
		}
		if m.talk > 0 {
			go c.talk(m.talk)
		}
		if s := h.nextOpen(t); m.every > 0 {
			go push(s, m.size, m.every)
		}
	}
	time.Sleep(m.settle)
	o.acted = time.Now()
	if m.shape != nil {
		require.NoError(t, lab.Leg(0).Relay(*m.shape))
	}
	if m.act != nil {
		require.NoError(t, m.act(lab, m.lasts))
	}
	o.over = time.Now()
	for end := time.After(m.wait); len(o.ends) < m.n; {
		select {
		case e := <-h.closes:
			o.ends = append(o.ends, e)
			continue
		case <-end:
		}
		break
	}
	mu.Lock()
	defer mu.Unlock()
	st := o.srv.Stats()
	o.recovered = st.Recovered
	t.Logf("%s: of %d %d live; suspected %v, %d recovered; %v", m.name, m.n, m.n-len(o.ends), o.suspected,
		o.recovered, o.reasons())
	if late := o.over.Sub(o.acted) - m.lasts; m.act != nil && late > 100*time.Millisecond {
		t.CannotTell("%s: what was done took %v longer", m.name, late)
		return
	}
	m.judge(t.IfQuiet(held), o)
}

// reasons counts the ends.
func (o outcome) reasons() map[string]int {
	n := map[string]int{}
	for _, e := range o.ends {
		n[e.end.Reason.String()]++
	}
	return n
}

// allLive wants everybody alive.
func allLive(t testing.TB, o outcome) {
	for _, e := range o.ends {
		assert.Fail(t, "a live client was ended", "%s: %v after %v; %v; %+v",
			o.name, e.end, e.at.Sub(o.acted).Round(time.Millisecond), e.end.Record, e.end.Record.TCP)
	}
}

// endedOrBlind wants everybody ended by one of these, or of whom nothing had come back for a
// second, so that nobody could tell.
func endedOrBlind(truth ...server.Reason) func(testing.TB, outcome) {
	return func(t testing.TB, o outcome) {
		assert.Len(t, o.ends, o.n, o.name)
		blind := 0
		for _, e := range o.ends {
			if r := e.end.Reason; (r == server.PathDead || r == server.HeartbeatLost) &&
				e.end.Record.TCP.LastAckRecv > time.Second {
				blind++
				continue
			}
			assert.Contains(t, truth, e.end.Reason, "%s: %v after %v; %v; %+v",
				o.name, e.end, e.at.Sub(o.acted).Round(time.Millisecond), e.end.Record, e.end.Record.TCP)
		}
		t.Logf("%s: of %d nothing had come back", o.name, blind)
		assert.LessOrEqual(t, blind, o.n/2, o.name)
	}
}

// few wants nobody ended but some, by one of these, because what the kernel tells is not enough
// there to do better.
func few(most int, truth ...server.Reason) func(testing.TB, outcome) {
	return func(t testing.TB, o outcome) {
		assert.LessOrEqual(t, len(o.ends), most, "%s: %v", o.name, o.reasons())
		for _, e := range o.ends {
			assert.Contains(t, truth, e.end.Reason, "%s: %v; %v; %+v", o.name, e.end, e.end.Record,
				e.end.Record.TCP)
		}
	}
}

// whoeverIsReached wants everybody alive whose kernel has been reached again before Timeout: the
// others are ended of the path, and then nothing came back after it was mended.
func whoeverIsReached(t testing.TB, o outcome) {
	for _, e := range o.ends {
		ti := e.end.Record.TCP
		back := e.at.Sub(o.over) - e.end.Record.TCPAge
		assert.Equal(t, server.PathDead, e.end.Reason, "%s: %v after %v; %v; %+v",
			o.name, e.end, e.at.Sub(o.acted).Round(time.Millisecond), e.end.Record, ti)
		assert.GreaterOrEqual(t, ti.LastAckRecv, back-50*time.Millisecond,
			"%s: it was reached %v before it was ended", o.name, ti.LastAckRecv)
	}
}

func playEach(t *busy.T, all []multitude) {
	lab, err := netlab.New(0)
	if err != nil {
		t.Skipf("no network to break: %v", err)
	}
	require.NoError(t, lab.Close())
	var playing sync.WaitGroup
	for _, m := range all {
		playing.Go(func() { m.play(t) }) // what fails here is waited for all the same
	}
	playing.Wait()
}

// A link that has been away and is good again convicts nobody of being frozen: the client's bytes
// wait for its own kernel's backed-off retry, while that kernel acknowledges our Pings at once.
func TestPathAway(t *testing.T) { busy.Try(t, testPathAway) }

func testPathAway(t *busy.T) {
	t.Parallel()
	away := func(l *netlab.Lab, d time.Duration) error {
		if _, err := l.Leg(0).Cut(); err != nil {
			return err
		}
		time.Sleep(d)
		return l.Leg(0).Mend()
	}
	// Retries of the kernel come 0.2, 0.6, 1.4, 3 and 6.2 s after the first sending.
	long := func(c *server.Config) {
		c.Policy = heartbeat.Policy{Interval: 1500 * time.Millisecond, Timeout: 5 * time.Second}
	}
	all := []multitude{
		// Our first Ping is sent again in time, what the clients said at 3 s or later.
		{name: "1.5 s of 3, talk", n: 20, talk: 100 * time.Millisecond, lasts: 1500 * time.Millisecond,
			act: away, judge: allLive},
		{name: "1.5 s of 3, idle", n: 20, lasts: 1500 * time.Millisecond, act: away, judge: allLive},
		{name: "1.5 s of 3, echo", n: 20, talk: 100 * time.Millisecond, echo: true,
			lasts: 1500 * time.Millisecond, act: away, judge: whoeverIsReached},
		{name: "3.5 s of 5, talk", n: 20, talk: 20 * time.Millisecond, cfg: long,
			lasts: 3500 * time.Millisecond, act: away, judge: allLive},
		// Not everybody's Ping is sent again before Timeout.
		{name: "2.3 s of 3, talk", n: 20, talk: 100 * time.Millisecond, lasts: 2300 * time.Millisecond,
			act: away, judge: whoeverIsReached},
		{name: "2.3 s of 3, idle", n: 20, lasts: 2300 * time.Millisecond, act: away,
			judge: whoeverIsReached},
		{name: "2.3 s of 3, echo", n: 20, talk: 100 * time.Millisecond, echo: true,
			lasts: 2300 * time.Millisecond, act: away, judge: whoeverIsReached},
		{name: "2.9 s of 3, streamed to", n: 20, size: 100, every: 50 * time.Millisecond,
			lasts: 2900 * time.Millisecond, act: away, judge: whoeverIsReached},
	}
	for i := range all {
		m := &all[i]
		m.client, m.settle, m.wait = beats, time.Second, 8*time.Second
	}
	playEach(t, all)
}

// So it is if it was our own link that was away.
func TestPathOwnSideAway(t *testing.T) { busy.Try(t, testPathOwnSideAway) }

func testPathOwnSideAway(t *busy.T) {
	t.Parallel()
	ownLinkDown := func(l *netlab.Lab, d time.Duration) error {
		if err := l.ServerCommand("ip", "link", "set", "toclient1", "down").Run(); err != nil {
			return err
		}
		time.Sleep(d)
		return l.ServerCommand("sh", "-c",
			"ip link set toclient1 up && ip route replace 10.77.1.4/30 via 10.77.1.2").Run()
	}
	all := []multitude{
		{name: "own link, 0.4 s, streamed to", n: 10, size: 100, every: 50 * time.Millisecond,
			lasts: 400 * time.Millisecond, act: ownLinkDown, judge: allLive},
		{name: "own link, 1.5 s, idle", n: 10, lasts: 1500 * time.Millisecond, act: ownLinkDown,
			judge: allLive},
		{name: "own link, 1.5 s, streamed to", n: 10, size: 100, every: 50 * time.Millisecond,
			lasts: 1500 * time.Millisecond, act: ownLinkDown,
			judge: whoeverIsReached},
		{name: "own link, 2.3 s, talk", n: 10, talk: 100 * time.Millisecond,
			lasts: 2300 * time.Millisecond, act: ownLinkDown, judge: whoeverIsReached},
	}
	for i := range all {
		m := &all[i]
		m.client, m.settle, m.wait = beats, time.Second, 8*time.Second
	}
	playEach(t, all)
}

// A join download that takes longer than every deadline is no fault of who reads it and answers
// every Ping: its first Ping is behind the bulk.
func TestPathJoinDownload(t *testing.T) { busy.Try(t, testPathJoinDownload) }

func testPathJoinDownload(t *busy.T) {
	t.Parallel()
	tight := func(c *server.Config) {
		c.Policy = heartbeat.Policy{Interval: 500 * time.Millisecond, Timeout: 1500 * time.Millisecond}
		c.HandshakeTimeout, c.FrameTimeout, c.Tick = time.Second, time.Second, 10*time.Millisecond
	}
	shape := func(delay time.Duration, rate, queue int) *netlab.Shape {
		return &netlab.Shape{Delay: delay, Rate: rate, Queue: queue}
	}
	all := []multitude{
		{name: "300 kB at 60 kB/s", join: [2]int{15, 20_000}, shape: shape(20*time.Millisecond, 60_000,
			32<<10)},
		{name: "300 kB at 60 kB/s, far away", join: [2]int{15, 20_000}, shape: shape(150*time.Millisecond,
			60_000, 32<<10)},
		{name: "900 kB at 180 kB/s", join: [2]int{45, 20_000}, shape: shape(20*time.Millisecond, 180_000,
			64<<10)},
		{name: "900 kB at 180 kB/s, and a stream", join: [2]int{45, 20_000},
			shape: shape(20*time.Millisecond, 180_000, 64<<10),
			size:  100, every: 50 * time.Millisecond},
	}
	for i := range all {
		m := &all[i]
		m.n, m.client, m.hush, m.cfg, m.wait, m.judge = 1, beats, true, tight, 8*time.Second, allLive
	}
	playEach(t, all)
}

// What is slow, lossy or bloated is not dead, and a peer that is there is not blamed for its path.
func TestPathThatIsPoor(t *testing.T) { busy.Try(t, testPathThatIsPoor) }

func testPathThatIsPoor(t *busy.T) {
	if testing.Short() {
		t.Skip("it takes 15 s; not with -short")
	}
	t.Parallel()
	loss := func(share float64, seed uint64) *netlab.Shape {
		return &netlab.Shape{Delay: 20 * time.Millisecond, Loss: share, Seed: seed}
	}
	// What is lost four times in a row is sent again after 6.2 s.
	lenient := func(c *server.Config) {
		c.Policy = heartbeat.Policy{Interval: 2 * time.Second, Timeout: 7 * time.Second}
		c.HandshakeTimeout, c.FrameTimeout = 7*time.Second, 7*time.Second
	}
	bloat := &netlab.Shape{Delay: 20 * time.Millisecond, Rate: 60_000, Queue: 120_000} // 2 s
	unknown := []server.Reason{server.PeerFrozen, server.PathDead, server.HeartbeatLost}
	playEach(t, []multitude{
		{name: "slow reader, whose window opens and closes", n: 10,
			shape: &netlab.Shape{Delay: 30 * time.Millisecond}, rcvbuf: 16 << 10,
			client: slowly(1500*time.Millisecond,
				16<<10), talk: 100 * time.Millisecond, size: 2000, every: 200 * time.Millisecond,
			wait: 12 * time.Second, judge: allLive},
		{name: "slower reader", n: 10, shape: &netlab.Shape{Delay: 100 * time.Millisecond}, rcvbuf: 8 << 10,
			client: slowly(2500*time.Millisecond,
				64<<10), talk: 100 * time.Millisecond, size: 2000, every: 200 * time.Millisecond,
			wait: 12 * time.Second, judge: allLive},
		{name: "reads nothing, talks, 20 % loss", n: 20, shape: loss(0.2, 3), rcvbuf: 16 << 10,
			talk: 100 * time.Millisecond,
			size: 2000, every: 50 * time.Millisecond, wait: 12 * time.Second,
			judge: endedOrBlind(server.PeerSlow, server.PeerFrozen)},
		{name: "reads nothing, silent, 20 % loss", n: 20, shape: loss(0.2, 3), rcvbuf: 16 << 10,
			size: 2000, every: 50 * time.Millisecond, wait: 8 * time.Second,
			judge: endedOrBlind(server.PeerFrozen, server.PeerSlow)},
		{name: "echo, 20 % loss", n: 40, shape: loss(0.2, 4), client: beats, talk: 100 * time.Millisecond,
			echo: true,
			cfg:  lenient, wait: 14 * time.Second, judge: few(2, unknown...)},
		{name: "echo, 30 % loss", n: 40, shape: loss(0.3, 5), client: beats, talk: 100 * time.Millisecond,
			echo: true,
			cfg:  lenient, wait: 14 * time.Second, judge: few(12, unknown...)},
		{name: "bloat of 2 s, talks, streamed to", n: 5, shape: bloat, client: beats,
			talk: 200 * time.Millisecond,
			size: 4000, every: 250 * time.Millisecond, wait: 15 * time.Second, judge: allLive},
		{name: "bloat of 2 s, silent, streamed to", n: 5, shape: bloat, client: beats,
			size: 4000, every: 250 * time.Millisecond, wait: 15 * time.Second, judge: few(3,
				server.HeartbeatLost)},
		{name: "bulk, limited by the congestion window", n: 3,
			shape:  &netlab.Shape{Delay: 150 * time.Millisecond, Rate: 100_000, Queue: 30_000},
			client: beats, talk: 50 * time.Millisecond, size: 20_000, every: 300 * time.Millisecond, wait: 10 * time.Second,
			judge: allLive},
	})
}

// Everybody's link goes away at once, for most of Timeout: that is a symptom of this side's
// network. A grace round is granted, and saves those who only listen as well as those who talk.
func TestPathMassOutage(t *testing.T) { busy.Try(t, testPathMassOutage) }

func testPathMassOutage(t *busy.T) {
	t.Parallel()
	const each = 400
	lab, err := netlab.New(1)
	if err != nil {
		t.Skipf("no network to break: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, lab.Close()) })
	h := newRecorder()
	h.onMessage = func(*server.Session, []byte) error { return nil }
	cfg := brief()
	cfg.HandshakeTimeout = 20 * time.Second
	// The kernel sends a Ping again at 0.2, 0.4, 0.8, 1.6 and 3.3 s. An idle client is due 2.65 to
	// 2.9 s after the first Ping that it was sent; so without grace it has no chance, and with it a
	// safe one.
	cfg.Policy.Timeout = 3400 * time.Millisecond
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	srv := serveOn(t, h, cfg, ln)
	talks := map[uint64]bool{}
	for i := range 2 * each {
		c := dialFar(t, srv, lab.Leg(0))
		c.send(t, codec.Data, []byte("hello"))
		go beats(c)
		s := h.nextOpen(t)
		if talks[s.ID()] = i%2 == 0; talks[s.ID()] {
			go c.talk(200 * time.Millisecond)
		}
	}
	time.Sleep(2 * time.Second)
	cut, err := lab.Leg(0).Cut()
	require.NoError(t, err)
	time.Sleep(2500 * time.Millisecond) // nothing that is sent again before 2.4 s gets through
	require.NoError(t, lab.Leg(0).Mend())
	t.NotLater(cut, time.Now(), 2600*time.Millisecond, "the outage")
	time.Sleep(5 * time.Second)
	lost := map[string]int{}
	for len(h.closes) > 0 {
		e := <-h.closes
		lost[fmt.Sprintf("%v, talks: %v", e.end.Reason, talks[e.s.ID()])]++
	}
	st := srv.Stats()
	t.Logf("%d of %d live; %d grace rounds; lost %v", st.Live, 2*each, st.GraceRounds, lost)
	quiet := t.IfQuiet(held)
	assert.Positive(quiet, st.GraceRounds)
	for _, kind := range []bool{true, false} {
		n := 0
		for what, count := range lost {
			if slices.Contains([]string{fmt.Sprintf("%v, talks: %v", server.PathDead, kind),
				fmt.Sprintf("%v, talks: %v", server.PeerFrozen, kind)}, what) {
				n += count
			}
		}
		assert.LessOrEqual(quiet, n, each/20, "of those of whom it is %v that they talk: %v", kind, lost)
	}
}
