package server

import (
	"fmt"
	"net"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

const (
	porchTime = 100 * time.Millisecond // from the Goodbye to one refused to its RST
	porchMax  = 64                     // refused connections that wait for it
)

// refuse tells a connection why it may not come in, and has it reset: no TIME_WAIT stays here. Without room for it to stay a
// moment that is at once.
func (s *Server) refuse(nc net.Conn, why refusal, room bool) {
	s.counters.refused.Add(1)
	switch why {
	case refusedAddr:
		s.counters.refusedAddr.Add(1)
	case refusedRate:
		s.counters.refusedRate.Add(1)
	}
	if b, err := s.farewell(why); err == nil {
		_ = nc.SetWriteDeadline(time.Now().Add(patience)) // the send buffer of a new socket takes it at once
		_, _ = nc.Write(b)
	} else {
		s.log.Debug("pulsewheel: the codec refused a Goodbye", "err", err)
	}
	if !room {
		reset(nc)
		return
	}
	select {
	case s.porch <- refused{nc, s.elapsed() + porchTime}:
	default: // a crowd: no courtesies
		reset(nc)
	}
}

// farewell is the Goodbye of a server that refuses, in the codec of the connection; a codec that panics has none.
func (s *Server) farewell(why refusal) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the codec: %v", p)
		}
	}()
	payload, err := codec.AppendGoodbye(nil, uint16(ServerFull), string(why))
	if err != nil {
		return nil, err
	}
	return s.cfg.NewCodec().AppendFrame(nil, codec.Frame{Type: codec.Goodbye, Payload: payload})
}

// refused is a connection that has been told so, and when it is to be reset.
type refused struct {
	nc net.Conn
	at time.Duration
}

// sweepPorch resets who has been refused, a moment after the Goodbye: an RST that overtakes the
// client's own connect(2) makes that fail, and the Goodbye is never read (seen on loopback).
func (s *Server) sweepPorch() {
	defer close(s.swept)
	for r := range s.porch {
		select {
		case <-time.After(r.at - s.elapsed()):
		case <-s.stopping:
		}
		reset(r.nc)
	}
}

func reset(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	_ = nc.Close()
}
