package server_test

import (
	"sync"
	"time"
)

// heldUp counts for how long the machine has kept this process from running, by what a sleep of 5 ms takes longer.
type heldUp struct {
	mu     sync.Mutex
	asleep time.Time // since when
	sum    time.Duration
	quit   chan struct{}
}

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

// total is the sum so far. Delays shorter than a doze do not count.
func (h *heldUp) total() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if late := now.Sub(h.asleep) - doze; late >= doze {
		h.sum += late
	}
	h.asleep = now
	return h.sum
}

func (h *heldUp) stop() { close(h.quit) }
