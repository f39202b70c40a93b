package servers

import (
	"net"

	"github.com/panjf2000/gnet/v2"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// bare is what an author writes on gnet by hand: all whole frames of an OnTraffic are answered with
// one Write.
type bare struct {
	gnet.BuiltinEventEngine
	booted chan struct{}
}

func (h *bare) OnBoot(gnet.Engine) gnet.Action {
	close(h.booted)
	return gnet.None
}

func (h *bare) OnTraffic(c gnet.Conn) gnet.Action {
	buf, _ := c.Peek(-1)
	if n := whole(buf); n > 0 {
		_, _ = c.Write(buf[:n])
		_, _ = c.Discard(n)
	}
	return gnet.None
}

func serveGnet(o Options) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	addr := free.Addr().String()
	must(free.Close())
	h := &bare{booted: make(chan struct{})}
	ran := make(chan error, 1)
	go func() {
		ran <- gnet.Run(h, "tcp://"+addr, gnet.WithNumEventLoop(o.Loops), gnet.WithReuseAddr(true), gnet.WithLogger(mute{}))
	}()
	select {
	case <-h.booted:
	case err := <-ran:
		panic(err)
	}
	rig.Serving(addr, nil) // Engine.Stop takes half a second: the process ends without
}

// mute is a gnet logger that says nothing.
type mute struct{}

func (mute) Debugf(string, ...any) {}
func (mute) Infof(string, ...any)  {}
func (mute) Warnf(string, ...any)  {}
func (mute) Errorf(string, ...any) {}
func (mute) Fatalf(string, ...any) {}
