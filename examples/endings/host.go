package main

import (
	"errors"
	"fmt"

	"github.com/pulsewheel/pulsewheel/server"
)

// host is a running server and its game.
type host struct {
	*server.Server
	arena  *arena
	addr   string
	served chan error
}

// open starts a server on a free port of this machine.
func open(cfg server.Config) (*host, error) {
	h := &host{arena: newArena(), served: make(chan error, 1)}
	var err error
	if h.Server, err = server.New(h.arena, cfg); err != nil {
		return nil, err
	}
	ln, err := server.Listen("tcp://127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h.addr = ln.Addr().String()
	go func() { h.served <- h.Serve(ln) }()
	return h, nil
}

// close ends the server. It is an error if its books do not balance: every OnOpen must have had its
// OnClose, and every end its reason.
func (h *host) close() error {
	if err := h.Server.Close(); err != nil {
		return err
	}
	if err := <-h.served; !errors.Is(err, server.ErrServerClosed) {
		return err
	}
	n := h.Stats()
	sum := uint64(0)
	for _, count := range n.Reasons {
		sum += count
	}
	if n.Opened != n.Closed || n.Closed != sum || n.Live != 0 || n.Conns != 0 {
		return fmt.Errorf("the server's books do not balance: %+v", n)
	}
	return nil
}
