package busy

import (
	"fmt"
	"testing"
	"time"
)

// Patience is how long is waited for what must happen: only a hang takes that long.
const Patience = time.Minute

// Wait polls until ok, and ends the test with what says: after within on a machine that is not busy, and after Patience on any.
func Wait(t testing.TB, within time.Duration, ok func() bool, what string, args ...any) {
	t.Helper()
	w, begun := Start(), time.Now()
	defer w.Stop()
	for !ok() {
		time.Sleep(2 * time.Millisecond)
		took := time.Since(begun)
		if took < within {
			continue
		}
		if busy, says := w.BusyBetween(begun, time.Now()); !busy || took >= max(within, Patience) {
			t.Fatalf("%s: not within %v; %s", fmt.Sprintf(what, args...), took, says)
		}
	}
}
