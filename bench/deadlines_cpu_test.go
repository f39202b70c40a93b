//go:build linux

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// cpuWaits are for how long each thread of a process has waited for a CPU, as time went by.
type cpuWaits struct {
	pid   int
	begun time.Time
	quit  chan struct{}
	done  sync.WaitGroup
	seen  map[string][]cpuWait // by thread
}

type cpuWait struct{ at, waited time.Duration }

// cpuWaitGrain is how often they are looked at.
const cpuWaitGrain = 20 * time.Millisecond

// watchCPUWaits looks until stop.
func watchCPUWaits(pid int) *cpuWaits {
	w := &cpuWaits{pid: pid, begun: time.Now(), quit: make(chan struct{}), seen: map[string][]cpuWait{}}
	w.done.Go(func() {
		for beat := time.NewTicker(cpuWaitGrain); ; {
			w.look()
			select {
			case <-beat.C:
			case <-w.quit:
				beat.Stop()
				w.look()
				return
			}
		}
	})
	return w
}

func (w *cpuWaits) stop() {
	close(w.quit)
	w.done.Wait()
}

func (w *cpuWaits) look() {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", w.pid))
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		var ran, waited int64
		if _, err := fmt.Sscan(string(b), &ran, &waited); err == nil {
			w.seen[name] = append(w.seen[name], cpuWait{time.Since(w.begun), time.Duration(waited)})
		}
	}
}

// worst returns for how long a thread waited at most in any stretch of time of that length, to the grain
// of the looks. It is called after stop.
func (w *cpuWaits) worst(length time.Duration) (worst time.Duration) {
	for _, looks := range w.seen {
		from := 0
		for to := range looks {
			for from+1 < to && looks[to].at-looks[from].at > length+2*cpuWaitGrain {
				from++
			}
			worst = max(worst, looks[to].waited-looks[from].waited)
		}
	}
	return min(worst, length)
}
