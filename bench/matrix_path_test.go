//go:build linux

package bench

import (
	"fmt"
	"slices"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// lastWords is for how long a client whose kernel hears of no acknowledgement any more still says
// something new: until that kernel sends again what it has not been acknowledged, and nothing else.
const lastWords = 600 * time.Millisecond

// pathCases are the ways in which a path breaks, other than that an idle or lightly streamed cable
// is pulled.
func pathCases(silent, streamed func(string, server.Reason, [methods]string) *row) []slowCase {
	either := func(r *row) *row { // of what cannot even be sent the kernel may say why
		r.truth = []server.Reason{server.PathDead, server.PathUnreachable}
		return r
	}
	// Its window is closed, so that only the silence can tell; and that is asked by what it does
	// not take.
	closed := silent("window closed, then cable pulled", server.PathDead,
		[methods]string{byHeartbeat: "silent", byUserTimeout: "ETIMEDOUT"})
	closed.since, closed.suspect, closed.warned = false, afterSilence(matrixConfig.Policy.Interval*5/4), true
	// What the client says arrives, so it is not silent at once.
	oneWay := streamed("what we send is lost, what it sends arrives", server.PathDead,
		[methods]string{byHeartbeat: "silent", byUserTimeout: "ETIMEDOUT"})
	oneWay.since, oneWay.limit = false, oneWay.limit+lastWords
	oneWay.suspect = afterSilence(matrixConfig.Policy.Interval) + lastWords
	unsent := [methods]string{byHeartbeat: "silent", byUserTimeout: "ETIMEDOUT EHOSTUNREACH ENETUNREACH"}
	idle := [methods]string{byHeartbeat: "silent", byKeepalive: "ETIMEDOUT EHOSTUNREACH ENETUNREACH"}
	return []slowCase{
		{row: streamed("cable pulled, streamed to heavily", server.PathDead,
			[methods]string{byHeartbeat: "silent",
				byUserTimeout: "ETIMEDOUT"}), leg: legHeavy, load: heavily, act: pull},
		{row: silent("cable pulled in mid-frame", server.PathDead,
			[methods]string{byEpoll: "IN", byHeartbeat: "silent",
				byKeepalive: "ETIMEDOUT"}), leg: legMidFrame, act: pullInMidFrame},
		{row: silent("cable pulled before the first frame", server.PathDead,
			[methods]string{byHeartbeat: "silent",
				byKeepalive: "ETIMEDOUT"}), leg: legFirstFrame, comesLate: true, act: pullAtOnce},
		{row: closed, leg: legClosed, load: heavily, talks: true, prepare: closeWindows, act: pullAndHush},
		{row: oneWay, leg: legOneWay, load: lightly, talks: true, act: loseOurs},
		{row: either(silent("our own link goes down, idle", server.PathDead, idle)), leg: legDownIdle,
			act: linkDown},
		{row: either(streamed("our own link goes down, streamed to", server.PathDead, unsent)),
			leg: legDownStream, load: lightly, act: linkDown},
		{row: either(silent("our own route goes, idle", server.PathDead, idle)), leg: legRouteIdle,
			act: routeGone},
		{row: either(streamed("our own route goes, streamed to", server.PathDead, unsent)),
			leg: legRouteStream, load: lightly, act: routeGone},
	}
}

// pullInMidFrame has all clients send the beginning of a message, and then pulls the cable.
func pullInMidFrame(m *matrix, c *cast) error {
	c.acted(m.now())
	half := frame(codec.Data, make([]byte, 1000))[:500]
	for _, g := range slices.Concat(c.sessions, c.plains) {
		g.wrote()
		if _, err := g.conn.Write(half); err != nil {
			return err
		}
	}
	time.Sleep(50 * time.Millisecond) // they arrive
	_, err := m.lab.Leg(c.leg).Cut()
	if took := m.now().at - c.trials[0].act.at; took > matrixConfig.FrameTimeout/4 {
		// nothing is known of the path by its deadline
		c.slow = fmt.Sprintf("the cable was pulled %v after the frame had begun", took)
	}
	return err
}

// pullAtOnce has all clients connect, and pulls the cable before they have said anything.
func pullAtOnce(m *matrix, c *cast) error {
	first := m.now().at
	for rep := range *matrixReps {
		g, tr, err := m.dialSession(c.leg, rep)
		if err != nil {
			return err
		}
		if _, err := tr.entry.opened(); err != nil {
			return err
		}
		tr.began(m.now())
		c.sessions, c.trials = append(c.sessions, g), append(c.trials, tr)
		for how := range methods {
			_, p, err := m.dialPlain(c.leg, how, rep)
			if err != nil {
				return err
			}
			c.watching = append(c.watching, watched{plain: p})
		}
	}
	err := pull(m, c)
	if took := m.now().at - first; took > matrixConfig.Policy.Interval/2 {
		// by then its kernel has acknowledged two Pings, and it is frozen as well
		c.slow = fmt.Sprintf("the cable was pulled %v after the first had come", took)
	}
	return err
}

// closeWindows has all clients read no more, into a small buffer.
func closeWindows(_ *matrix, c *cast) error {
	for _, g := range slices.Concat(c.sessions, c.plains) {
		if err := g.conn.SetReadBuffer(16 << 10); err != nil {
			return err
		}
		g.deaf.Store(true)
	}
	return nil
}

// pullAndHush pulls the cable of clients that talk.
func pullAndHush(m *matrix, c *cast) error {
	err := pull(m, c)
	for _, g := range c.sessions {
		g.mute.Store(true)
	}
	return err
}

// loseOurs has the server's packets go to a host that does not exist.
func loseOurs(m *matrix, c *cast) error {
	return serverIP(m, c, "neigh", "replace", fmt.Sprintf("10.77.%d.2", c.leg+1), "lladdr",
		"02:00:00:00:00:01",
		"dev", fmt.Sprint("toclient", c.leg+1), "nud", "permanent")
}

func linkDown(m *matrix, c *cast) error {
	return serverIP(m, c, "link", "set", fmt.Sprint("toclient", c.leg+1), "down")
}

func routeGone(m *matrix, c *cast) error {
	return serverIP(m, c, "route", "del", fmt.Sprintf("10.77.%d.4/30", c.leg+1))
}

// serverIP acts by ip(8) in the server's namespace.
func serverIP(m *matrix, c *cast, args ...string) error {
	c.acted(m.now())
	if out, err := m.lab.ServerCommand("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}
