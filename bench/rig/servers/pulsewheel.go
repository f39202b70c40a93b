package servers

import (
	"log/slog"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

type echo struct{ server.Base }

func (echo) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

// alive is a judge who finds everybody alive, and does not look again for an hour.
type alive struct{}

func (alive) Judge(heartbeat.Evidence) (heartbeat.Verdict, time.Duration) {
	return heartbeat.Alive, time.Hour
}

func servePulsewheel(o Options, liveness bool) {
	cfg := server.Config{Loops: o.Loops, Logger: slog.New(slog.DiscardHandler), Policy: heartbeat.Policy{Interval: o.Interval}}
	if !liveness {
		cfg.Judge = alive{}
		cfg.Policy = heartbeat.Policy{Interval: time.Hour, Timeout: 3 * time.Hour, Warning: -1}
		cfg.WriteTimeout = 24 * time.Hour
	}
	srv, err := server.New(echo{}, cfg)
	must(err)
	ln, err := server.Listen("127.0.0.1:0")
	must(err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln)
	}()
	rig.Serving(ln.Addr().String(), nil)
	_ = srv.Close()
	<-served
}
