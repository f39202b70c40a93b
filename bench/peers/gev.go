//go:build linux

package main

import (
	"github.com/Allenxuxu/gev"
	"github.com/Allenxuxu/gev/log"
	"github.com/Allenxuxu/ringbuffer"
)

var gevPeer = peer{
	name: "gev", module: "github.com/Allenxuxu/gev", serve: serveGev,
	liveness: "IdleTime: a stamp for each event, RussellLuo/timingwheel",
	remark:   "all whole frames of a read answered with one write; the listener has a loop of its own",
}

// gevFrames hands all whole frames that are there to OnMessage at once.
type gevFrames struct{}

func (gevFrames) UnPacket(c *gev.Connection, in *ringbuffer.RingBuffer) (any, []byte) {
	b, end := in.PeekAll()
	if len(end) > 0 {
		both := c.UserBuffer()
		*both = append(append((*both)[:0], b...), end...)
		b = *both
	}
	n := whole(b)
	in.Retrieve(n)
	return nil, b[:n]
}

func (gevFrames) Packet(_ *gev.Connection, data any) []byte { return data.([]byte) }

type gevEcho struct{}

func (gevEcho) OnConnect(*gev.Connection) {}
func (gevEcho) OnClose(*gev.Connection)   {}

func (gevEcho) OnMessage(_ *gev.Connection, _ any, data []byte) any { return data }

func serveGev() (string, error) {
	log.SetLevel(log.LevelFatal)
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	s, err := gev.NewServer(gevEcho{}, gev.Address(addr.String()), gev.NumLoops(1), gev.CustomProtocol(gevFrames{}), gev.IdleTime(idleMax))
	if err != nil {
		return "", err
	}
	go s.Start()
	return addr.String(), await(addr.String())
}
