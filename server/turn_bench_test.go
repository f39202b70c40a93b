package server

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
)

// paper is a socket that always has the same to read, and takes all that is written to it.
type paper struct {
	in    []byte
	asked int
	wrote int
}

func (p *paper) Peek(int) ([]byte, error)   { return p.in, nil }
func (p *paper) Discard(n int) (int, error) { return n, nil }
func (p *paper) InboundBuffered() int       { return len(p.in) }

// OutboundBuffered says 1 before a write, so that it comes here, and 0 after it.
func (p *paper) OutboundBuffered() int {
	p.asked++
	return p.asked % 2
}
func (p *paper) Write(b []byte) (int, error) { p.wrote += len(b); return len(b), nil }
func (p *paper) Flush() error                { return nil }
func (p *paper) SetLinger(int) error         { return nil }
func (p *paper) Fd() int                     { return -1 }

type echoer struct{ Base }

func (echoer) OnMessage(s *Session, p []byte) error { return s.Send(p) }

// BenchmarkTurn is what a turn of the loop costs without its system calls: so many 64-byte messages have
// come on one connection and are echoed, over so many connections in turn.
func BenchmarkTurn(b *testing.B) {
	for _, conns := range []int{1, 1000} {
		for _, messages := range []int{1, 16} {
			b.Run(fmt.Sprintf("conns=%d/messages=%d", conns, messages), func(b *testing.B) {
				benchmarkTurn(b, conns, messages)
			})
		}
	}
}

func benchmarkTurn(b *testing.B, conns, messages int) {
	benchmarkTurnOf(b, Config{Loops: 1}, conns, messages, false)
}

// benchmarkTurnOf has the clock go on by a tick before each turn, if ticks is set.
func benchmarkTurnOf(b *testing.B, cfg Config, conns, messages int, ticks bool) {
	srv, err := New(echoer{}, cfg)
	require.NoError(b, err)
	srv.now.Store(uint32(srv.tickAt(srv.elapsed())))
	l := newLoop(srv, 0)
	one, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: make([]byte, 64)})
	require.NoError(b, err)
	var all []byte
	for range messages {
		all = append(all, one...)
	}
	var cs []*conn
	for range conns {
		c, err := newConn(srv, netip.AddrPort{}, false)
		require.NoError(b, err)
		c.loop, c.sock, c.phase = l, &paper{in: all}, open
		c.id = l.add(c)
		c.watching, c.pathWatched = true, true
		c.setLimits(srv.limits)
		cs = append(cs, c)
	}
	l.asked = true // there is no engine to send a byte round
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		l.enter()
		if ticks {
			l.tick++
			l.dry = l.tick - 3
		}
		cs[i].onTraffic()
		l.exit()
		if i++; i == conns {
			i = 0
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages), "ns/message")
	for _, c := range cs {
		require.Nil(b, c.end)
	}
}
