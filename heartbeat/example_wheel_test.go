package heartbeat_test

import (
	"fmt"
	"math"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Two sessions, each of which may be silent for 30 ticks. One sends something, the other does not.
func ExampleWheel() {
	const idle = 30
	now := heartbeat.Tick(1)
	w := heartbeat.NewWheel(now)
	for id := range uint32(2) {
		w.Touch(id, now)
		w.Schedule(id, now.Add(idle))
	}
	look := func(id uint32, last heartbeat.Tick) heartbeat.Tick {
		if end := last.Add(idle); now.Before(end) {
			fmt.Printf("tick %d: session %d was heard of at %d\n", now, id, last)
			return end
		}
		fmt.Printf("tick %d: session %d is silent\n", now, id)
		return 0
	}
	for w.Next() != 0 {
		now = now.Add(1)
		if now == 20 {
			w.Touch(0, now)
		}
		w.Advance(now, math.MaxInt, look)
	}
	// Unordered output:
	// tick 31: session 0 was heard of at 20
	// tick 31: session 1 is silent
	// tick 50: session 0 is silent
}
