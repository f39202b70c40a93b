//go:build linux

package main

import (
	"net"
	"time"
)

var stdPeer = peer{
	name: "std", serve: func() (string, error) { return serveStd(false) },
	liveness: "TCP keepalive, which is Go's default; who is frozen is not noticed",
	remark:   "a goroutine for each connection; all whole frames of a Read answered with one Write",
}

var stdDeadlinePeer = peer{
	name: "std-deadline", serve: func() (string, error) { return serveStd(true) },
	liveness: "SetReadDeadline before each Read",
	remark:   stdPeer.remark,
}

func serveStd(deadline bool) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answerStd(c, deadline)
		}
	}()
	return ln.Addr().String(), nil
}

func answerStd(c net.Conn, deadline bool) {
	defer c.Close()
	b, have := make([]byte, 16<<10), 0
	for {
		if deadline {
			_ = c.SetReadDeadline(time.Now().Add(idleMax))
		}
		if size := need(b[:have]); size > len(b) {
			b = append(b, make([]byte, size-len(b))...)
		}
		n, err := c.Read(b[have:])
		if err != nil {
			return
		}
		have += n
		n = whole(b[:have])
		if n > 0 {
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
		}
		have = copy(b, b[n:have])
	}
}
