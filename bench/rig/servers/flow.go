package servers

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/codec"
)

// A Push asks a server in a role of many to send of itself, to clients of a load.Client with Reports.
type Push struct {
	Sessions int           // that there are; they are waited for
	Payload  int           // bytes of a message
	For      time.Duration // until nothing more is sent; then what is on its way is awaited
	Senders  int           // goroutines that send to their share of the sessions; if zero, one broadcasts to all
	Window   int           // messages for each session that may be on their way, on average, before a sender waits; if zero, 1
}

// Pushed is what came of it.
type Pushed struct {
	Messages int           // that have come: a broadcast is one for each session
	Elapsed  time.Duration // until the last had come
	Wakes    uint64        // of event loops, as the library counts them; gnet does not
	Error    string        `json:",omitempty"`
}

// Rate returns messages per second.
func (p Pushed) Rate() float64 { return float64(p.Messages) / max(p.Elapsed.Seconds(), 1e-9) }

// Ask has a server push.
func (p Push) Ask(server *rig.Process) (Pushed, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return Pushed{}, err
	}
	answer, err := server.Ask("push " + string(b))
	if err != nil {
		return Pushed{}, err
	}
	var found Pushed
	if err := json.Unmarshal([]byte(answer), &found); err != nil {
		return Pushed{}, fmt.Errorf("servers: push: %.100q: %w", answer, err)
	}
	if found.Error != "" {
		return found, errors.New(found.Error)
	}
	return found, nil
}

// flow knows how many messages are on their way, so that senders do not send without bound.
type flow struct {
	mu         sync.Mutex
	moved      sync.Cond
	sent, come int
	sessions   int
}

func newFlow() *flow {
	f := &flow{}
	f.moved.L = &f.mu
	return f
}

// told takes a client's frame: a hello, or a report.
func (f *flow) told(payload []byte) {
	if len(payload) != 8 {
		return
	}
	n := int(binary.BigEndian.Uint64(payload))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.come += n; n == 0 {
		f.sessions++
	}
	f.moved.Broadcast()
}

// flowMax is how long a flow may stand still.
var flowMax = 10 * time.Second

// send notes that n more messages are about to be sent, as soon as no more than window are on their way.
func (f *flow) send(n, window int) error {
	return f.until(func() bool {
		if f.sent+n-f.come > window {
			return false
		}
		f.sent += n
		return true
	})
}

// arrived waits until at most so many are on their way.
func (f *flow) arrived(but int) error {
	return f.until(func() bool { return f.sent-f.come <= but })
}

// until waits for ok, which is called with mu held.
func (f *flow) until(ok func() bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ok() {
		return nil
	}
	late := false
	overdue := time.AfterFunc(flowMax, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		late = true
		f.moved.Broadcast()
	})
	defer overdue.Stop()
	for !ok() {
		if late {
			return fmt.Errorf("servers: %d sessions: %d messages were sent and %d have come for %v", f.sessions, f.sent, f.come, flowMax)
		}
		f.moved.Wait()
	}
	return nil
}

// A crowd is a server's sessions, to be sent to from outside of its loops.
type crowd struct {
	sender    func(i int, p []byte) error // to session i
	broadcast func(p []byte) error        // to all
	wakes     func() uint64
}

// push does what a Push asks for. For as long as it lasts nobody else sends.
func (f *flow) push(arg string, c crowd) string {
	var p Push
	err := json.Unmarshal([]byte(arg), &p)
	if err == nil {
		err = f.until(func() bool { return f.sessions >= p.Sessions })
	}
	p.Window = max(p.Window, 1)
	var found Pushed
	if err == nil {
		found, err = f.measure(p, c)
	}
	if err != nil {
		found.Error = err.Error()
	}
	b, err := json.Marshal(found)
	must(err)
	return string(b)
}

// Reports is what load.Options.Reports has to be for p.
func (p Push) Reports() int {
	if p.Senders == 0 {
		return p.Sessions
	}
	return max(p.Sessions/4, 1)
}

func (f *flow) measure(p Push, c crowd) (Pushed, error) {
	f.mu.Lock()
	before := f.come
	f.mu.Unlock()
	wakes, begun := c.wakes(), time.Now()
	end := begun.Add(p.For)
	var err error
	if p.Senders == 0 {
		payload := make([]byte, p.Payload)
		for err == nil && time.Now().Before(end) {
			if err = f.send(p.Sessions, p.Sessions*p.Window); err == nil {
				err = c.broadcast(payload)
			}
		}
	} else {
		errs := make(chan error, p.Senders)
		for i := range p.Senders {
			go func() { errs <- f.share(p, c, i, end) }()
		}
		for range p.Senders {
			err = errors.Join(err, <-errs)
		}
	}
	if err == nil {
		err = f.arrived(p.Reports() - 1)
	}
	took := time.Since(begun)
	f.mu.Lock()
	defer f.mu.Unlock()
	return Pushed{Messages: f.come - before, Elapsed: took, Wakes: c.wakes() - wakes}, err
}

// share is one of several senders, until end: one message to each of its sessions, again and again.
func (f *flow) share(p Push, c crowd, sender int, end time.Time) error {
	from, to := p.Sessions*sender/p.Senders, p.Sessions*(sender+1)/p.Senders
	payload := make([]byte, p.Payload)
	for time.Now().Before(end) {
		if err := f.send(to-from, p.Sessions*p.Window); err != nil {
			return err
		}
		for i := from; i < to; i++ {
			if err := c.sender(i, payload); err != nil {
				return err
			}
		}
	}
	return nil
}

// framed is a message as a frame, in a slice of its own.
func framed(payload []byte) []byte {
	b := make([]byte, codec.HeaderSize, codec.HeaderSize+len(payload))
	b[0] = byte(codec.Data)
	b[1], b[2], b[3] = byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload))
	return append(b, payload...)
}

// reports calls f for the payload of each of some whole frames.
func reports(b []byte, f func(payload []byte)) {
	for len(b) > 0 {
		size := codec.HeaderSize + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
		f(b[codec.HeaderSize:size])
		b = b[size:]
	}
}
