//go:build linux

package main

import (
	"github.com/tidwall/evio"
)

var evioPeer = peer{
	name: "evio", module: "github.com/tidwall/evio", serve: serveEvio,
	liveness: "TCPKeepAlive; who is frozen is not noticed",
	remark:   "all whole frames of a Data answered with one write, which is the next turn of its loop, as it always is with evio",
}

func serveEvio() (string, error) {
	serving, failed := make(chan string, 1), make(chan error, 1)
	var out []byte // there is one loop, which copies what Data returns
	events := evio.Events{
		NumLoops: 1,
		Serving: func(s evio.Server) evio.Action {
			serving <- s.Addrs[0].String()
			return evio.None
		},
		Opened: func(c evio.Conn) ([]byte, evio.Options, evio.Action) {
			c.SetContext(new(evio.InputStream))
			return nil, evio.Options{TCPKeepAlive: idleMax, ReuseInputBuffer: true}, evio.None
		},
		Data: func(c evio.Conn, in []byte) ([]byte, evio.Action) {
			stream := c.Context().(*evio.InputStream)
			data := stream.Begin(in)
			n := whole(data)
			out = append(out[:0], data[:n]...)
			stream.End(data[n:])
			return out, evio.None
		},
	}
	go func() { failed <- evio.Serve(events, "tcp://127.0.0.1:0") }()
	select {
	case addr := <-serving:
		return addr, await(addr)
	case err := <-failed:
		return "", err
	}
}
