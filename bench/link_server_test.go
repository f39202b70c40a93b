//go:build linux

package bench

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

// A linkPlayer is a well-behaved client behind a link, and what the server says about it.
type linkPlayer struct {
	link    string
	down    linkStream // what the server sends it; size 0: nothing but Pings
	up      linkStream // what it sends; size 0: nothing but its first message and Pongs
	conn    *net.TCPConn
	writing sync.Mutex

	mu        sync.Mutex // guards what follows
	session   *server.Session
	sent      [2]uint64 // messages: down, up
	received  [2]uint64
	disorder  string
	suspected []linkSuspicion
	recovered int
	ended     *server.CloseError
}

type linkSuspicion struct {
	why server.Suspicion
	at  time.Time
}

// A linkGame is a server whose players are behind links. Its policy is the default.
type linkGame struct {
	server.Base
	srv    *server.Server
	lab    *netlab.Lab
	legs   map[string][]*netlab.Leg
	joined chan struct{}
	seed   uint64

	mu      sync.Mutex // guards players until all have joined
	players []*linkPlayer

	quit      chan struct{}
	streaming sync.WaitGroup
	reading   sync.WaitGroup
}

func (g *linkGame) player(s *server.Session) *linkPlayer {
	p, _ := s.Value().(*linkPlayer)
	return p
}

// OnMessage takes the player's number from its first message, and counts the others.
func (g *linkGame) OnMessage(s *server.Session, b []byte) error {
	n := binary.BigEndian.Uint64(b)
	p := g.player(s)
	if p == nil {
		g.mu.Lock()
		p = g.players[n]
		g.mu.Unlock()
		s.SetValue(p)
		p.mu.Lock()
		p.session = s
		p.mu.Unlock()
		g.joined <- struct{}{}
		return nil
	}
	p.arrived(1, n)
	return nil
}

func (g *linkGame) OnSuspect(s *server.Session, why server.Suspicion) {
	if p := g.player(s); p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.suspected = append(p.suspected, linkSuspicion{why, time.Now()})
	}
}

func (g *linkGame) OnRecover(s *server.Session) {
	if p := g.player(s); p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.recovered++
	}
}

func (g *linkGame) OnClose(s *server.Session, end *server.CloseError) {
	if p := g.player(s); p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended = end
	}
}

// arrived counts message n of one way: they are numbered from 0.
func (p *linkPlayer) arrived(way int, n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n != p.received[way] && p.disorder == "" {
		p.disorder = fmt.Sprintf("message %d came in the place of %d", n, p.received[way])
	}
	p.received[way]++
}

// playLinks serves on links, each with the players that it is given, until the test ends. It returns
// when all have joined.
func playLinks(t *testing.T, seed uint64, links []link, players func(l link) []*linkPlayer) *linkGame {
	t.Helper()
	legs := 0
	for _, l := range links {
		legs += l.legs
	}
	lab, err := netlab.New(legs)
	if err != nil {
		t.Skipf("no network to break: %v", err)
	}
	t.Cleanup(func() { assert.NoError(t, lab.Close()) })
	g := &linkGame{lab: lab, legs: map[string][]*netlab.Leg{}, seed: seed, joined: make(chan struct{}, 1<<12), quit: make(chan struct{})}
	g.srv, err = server.New(g, server.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ln, err := lab.Listen(0)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- g.srv.Serve(ln) }()
	t.Cleanup(func() { g.close(t, served) })

	var dials []func()
	number := 0
	for _, l := range links {
		var mine []*netlab.Leg
		for range l.legs {
			leg := lab.Leg(number)
			number++
			if l.shape != (netlab.Shape{}) {
				require.NoError(t, leg.Relay(l.shape))
			}
			mine = append(mine, leg)
		}
		g.legs[l.name] = mine
		for i, p := range players(l) {
			p.link = l.name
			n := len(g.players)
			g.mu.Lock()
			g.players = append(g.players, p)
			g.mu.Unlock()
			dials = append(dials, func() { g.join(t, p, n, mine[i%len(mine)], ln.Addr().(*net.TCPAddr).Port) })
		}
	}
	var dialled sync.WaitGroup
	for _, dial := range dials {
		dialled.Go(dial)
	}
	dialled.Wait()
	for range dials {
		select {
		case <-g.joined:
		case <-time.After(20 * time.Second):
			require.FailNow(t, "not all joined")
		}
	}
	return g
}

// join connects a player and reads for it, until its connection ends.
func (g *linkGame) join(t *testing.T, p *linkPlayer, number int, leg *netlab.Leg, port int) {
	c, err := leg.Dial(port)
	if !assert.NoError(t, err, p.link) {
		return
	}
	p.conn = c
	g.reading.Go(func() {
		r := bufio.NewReader(c)
		for {
			f, err := readFrame(r)
			if err != nil {
				return
			}
			switch f.Type {
			case codec.Data:
				p.arrived(0, binary.BigEndian.Uint64(f.Payload))
			case codec.Ping:
				if p.say(codec.Pong, f.Payload) != nil {
					return
				}
			case codec.Goodbye:
				c.Close()
			}
		}
	})
	assert.NoError(t, p.say(codec.Data, binary.BigEndian.AppendUint64(nil, uint64(number))))
}

func (p *linkPlayer) say(typ codec.Type, payload []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	_, err := p.conn.Write(frame(typ, payload))
	return err
}

// stream begins to send, both ways. The phases are random.
func (g *linkGame) stream() {
	random := rand.New(rand.NewPCG(g.seed, 1))
	for _, p := range g.players {
		p.mu.Lock()
		session := p.session
		p.mu.Unlock()
		g.start(p, 0, p.down, random, session.Send)
		g.start(p, 1, p.up, random, func(b []byte) error { return p.say(codec.Data, b) })
	}
}

// start sends numbered messages one way, until the session or the streaming ends.
func (g *linkGame) start(p *linkPlayer, way int, s linkStream, random *rand.Rand, send func([]byte) error) {
	if s.size == 0 {
		return
	}
	phase := time.Duration(random.Int64N(int64(s.every)))
	g.streaming.Go(func() {
		next := time.NewTimer(phase)
		defer next.Stop()
		buf := make([]byte, max(s.size, s.first))
		for n := uint64(0); ; n++ {
			select {
			case <-next.C:
			case <-g.quit:
				return
			}
			next.Reset(s.every)
			binary.BigEndian.PutUint64(buf, n)
			if send(buf) != nil {
				return
			}
			p.mu.Lock()
			p.sent[way]++
			p.mu.Unlock()
			buf = buf[:s.size]
		}
	})
}

// stop ends the streams. What is on its way still arrives.
func (g *linkGame) stop() {
	close(g.quit)
	g.streaming.Wait()
}

// stallAll holds the links of that name back for d.
func (g *linkGame) stallAll(t *testing.T, name string, d time.Duration) {
	t.Helper()
	for _, leg := range g.legs[name] {
		require.NoError(t, leg.Stall(d))
	}
}

// arrived tells whether all that was sent has arrived.
func (g *linkGame) arrived() bool {
	for _, p := range g.players {
		p.mu.Lock()
		all := p.received == p.sent
		p.mu.Unlock()
		if !all {
			return false
		}
	}
	return true
}

func (g *linkGame) close(t *testing.T, served <-chan error) {
	select {
	case <-g.quit:
	default:
		g.stop()
	}
	assert.NoError(t, g.srv.Close())
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Error("Serve does not return")
	}
	for _, p := range g.players {
		if p.conn != nil {
			_ = p.conn.SetLinger(0)
			p.conn.Close()
		}
	}
	g.reading.Wait()
}

// linkReport is what the server said about the players of some links.
type linkReport struct {
	players                   int
	suspected                 map[server.Suspicion]int
	recovered, ended, suspect int
	complaints                []string // what must not be, whatever the link
}

func (g *linkGame) report(link string) linkReport {
	r := linkReport{suspected: map[server.Suspicion]int{}}
	for i, p := range g.players {
		if p.link != link {
			continue
		}
		p.mu.Lock()
		r.players++
		for _, s := range p.suspected {
			r.suspected[s.why]++
		}
		r.recovered += p.recovered
		if p.ended != nil {
			r.ended++
			r.complaints = append(r.complaints, fmt.Sprintf("player %d: %v: %+v", i, p.ended, p.ended.Record))
		}
		if p.disorder != "" {
			r.complaints = append(r.complaints, fmt.Sprintf("player %d: %s", i, p.disorder))
		}
		if p.session.Suspicion() != 0 {
			r.suspect++
		}
		p.mu.Unlock()
	}
	return r
}
