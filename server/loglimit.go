package server

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// What a peer does must not fill a disk: of each kind of line only so many are written at a time. A kind is a message;
// what differs between lines of a kind is in their attributes.
const (
	logBurst  = 10               // lines of a kind in a window
	logWindow = 10 * time.Second // from the first of them
	logKinds  = 64               // kinds that are told apart; the library has fewer
)

// logLimiter is a slog.Handler that passes a few lines of each kind on, and later tells how many it has
// held back. A Logger that panics loses its line, and nothing else.
type logLimiter struct {
	slog.Handler
	*logState
}

type logState struct {
	window time.Duration

	mu      sync.Mutex
	kinds   map[string]*logKind
	closed  bool
	telling sync.WaitGroup // a report that is due, until it has been written
}

type logKind struct {
	began  time.Time   // of the window
	lines  int         // passed on in it
	held   int         // and held back
	report *time.Timer // tells of those; nil: there are none
	last   slog.Record // of them
}

func newLogLimiter(h slog.Handler) *logLimiter {
	return &logLimiter{h, &logState{window: logWindow, kinds: map[string]*logKind{}}}
}

// Enabled implements slog.Handler.
func (h *logLimiter) Enabled(ctx context.Context, l slog.Level) (on bool) {
	defer func() {
		if recover() != nil {
			on = false
		}
	}()
	return h.Handler.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h *logLimiter) Handle(ctx context.Context, r slog.Record) error {
	if !h.pass(r) {
		return nil
	}
	return h.write(ctx, r)
}

// write passes a line on.
func (h *logLimiter) write(ctx context.Context, r slog.Record) error {
	defer func() { _ = recover() }()
	return h.Handler.Handle(ctx, r)
}

// pass tells whether r is to be written now.
func (h *logLimiter) pass(r slog.Record) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, now := r.Message, time.Now()
	k := h.kinds[name]
	if k == nil {
		if len(h.kinds) >= logKinds {
			name = "" // all others are one
		}
		if k = h.kinds[name]; k == nil {
			k = &logKind{}
			h.kinds[name] = k
		}
	}
	if now.Sub(k.began) >= h.window && k.report == nil {
		k.began, k.lines = now, 0
	}
	if k.lines < logBurst {
		k.lines++
		return true
	}
	k.held++
	k.last = r
	if k.report == nil && !h.closed {
		h.telling.Add(1)
		k.report = time.AfterFunc(k.began.Add(h.window).Sub(now), func() {
			defer h.telling.Done()
			h.tell(k)
		})
	}
	return false
}

// tell says how many lines of a kind were held back, and begins a new window.
func (h *logLimiter) tell(k *logKind) {
	h.mu.Lock()
	held, r := k.held, k.last
	if k.report != nil && k.report.Stop() {
		h.telling.Done()
	}
	k.held, k.last, k.report = 0, slog.Record{}, nil
	k.began, k.lines = time.Now(), 0
	h.mu.Unlock()
	if held > 0 {
		line := slog.NewRecord(time.Now(), r.Level, r.Message, 0)
		line.AddAttrs(slog.Int("suppressed", held), slog.Duration("within", h.window))
		_ = h.write(context.Background(), line)
	}
}

// close tells what is still held back, and waits for the Logger to have written it: the Logger may be
// closed next. What comes later is limited all the same, and never told of.
func (h *logLimiter) close() {
	h.mu.Lock()
	h.closed = true
	var all []*logKind
	for _, k := range h.kinds {
		if k.held > 0 {
			all = append(all, k)
		}
	}
	h.mu.Unlock()
	for _, k := range all {
		h.tell(k)
	}
	h.telling.Wait()
}

// WithAttrs implements slog.Handler.
func (h *logLimiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logLimiter{h.Handler.WithAttrs(attrs), h.logState}
}

// WithGroup implements slog.Handler.
func (h *logLimiter) WithGroup(name string) slog.Handler {
	return &logLimiter{h.Handler.WithGroup(name), h.logState}
}
