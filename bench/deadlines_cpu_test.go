//go:build linux

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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

// A thread that waits steadily, for half of the time, excuses half of a lateness; one that waits all at
// once excuses as much as that.
func TestCPUWaits(t *testing.T) {
	steady, once := make([]cpuWait, 100), make([]cpuWait, 100)
	for i := range steady {
		at := time.Duration(i) * cpuWaitGrain
		steady[i] = cpuWait{at, at / 2}
		once[i] = cpuWait{at, 0}
		if i >= 50 {
			once[i].waited = 3 * cpuWaitGrain
		}
	}
	w := &cpuWaits{seen: map[string][]cpuWait{"steady": steady}}
	assert.Equal(t, 6*cpuWaitGrain, w.worst(10*cpuWaitGrain), "two looks more than it lasted")
	assert.Equal(t, 99*cpuWaitGrain/2, w.worst(time.Minute))
	w.seen["once"] = once
	assert.Equal(t, 2*cpuWaitGrain, w.worst(2*cpuWaitGrain), "no more than it lasted")
	assert.Equal(t, 3*cpuWaitGrain, w.worst(4*cpuWaitGrain))

	w = watchCPUWaits(os.Getpid())
	time.Sleep(3 * cpuWaitGrain)
	w.stop()
	if len(w.seen) == 0 {
		t.Skip("this kernel does not tell how long a thread waited for a CPU (CONFIG_SCHEDSTATS)")
	}
}
