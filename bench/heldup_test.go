package bench

import (
	"sync"
	"time"
)

// heldUp measures for how long the machine has kept this process from running: what no server in it
// could have made up for. It sleeps, and counts by how much it is woken too late. Limits move by that,
// so that a machine that is busy elsewhere is not mistaken for a server that is late; a server that
// waits too long, or blocks, does not show here.
type heldUp struct {
	mu     sync.Mutex
	asleep time.Time // since when
	sum    time.Duration
	worst  time.Duration // the longest of all delays
	quit   chan struct{}
}

// doze is how long it sleeps, and the least delay that counts.
const doze = 5 * time.Millisecond

func watchHeldUp() *heldUp {
	h := &heldUp{asleep: time.Now(), quit: make(chan struct{})}
	go func() {
		for {
			select {
			case <-time.After(doze):
				h.total()
			case <-h.quit:
				return
			}
		}
	}()
	return h
}

// total is the sum of all delays so far, that which is going on included.
func (h *heldUp) total() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	late := now.Sub(h.asleep) - doze
	if late >= doze {
		h.sum += late
	}
	h.worst = max(h.worst, late)
	h.asleep = now
	return h.sum
}

// unseen is how long a delay may have been that total does not count, as far as delays of that length were seen.
func (h *heldUp) unseen() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return min(h.worst, doze)
}

func (h *heldUp) stop() { close(h.quit) }
