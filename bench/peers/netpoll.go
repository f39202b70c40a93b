//go:build linux

package main

import (
	"context"
	"io"
	"net"

	"github.com/cloudwego/netpoll"
)

var netpollPeer = peer{
	name: "netpoll", module: "github.com/cloudwego/netpoll", serve: serveNetpoll,
	liveness: "WithIdleTimeout: TCP keepalive; who is frozen is not noticed",
	remark:   "all whole frames that are there answered with one Flush; its default, a pool of goroutines beside the poller",
}

func serveNetpoll() (string, error) {
	if err := netpoll.Configure(netpoll.Config{PollerNum: 1, LoggerOutput: io.Discard}); err != nil {
		return "", err
	}
	loop, err := netpoll.NewEventLoop(answerNetpoll, netpoll.WithIdleTimeout(idleMax))
	if err != nil {
		return "", err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := ln.Addr().String()
	go func() { _ = loop.Serve(ln) }()
	return addr, await(addr)
}

func answerNetpoll(_ context.Context, c netpoll.Connection) error {
	in, out := c.Reader(), c.Writer()
	b, err := in.Peek(in.Len())
	if err != nil {
		return err
	}
	n := whole(b)
	if n == 0 {
		// Peek waits until so much is there. A header comes first, then the rest of the frame.
		if b, err = in.Peek(need(b)); err == nil {
			_, err = in.Peek(need(b))
		}
		return err // and be called again, as there is something to be read
	}
	if b, err = in.Next(n); err != nil {
		return err
	}
	if _, err = out.WriteBinary(b); err != nil {
		return err
	}
	if err = out.Flush(); err != nil {
		return err
	}
	return in.Release()
}
