package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/panjf2000/gnet/v2"
)

// engine is the only place that knows gnet. Its event loops are those of a gnet client, which never
// listens: connections come from our own front door and are enrolled on the loop of our choice.
type engine struct {
	gnet.BuiltinEventEngine
	srv    *Server
	client *gnet.Client
	seeds  []*seed // by loop.index
}

// socket is what a conn needs of its gnet.Conn. It may be used only on the loop, between OnOpen and
// the return of OnClose: gnet keeps the number of a closed descriptor and would write to whoever
// has it next.
type socket interface {
	Peek(n int) ([]byte, error)
	Discard(n int) (int, error)
	InboundBuffered() int
	OutboundBuffered() int
	Write(p []byte) (int, error)
	Flush() error
	SetLinger(sec int) error
	Fd() int
}

// seed is the connection by which a loop is learned. It stays, for a loop that wants another turn of
// its own: gnet runs what is executed on a loop until nothing is left, before it looks at the sockets
// again, so that a loop which executes itself would starve them. A byte through the seed waits its
// turn among the others.
type seed struct {
	l    *loop
	loop gnet.EventLoop
	far  net.Conn
}

var oneByte = []byte{1}

// startEngine starts an event loop for each of s.loops and learns it: gnet does not list its loops, but tells
// a connection's, and puts each new one on the loop with the fewest.
func startEngine(s *Server) (*engine, error) {
	n := len(s.loops)
	e := &engine{srv: s}
	var err error
	e.client, err = gnet.NewClient(e,
		gnet.WithNumEventLoop(n), gnet.WithTicker(true), gnet.WithLogger(gnetLog{s.log}))
	if err != nil {
		return nil, fmt.Errorf("server: event loops: %w", err)
	}
	if err = e.client.Start(); err != nil {
		return nil, fmt.Errorf("server: event loops: %w", err)
	}
	seen := map[gnet.EventLoop]bool{}
	for _, l := range s.loops {
		near, far, err := seedPair()
		if err != nil {
			e.stop()
			return nil, fmt.Errorf("server: event loops: %w", err)
		}
		sd := &seed{l: l, far: far}
		e.seeds = append(e.seeds, sd)
		if _, err = e.client.EnrollContext(near, sd); err != nil {
			e.stop()
			return nil, fmt.Errorf("server: event loops: %w", err)
		}
		seen[sd.loop] = true
	}
	if len(seen) != n {
		e.stop()
		return nil, fmt.Errorf("server: event loops: learned %d of %d", len(seen), n)
	}
	return e, nil
}

// stop ends the loops. Nothing may be enrolled or executed any more.
func (e *engine) stop() {
	_ = e.client.Stop()
	for _, sd := range e.seeds {
		_ = sd.far.Close()
	}
}

// execute has l.Run called on its loop, before the loop looks at its sockets again.
func (e *engine) execute(l *loop) { _ = e.seeds[l.index].loop.Execute(context.Background(), l) }

// again has l.Run called after the loop has looked at its sockets.
func (e *engine) again(l *loop) { _, _ = e.seeds[l.index].far.Write(oneByte) }

// close closes c's socket. On c's loop only; c.onClose runs before it returns.
func (e *engine) close(c *conn) {
	if gc, ok := c.sock.(gnet.Conn); ok {
		_ = e.seeds[c.loop.index].loop.Close(gc)
	}
}

// enroll gives nc to c's loop, where c.onOpen follows. It takes nc over, also when it fails; wait
// blocks until OnOpen has run or never will.
func (e *engine) enroll(nc net.Conn, c *conn) (wait func() error, err error) {
	res, err := e.seeds[c.loop.index].loop.Enroll(&enrolment{context.Background(), c}, nc)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return func() error { return (<-res).Err }, nil
}

// enrolment is a context whose only value is the conn.
type enrolment struct {
	context.Context
	c *conn
}

// Value returns the conn for gnet's own key, which is the only one asked for.
func (e *enrolment) Value(any) any { return e.c }

// OnOpen implements gnet.EventHandler.
func (e *engine) OnOpen(gc gnet.Conn) ([]byte, gnet.Action) {
	switch ctx := gc.Context().(type) {
	case *conn:
		ctx.loop.enter()
		ctx.onOpen(gc)
		ctx.loop.exit()
	case *seed:
		ctx.loop = gc.EventLoop()
		ctx.l.label()
	}
	return nil, gnet.None
}

// OnTraffic implements gnet.EventHandler.
func (e *engine) OnTraffic(gc gnet.Conn) gnet.Action {
	switch ctx := gc.Context().(type) {
	case *conn:
		ctx.loop.enter()
		ctx.onTraffic()
		ctx.loop.exit()
	case *seed:
		_, _ = gc.Discard(-1)
		ctx.l.onSeed()
	}
	return gnet.None
}

// OnClose implements gnet.EventHandler.
func (e *engine) OnClose(gc gnet.Conn, err error) gnet.Action {
	if c, ok := gc.Context().(*conn); ok {
		outer := c.loop.enter() // else within a turn that closes it
		c.onClose(err)
		if outer {
			c.loop.exit()
		}
	}
	return gnet.None
}

// OnTick implements gnet.EventHandler. It runs on a goroutine of its own, on no loop.
func (e *engine) OnTick() (time.Duration, gnet.Action) { return e.srv.onTick(), gnet.None }

// gnetLog hands gnet's log lines to slog, all at Debug level: what of it matters to a server's
// operator the library says itself.
type gnetLog struct{ *slog.Logger }

func (g gnetLog) say(format string, args []any) {
	if g.Enabled(context.Background(), slog.LevelDebug) {
		g.Debug("gnet", "says", fmt.Sprintf(format, args...)) // one kind of line, for the limiter
	}
}

func (g gnetLog) Debugf(format string, args ...any) { g.say(format, args) }
func (g gnetLog) Infof(format string, args ...any)  { g.say(format, args) }
func (g gnetLog) Warnf(format string, args ...any)  { g.say(format, args) }
func (g gnetLog) Errorf(format string, args ...any) { g.say(format, args) }
func (g gnetLog) Fatalf(format string, args ...any) { g.say(format, args) }
