package bench

import (
	"time"

	"github.com/pulsewheel/pulsewheel/internal/busy"
)

// heldUp measures for how long the machine has kept this process from running: see busy.Watch.
type heldUp struct{ *busy.Watch }

const doze = busy.Doze

func watchHeldUp() *heldUp { return &heldUp{busy.Start()} }

func (h *heldUp) total() time.Duration  { return h.Held() }
func (h *heldUp) unseen() time.Duration { return h.Unseen() }
func (h *heldUp) stop()                 { h.Stop() }
