package server

import (
	"fmt"
	"testing"
)

// BenchmarkRate is BenchmarkTurn with no limit, with limits that are far, and the cost of the clock's going on
// in each turn, which is once in a Config.Tick in truth.
func BenchmarkRate(b *testing.B) {
	far := Rate{Messages: rateMax, MessageBurst: rateMax, Bytes: rateMax, ByteBurst: rateMax}
	for _, messages := range []int{1, 16} {
		for _, c := range []struct {
			name  string
			rate  Rate
			ticks bool
		}{
			{"none", Rate{}, false},
			{"limits", far, false},
			{"limits, a tick each", far, true},
		} {
			b.Run(fmt.Sprintf("messages=%d/%s", messages, c.name), func(b *testing.B) {
				benchmarkTurnOf(b, Config{Loops: 1, Rate: c.rate}, 1, messages, c.ticks)
			})
		}
	}
}
