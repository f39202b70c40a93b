//go:build linux

package bench

import (
	"encoding/json"
	"reflect"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// loopFigures are what TestDeadlines prints of server.LoopStats, of the server's only loop.
type loopFigures struct {
	Known        bool          // the library publishes them
	LagWorst     time.Duration // the longest round of epoll
	Sweeping     time.Duration // spent on timers and deadlines
	SweepLongest time.Duration
}

// figuresOf asks for Server.Loops by its name, so that the test can be put beside an older library
// that has no such method and show what it does.
func figuresOf(srv *server.Server) (f loopFigures) {
	loops := reflect.ValueOf(srv).MethodByName("Loops")
	if !loops.IsValid() {
		return f
	}
	b, err := json.Marshal(loops.Call(nil)[0].Index(0).Interface())
	fatal(err)
	fatal(json.Unmarshal(b, &f))
	f.Known = true
	return f
}
