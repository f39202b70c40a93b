//go:build linux

package main

import (
	"time"

	"github.com/lesismal/nbio"
	"github.com/lesismal/nbio/logging"
)

var nbioPeer = peer{
	name: "nbio", module: "github.com/lesismal/nbio", serve: serveNbio,
	liveness: "SetReadDeadline for each read: a time.Timer for each connection",
	remark:   "all whole frames of an OnData answered with one Write",
}

func serveNbio() (string, error) {
	logging.SetLevel(logging.LevelNone)
	e := nbio.NewEngine(nbio.Config{Network: "tcp", Addrs: []string{"127.0.0.1:0"}, NPoller: 1})
	e.OnOpen(func(c *nbio.Conn) {
		c.SetSession(new([]byte))
		_ = c.SetReadDeadline(time.Now().Add(idleMax))
	})
	e.OnData(func(c *nbio.Conn, data []byte) {
		_ = c.SetReadDeadline(time.Now().Add(idleMax))
		rest := c.Session().(*[]byte)
		if len(*rest) > 0 {
			*rest = append(*rest, data...)
			data = *rest
		}
		n := whole(data)
		if n > 0 {
			if _, err := c.Write(data[:n]); err != nil {
				return
			}
		}
		*rest = append((*rest)[:0], data[n:]...)
	})
	if err := e.Start(); err != nil {
		return "", err
	}
	return e.Addrs[0], nil
}
