package servers

import (
	"net"
	"sync"

	"github.com/panjf2000/gnet/v2"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// bareMany is what an author writes on gnet by hand who sends to many: a list of connections, and
// AsyncWrite, which does not copy: a message for one needs bytes of its own, and a broadcast is encoded once for all.
type bareMany struct {
	bare
	*flow
	mu    sync.Mutex
	conns []gnet.Conn
}

func (h *bareMany) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, c)
	return nil, gnet.None
}

func (h *bareMany) OnTraffic(c gnet.Conn) gnet.Action {
	buf, _ := c.Peek(-1)
	if n := whole(buf); n > 0 {
		reports(buf[:n], h.told)
		_, _ = c.Discard(n)
	}
	return gnet.None
}

// sendTo is on one of several goroutines; the list stays as it is meanwhile.
func (h *bareMany) sendTo(i int, p []byte) error {
	return h.conns[i].AsyncWrite(framed(p), nil)
}

func (h *bareMany) broadcast(p []byte) error {
	b := framed(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		if err := c.AsyncWrite(b, nil); err != nil {
			return err
		}
	}
	return nil
}

func serveGnetMany(o Options) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	addr := free.Addr().String()
	must(free.Close())
	h := &bareMany{bare: bare{booted: make(chan struct{})}, flow: newFlow()}
	ran := make(chan error, 1)
	go func() {
		ran <- gnet.Run(h, "tcp://"+addr, gnet.WithNumEventLoop(o.Loops), gnet.WithReuseAddr(true), gnet.WithLogger(mute{}))
	}()
	select {
	case <-h.booted:
	case err := <-ran:
		panic(err)
	}
	c := crowd{sender: h.sendTo, broadcast: h.broadcast, wakes: func() uint64 { return 0 }}
	rig.Serving(addr, map[string]func(string) string{"push": func(arg string) string { return h.push(arg, c) }})
}
