package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/panjf2000/gnet/v2"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// BenchmarkEcho sends 64-byte messages through a server with one loop and takes them back: with the
// library, its liveness on as always, and with gnet alone, its handler written by hand for the same
// frames. Clients are goroutines of the same process, so the client's share is in every figure.
func BenchmarkEcho(b *testing.B) {
	for _, conns := range []int{1, 100} {
		for _, outstanding := range []int{1, 16} {
			for _, s := range []struct {
				name  string
				serve func(b *testing.B) string
			}{{"gnet", serveGnet}, {"pulsewheel", servePulsewheel}} {
				b.Run(fmt.Sprintf("conns=%d/outstanding=%d/%s", conns, outstanding, s.name), func(b *testing.B) {
					load(b, s.serve(b), conns, outstanding)
				})
			}
		}
	}
}

type echo struct{ server.Base }

func (echo) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

func servePulsewheel(b *testing.B) string {
	srv, err := server.New(echo{}, server.Config{Loops: 1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(b, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	b.Cleanup(func() {
		require.NoError(b, srv.Close())
		<-served
	})
	return ln.Addr().String()
}

// bare is what an author writes on gnet by hand: all whole frames of an OnTraffic are answered with
// one Write.
type bare struct {
	gnet.BuiltinEventEngine
	booted chan gnet.Engine
}

func (h *bare) OnBoot(e gnet.Engine) gnet.Action {
	h.booted <- e
	return gnet.None
}

func (h *bare) OnTraffic(c gnet.Conn) gnet.Action {
	buf, _ := c.Peek(-1)
	n := 0
	for len(buf)-n >= codec.HeaderSize {
		size := codec.HeaderSize + int(binary.BigEndian.Uint32(buf[n:])&0xffffff)
		if len(buf)-n < size {
			break
		}
		n += size
	}
	if n > 0 {
		_, _ = c.Write(buf[:n])
		_, _ = c.Discard(n)
	}
	return gnet.None
}

func serveGnet(b *testing.B) string {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	addr := free.Addr().String()
	require.NoError(b, free.Close())
	h := &bare{booted: make(chan gnet.Engine, 1)}
	ran := make(chan error, 1)
	go func() {
		ran <- gnet.Run(h, "tcp://"+addr, gnet.WithNumEventLoop(1), gnet.WithReuseAddr(true), gnet.WithLogger(mute{}))
	}()
	var e gnet.Engine
	select {
	case e = <-h.booted:
	case err := <-ran:
		require.NoError(b, err)
	}
	b.Cleanup(func() {
		require.NoError(b, e.Stop(context.Background()))
		<-ran
	})
	return addr
}

// mute is a gnet logger that says nothing.
type mute struct{}

func (mute) Debugf(string, ...any) {}
func (mute) Infof(string, ...any)  {}
func (mute) Warnf(string, ...any)  {}
func (mute) Errorf(string, ...any) {}
func (mute) Fatalf(string, ...any) {}

// load sends b.N messages over conns connections, so many of them outstanding on each.
func load(b *testing.B, addr string, conns, outstanding int) {
	msg, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: make([]byte, 64)})
	require.NoError(b, err)
	batch := make([]byte, 0, len(msg)*outstanding)
	for range outstanding {
		batch = append(batch, msg...)
	}
	clients := make([]net.Conn, conns)
	for i := range clients {
		clients[i], err = net.Dial("tcp", addr)
		require.NoError(b, err)
		defer clients[i].Close()
	}
	rounds := (b.N + conns*outstanding - 1) / (conns * outstanding)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for _, c := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			r := bufio.NewReaderSize(c, len(batch))
			back := make([]byte, len(batch))
			for range rounds {
				if _, err := c.Write(batch); err != nil {
					b.Error(err)
					return
				}
				if _, err := io.ReadFull(r, back); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	all.Wait()
	b.ReportMetric(float64(rounds*conns*outstanding)/b.Elapsed().Seconds(), "msgs/s")
}
