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

// brief has deadlines that a test can wait for, and that leave the kernel time for some
// retransmissions.
func brief() server.Config {
	return server.Config{
		Policy:           heartbeat.Policy{Interval: time.Second, Timeout: 3 * time.Second},
		HandshakeTimeout: 2 * time.Second,
		FrameTimeout:     2 * time.Second,
		CloseTimeout:     500 * time.Millisecond,
		Tick:             20 * time.Millisecond,
		Loops:            1,
	}
}

// A scene is one session over a leg of its own, to whose path something is done.
type scene struct {
	name   string
	cfg    func(*server.Config)
	mute   bool          // the client says nothing, and answers nothing
	deaf   bool          // the client reads nothing, and has room for 16 KiB
	talk   time.Duration // the client sends a message this often; 0: only the first
	size   int           // bytes of each message that the server sends
	every  time.Duration // how often it sends one; 0: never
	settle time.Duration // how long all this goes on before act
	act    func(l *line) error

	truth  []server.Reason
	within time.Duration // from act to OnClose; 0: Timeout, and what a tick and the kernel's clock add
	warned time.Duration // from act to OnSuspect; 0: not asked for
	byPath bool          // the suspicion is SuspectPath: what else would it be of a client that talks on
	sudden bool          // it may end before anybody is suspect
}

// A line is what a scene is played on.
type line struct {
	t   *busy.T
	lab *netlab.Lab
	h   *recorder
	c   *client
	s   *server.Session

	mu       sync.Mutex
	suspects []suspected // in order
}

type suspected struct {
	why server.Suspicion
	at  time.Time
}

// ip runs ip(8) in the server's namespace.
func (l *line) ip(args ...string) error {
	if out, err := l.lab.ServerCommand("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}

// What is done to the path.
func cutCable(l *line) error { _, err := l.lab.Leg(0).Cut(); return err }
func linkDown(l *line) error { return l.ip("link", "set", "toclient1", "down") }
func routeGone(l *line) error {
	return l.ip("route", "del", "10.77.1.4/30")
}
func routeIs(kind string) func(*line) error {
	return func(l *line) error { return l.ip("route", "replace", kind, "10.77.1.4/30") }
}

// oneWay loses what the server sends, and nothing that the client sends.
func oneWay(l *line) error {
	return l.ip("neigh", "replace", "10.77.1.2", "lladdr", "02:00:00:00:00:01", "dev", "toclient1", "nud",
		"permanent")
}

// play plays sc once.
func (sc scene) play(t *busy.T) {
	lab, err := netlab.New(1)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lab.Close()) })
	cfg := brief()
	if sc.cfg != nil {
		sc.cfg(&cfg)
	}
	l := &line{t: t, lab: lab, h: newRecorder()}
	l.h.onMessage = func(*server.Session, []byte) error { return nil }
	l.h.onSuspect = func(s *server.Session) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.suspects = append(l.suspects, suspected{s.Suspicion(), time.Now()})
	}
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	l.c = dialFar(t, serveOn(t, l.h, cfg, ln), lab.Leg(0))
	l.s = l.h.nextOpen(t)
	if sc.deaf {
		require.NoError(t, l.c.Conn.(*net.TCPConn).SetReadBuffer(16<<10))
	} else if !sc.mute {
		go func() { _, _ = l.c.beat() }()
	}
	if !sc.mute {
		l.c.send(t, codec.Data, []byte("hello"))
	}
	if sc.talk > 0 {
		go l.c.talk(sc.talk)
	}
	if sc.every > 0 {
		go push(l.s, sc.size, sc.every)
	}
	time.Sleep(sc.settle)
	require.NoError(t, sc.act(l))
	sc.judge(l, cfg, time.Now(), l.h.nextClose(t))
}

// judge holds what was told since the act against the truth. The reason must be right whatever the
// machine does.
func (sc scene) judge(l *line, cfg server.Config, act time.Time, e ending) {
	t, ti := l.t, e.end.Record.TCP
	quiet := t.IfQuiet(held)
	took := e.at.Sub(act)
	l.mu.Lock()
	suspects := slices.DeleteFunc(slices.Clone(l.suspects),
		func(s suspected) bool { return s.at.Before(act) })
	l.mu.Unlock()
	l.h.mu.Lock()
	recovers := slices.DeleteFunc(slices.Clone(l.h.recovers[l.s.ID()]), func(at time.Time) bool {
		return at.Before(act.Add(200 * time.Millisecond)) // what was on its way
	})
	l.h.mu.Unlock()
	t.Logf("%s: %v after %v, suspect %v: %v", sc.name, e.end.Reason, took.Round(time.Millisecond),
		since(suspects, act), e.end)
	assert.Contains(t, sc.truth, e.end.Reason, "%s: %v; %v; %+v", sc.name, e.end, e.end.Record, ti)
	assert.LessOrEqual(quiet, len(suspects), 1, "%s: it flaps: %v", sc.name, since(suspects, act))
	assert.Empty(quiet, recovers, "%s: it recovers, and nothing was acknowledged", sc.name)
	if !sc.sudden {
		assert.NotEmpty(quiet, suspects, "%s: it was never suspect", sc.name)
	}
	within := sc.within
	if within == 0 {
		within = cfg.Policy.Timeout + 2*cfg.Tick + jiffy
	}
	t.NotLater(act, e.at, within+slack, "%s: OnClose", sc.name)
	if len(suspects) == 0 {
		return
	}
	if sc.byPath {
		assert.Equal(quiet, server.SuspectPath, suspects[0].why, sc.name)
	}
	if sc.warned > 0 {
		t.NotLater(act, suspects[0].at, sc.warned, "%s: OnSuspect", sc.name)
	}
}

// held is for how long the machine may hold a test up that makes claims about how often the
// application is told something.
const held = 300 * time.Millisecond

// since writes suspicions as times from act.
func since(all []suspected, act time.Time) (s []string) {
	for _, one := range all {
		s = append(s, fmt.Sprintf("%v at %v", one.why, one.at.Sub(act).Round(time.Millisecond)))
	}
	return s
}

// push sends a message every so often until the session has ended.
func push(s *server.Session, size int, every time.Duration) {
	for s.Send(make([]byte, size)) == nil {
		time.Sleep(every)
	}
}

// talk sends a message every so often until the connection ends.
func (c *client) talk(every time.Duration) {
	for {
		if _, err := c.Write(frame(codec.Data, make([]byte, 30))); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// playAll plays all scenes at the same time: they mostly wait.
func playAll(t *busy.T, scenes []scene) {
	lab, err := netlab.New(0)
	if err != nil {
		t.Skipf("no network to break: %v", err)
	}
	require.NoError(t, lab.Close())
	var playing sync.WaitGroup
	for _, sc := range scenes {
		playing.Go(func() { sc.play(t) }) // what fails here is waited for all the same
	}
	playing.Wait()
}

var dead = []server.Reason{server.PathDead}

// soon is within what a client that is sent to is suspect.
const soon = time.Second

// A cable that is pulled is told as that, whatever was going on: at which rate the server sends,
// whether the client was within a frame, or before its first, and whether its window was closed.
func TestPathCut(t *testing.T) { busy.Try(t, testPathCut) }

func testPathCut(t *busy.T) {
	t.Parallel()
	small := func(c *server.Config) { c.BacklogMax = 128 << 10 }
	patient := func(c *server.Config) { c.WriteTimeout = 20 * time.Second }
	withinFrame := func(l *line) error {
		if _, err := l.c.Write(frame(codec.Data, make([]byte, 50_000))[:25_000]); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
		return cutCable(l)
	}
	scenes := []scene{
		{name: "idle", talk: 100 * time.Millisecond},
		{name: "20 KB a second", size: 1000, every: 50 * time.Millisecond, warned: soon},
		{name: "20 KB a second, talks", size: 1000, every: 50 * time.Millisecond,
			talk: 50 * time.Millisecond, warned: soon, byPath: true},
		{name: "200 KB a second", size: 10_000, every: 50 * time.Millisecond, cfg: small, warned: soon},
		{name: "200 KB a second, talks", size: 10_000, every: 50 * time.Millisecond,
			talk: 50 * time.Millisecond, cfg: small,
			warned: soon, byPath: true},
		// BacklogMax is reached before anybody can know.
		{name: "4 MB a second", size: 40_000, every: 10 * time.Millisecond, cfg: small, sudden: true,
			truth: []server.Reason{server.PathDead, server.HeartbeatLost}},
		{name: "within a frame", settle: 300 * time.Millisecond, act: withinFrame},
		{name: "within a frame, streamed to", settle: 300 * time.Millisecond, size: 100,
			every:  50 * time.Millisecond,
			warned: soon, act: withinFrame},
		{name: "before the first frame", settle: 300 * time.Millisecond, mute: true},
		{name: "before the first frame, streamed to", settle: 300 * time.Millisecond, mute: true, size: 100,
			every: 50 * time.Millisecond, warned: soon},
		{name: "window closed, talks", deaf: true, size: 4000, every: 50 * time.Millisecond,
			talk:   50 * time.Millisecond,
			settle: 1500 * time.Millisecond, cfg: patient, within: 4 * time.Second},
		{name: "window closed, silent", deaf: true, size: 4000, every: 10 * time.Millisecond,
			settle: 400 * time.Millisecond},
	}
	for i := range scenes {
		sc := &scenes[i]
		if sc.act == nil {
			sc.act = cutCable
		}
		if sc.truth == nil {
			sc.truth = dead
		}
		if sc.settle == 0 {
			sc.settle = time.Second
		}
	}
	playAll(t, scenes)
}

// What the server sends gets lost, what the client sends arrives: until the client's kernel, which
// hears of no acknowledgement, sends nothing new any more.
func TestPathOneWay(t *testing.T) { busy.Try(t, testPathOneWay) }

func testPathOneWay(t *busy.T) {
	t.Parallel()
	scenes := []scene{
		{name: "talks and is streamed to", size: 100, every: 20 * time.Millisecond,
			talk: 20 * time.Millisecond, warned: 2 * soon},
		{name: "talks seldom and is streamed to", size: 100, every: 20 * time.Millisecond,
			talk: 400 * time.Millisecond, warned: 2 * soon},
		{name: "talks seldom and is sent to seldom", size: 100, every: 400 * time.Millisecond,
			talk: 400 * time.Millisecond},
		{name: "talks seldom and is streamed to heavily", size: 10_000, every: 50 * time.Millisecond,
			talk:   400 * time.Millisecond,
			warned: 2 * soon},
		{name: "silent and streamed to", size: 100, every: 20 * time.Millisecond, warned: soon},
		{name: "silent"},
	}
	for i := range scenes {
		sc := &scenes[i]
		sc.act, sc.truth, sc.settle, sc.within = oneWay, dead, time.Second, talkerTimeout()
	}
	playAll(t, scenes)
}

// talkerTimeout is within what a standstill is told of a client that talks: its progress is looked
// at each eighth of WriteTimeout.
func talkerTimeout() time.Duration {
	cfg := brief()
	return cfg.Policy.Timeout + cfg.Policy.Timeout/8 + 2*cfg.Tick + 600*time.Millisecond // its last words
}

// Large packets get lost, on the way to the client, and nobody says so; small ones and
// acknowledgements arrive. So the client is heard all the time, and takes nothing.
func TestPathLosesLargePackets(t *testing.T) { busy.Try(t, testPathLosesLargePackets) }

func testPathLosesLargePackets(t *busy.T) {
	t.Parallel()
	scenes := []scene{
		{name: "streamed to", size: 1200, every: 50 * time.Millisecond},
		{name: "streamed to heavily", size: 10_000, every: 50 * time.Millisecond},
		{name: "sent to seldom", size: 1200, every: 800 * time.Millisecond},
		{name: "talks once a second", size: 1200, every: 50 * time.Millisecond, talk: time.Second},
	}
	const timeout = 7 * time.Second // the kernel has sent again five times by then
	for i := range scenes {
		sc := &scenes[i]
		sc.cfg = func(cfg *server.Config) { cfg.Policy.Interval, cfg.Policy.Timeout = 3*time.Second, timeout }
		sc.talk, sc.truth, sc.byPath = max(sc.talk, 50*time.Millisecond), dead, true
		sc.settle, sc.within = time.Second, talkerTimeout()+(timeout-brief().Policy.Timeout)*9/8
		sc.warned = 2*soon + sc.every + timeout/8 // a talker's progress is looked at so often
		sc.within += sc.every
		sc.act = func(l *line) error {
			leg := l.lab.Leg(0)
			if err := leg.Relay(netlab.Shape{}); err != nil { // it sends each packet by itself
				return err
			}
			if out, err := leg.Command("ip", "link", "set", "toserver", "mtu",
				"600").CombinedOutput(); err != nil {
				return fmt.Errorf("ip: %w: %s", err, out)
			}
			return nil
		}
	}
	playAll(t, scenes)
}

// What cannot even be sent is not acknowledged either.
func TestPathOwnSide(t *testing.T) { busy.Try(t, testPathOwnSide) }

func testPathOwnSide(t *busy.T) {
	t.Parallel()
	var scenes []scene
	for _, act := range []struct {
		name string
		do   func(*line) error
	}{
		{"link down", linkDown},
		{"route gone", routeGone},
		{"route blackhole", routeIs("blackhole")},
		{"route unreachable", routeIs("unreachable")},
	} {
		for _, sc := range []scene{
			{name: "idle"},
			{name: "streamed to", size: 100, every: 20 * time.Millisecond, warned: soon},
			{name: "talks and is streamed to", size: 100, every: 20 * time.Millisecond,
				talk: 400 * time.Millisecond, warned: soon},
			{name: "streamed to heavily", size: 10_000, every: 50 * time.Millisecond, warned: soon},
		} {
			sc.name = act.name + ", " + sc.name
			sc.act, sc.settle, sc.within = act.do, time.Second, talkerTimeout()
			sc.truth = []server.Reason{server.PathDead, server.PathUnreachable}
			scenes = append(scenes, sc)
		}
	}
	playAll(t, scenes)
}
