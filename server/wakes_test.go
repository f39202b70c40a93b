//go:build unix

package server_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

// sendMany sends so many messages to each session from 8 goroutines, each of which sends to its share in turn.
func sendMany(t testing.TB, sessions []*server.Session, each int) {
	t.Helper()
	const goroutines = 8
	message := make([]byte, 100)
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			share := sessions[len(sessions)*g/goroutines : len(sessions)*(g+1)/goroutines]
			for range each {
				for _, s := range share {
					if !assert.NoError(t, s.Send(message)) {
						return
					}
				}
			}
		})
	}
	all.Wait()
}

// audience is so many sessions whose clients, in another process, read all that comes.
func audience(t testing.TB, loops, n int) (*server.Server, []*server.Session) {
	t.Helper()
	cfg := patient()
	cfg.Loops = loops
	srv := start(t, newRecorder(), cfg)
	startHerd(t, srv.Addr(), n)
	eventually(t, 10*time.Second, func() bool { return srv.Stats().Live == n }, "%d live sessions", n)
	var sessions []*server.Session
	for s := range srv.Sessions() {
		sessions = append(sessions, s)
	}
	return srv, sessions
}

// Sends from outside of the loops, as fast as 8 goroutines can, wake a loop for fewer than one message in
// twenty. The fewer the faster the loops are next to the senders: a machine that gives the senders only a
// slice of time now and then may need more, so the best of some rounds
// counts. That a loop which is busy is woken once is TestOneWakeForManySessions.
func TestWakesUnderLoad(t *testing.T) { busy.Try(t, testWakesUnderLoad) }

func testWakesUnderLoad(t *busy.T) {
	const n, each, rounds = 1000, 4, 5
	for _, loops := range []int{1, 2} {
		srv, sessions := audience(t, loops, n)
		best := 1.0
		for range rounds {
			before := srv.Stats().Wakes
			sendMany(t, sessions, each)
			best = min(best, float64(srv.Stats().Wakes-before)/(n*each))
			if best < 0.05 {
				break
			}
			time.Sleep(50 * time.Millisecond) // the clients catch up
		}
		t.Logf("%d loops: %.4f wakes for each of %d messages to %d sessions", loops, best, n*each, n)
		assert.Less(t.IfQuiet(slack), best, 0.05)
	}
}
