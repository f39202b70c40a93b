package servers

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"encoding/json"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// many is a server that sends of itself, and remembers how late it told that a silent peer is gone.
type many struct {
	server.Base
	*flow
	timeout time.Duration
	group   server.Group

	mu       sync.Mutex
	sessions []*server.Session
	late     []time.Duration
	wrong    int // sessions that ended otherwise than by a silence
}

func (h *many) OnOpen(s *server.Session) error {
	h.mu.Lock()
	h.sessions = append(h.sessions, s)
	h.mu.Unlock()
	return h.group.Join(s)
}

func (h *many) OnMessage(_ *server.Session, p []byte) error {
	h.told(p)
	return nil
}

func (h *many) OnClose(_ *server.Session, end *server.CloseError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch end.Reason {
	case server.PeerFrozen, server.HeartbeatLost, server.PathDead:
		h.late = append(h.late, end.Record.Idle-h.timeout)
	default:
		h.wrong++
	}
}

// Evicted is what the role PulsewheelMany answers to "evicted": how much later than the policy's Timeout
// after the last byte OnClose was called, in order, for all sessions that have ended so far by a silence.
type Evicted struct {
	Late        []time.Duration
	Wrong       int    // sessions that ended otherwise
	GraceRounds uint64 // times that most were due at once, and were given an Interval more
}

// AskEvicted asks a server in the role PulsewheelMany.
func AskEvicted(p *rig.Process) (Evicted, error) {
	var e Evicted
	answer, err := p.Ask("evicted")
	if err == nil {
		err = json.Unmarshal([]byte(answer), &e)
	}
	return e, err
}

func servePulsewheelMany(o Options) {
	policy := heartbeat.Policy{Interval: o.Interval}.OrDefault()
	h := &many{flow: newFlow(), timeout: policy.Timeout}
	srv, err := server.New(h, server.Config{Loops: o.Loops, Logger: slog.New(slog.DiscardHandler), Policy: policy})
	must(err)
	ln, err := server.Listen("127.0.0.1:0")
	must(err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln)
	}()
	c := crowd{
		sender:    func(i int, p []byte) error { return h.sessions[i].Send(p) },
		broadcast: h.group.Broadcast,
		wakes:     func() uint64 { return srv.Stats().Wakes },
	}
	rig.Serving(ln.Addr().String(), map[string]func(string) string{
		"push": func(arg string) string { return h.push(arg, c) },
		"evicted": func(string) string {
			h.mu.Lock()
			defer h.mu.Unlock()
			slices.Sort(h.late)
			b, err := json.Marshal(Evicted{h.late, h.wrong, srv.Stats().GraceRounds})
			must(err)
			return string(b)
		},
	})
	_ = srv.Close()
	<-served
}
