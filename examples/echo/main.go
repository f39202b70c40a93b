// Command echo is a plain server for tools to talk to: it sends every Data frame back, and says on
// stdout who came, who fell silent and why each one went.
//
//	go run ./examples/echo -listen 127.0.0.1:7070 -interval 5s -timeout 15s -log json
//
// With -sink it sends nothing back, so that a client hears nothing but Pings; -h lists all flags.
// SIGTERM or SIGINT drains it, and it exits with 0; a second signal ends it at once, with 1. Wrong
// flags are 2, and whatever else is in the way (a port in use) is 1. The library's own log lines go
// to stderr.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) (status int) {
	fail := func(status int, err error) int {
		fmt.Fprintln(stderr, "echo:", err)
		return status
	}
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		o.usage(stdout)
		return 0
	}
	if err != nil {
		return fail(2, fmt.Errorf("%w (-h lists the flags)", err))
	}
	o.cfg.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	out := &reporter{w: stdout, json: o.log == "json"}
	srv, err := server.New(&echo{out: out, sink: o.sink, stream: o.stream}, o.cfg)
	if err != nil {
		return fail(2, inFlags(err))
	}
	ln, err := server.Listen(o.listen)
	if err != nil {
		status = 2 // a value that is no address
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			status = 1 // an address that cannot be had now
		}
		return fail(status, fmt.Errorf("-listen %s: %w", o.listen, err))
	}
	// Who has read that we listen may send a signal at once, so it is caught before that is said.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	out.print(newListening(ln.Addr()))

	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		_ = srv.Close()
		return fail(1, err)
	case <-signals:
	}
	go func() {
		<-signals
		os.Exit(1)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), o.cfg.CloseTimeout+time.Second)
	defer cancel()
	if err := srv.Drain(ctx); err != nil {
		o.cfg.Logger.Warn("echo: not all clients left in good order", "err", err)
	}
	<-served
	out.print(newDrained(srv.Stats()))
	return 0
}

// echo is the application.
type echo struct {
	out    *reporter
	sink   bool          // Data is not sent back
	stream time.Duration // between two frames to each session; 0: none
}

func (e *echo) OnOpen(s *server.Session) error {
	e.out.print(&about{"opened", s.ID(), peerOf(s)})
	if e.stream > 0 {
		e.streamTo(s, time.Now().Add(e.stream))
	}
	return nil
}

// OnMessage returns what Send says: an echo that cannot be queued ends the session, as nothing is to
// be lost in silence.
func (e *echo) OnMessage(s *server.Session, payload []byte) error {
	if e.sink {
		return nil
	}
	return s.Send(payload)
}

func (e *echo) OnSuspect(s *server.Session, why server.Suspicion) {
	e.out.print(&suspect{about{"suspect", s.ID(), peerOf(s)}, why.String()})
}

func (e *echo) OnRecover(s *server.Session) {
	e.out.print(&about{"recovered", s.ID(), peerOf(s)})
}

func (e *echo) OnClose(s *server.Session, end *server.CloseError) {
	e.out.print(newClosed(s, end))
}

// frame is what -stream sends.
var frame = make([]byte, 100)

// streamTo sends s a frame at next and each e.stream after it. A tick may be longer than that, so
// what is due goes out together, and the rate is kept.
func (e *echo) streamTo(s *server.Session, next time.Time) {
	s.After(time.Until(next), func() {
		for ; !time.Now().Before(next); next = next.Add(e.stream) {
			// A full backlog passes; the library ends a peer that does not read at all.
			if err := s.Send(frame); err != nil && !errors.Is(err, server.ErrBacklogFull) {
				return // it has ended
			}
		}
		e.streamTo(s, next)
	})
}
