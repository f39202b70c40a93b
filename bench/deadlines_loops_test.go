//go:build linux

package bench

import (
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// loopFigures are what TestDeadlines prints of server.LoopStats, of the server's only loop.
type loopFigures struct {
	LagWorst     time.Duration // the longest round of epoll
	Sweeping     time.Duration // spent on timers and deadlines
	SweepLongest time.Duration
}

func figuresOf(srv *server.Server) loopFigures {
	l := srv.Loops()[0]
	return loopFigures{LagWorst: l.LagWorst, Sweeping: l.Sweeping, SweepLongest: l.SweepLongest}
}
