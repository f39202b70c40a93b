package server

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
)

// hoards notes how many bytes wait to be decoded, at most, while its messages take some time.
type hoards struct {
	Base
	most, messages atomic.Int64
}

func (h *hoards) OnMessage(s *Session, _ []byte) error {
	h.most.Store(max(h.most.Load(), int64(s.c.sock.InboundBuffered())))
	for begun := time.Now(); time.Since(begun) < 20*time.Microsecond; {
	}
	h.messages.Add(1)
	return nil
}

// Who sends faster than its messages are delivered fills no more memory here than two reads and a
// frame; the wheel is swept all the same.
func TestTurnRemainderIsBounded(t *testing.T) {
	const frames = 150_000 // 600 kB, ten reads
	h := &hoards{}
	s, err := New(h, Config{Loops: 1, Tick: 10 * time.Millisecond})
	require.NoError(t, err)
	stop := serve(t, s)
	defer stop()
	nc, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer nc.Close()
	empty, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data})
	require.NoError(t, err)
	_, err = nc.Write(bytes.Repeat(empty, frames))
	require.NoError(t, err)
	for deadline := time.Now().Add(time.Minute); h.messages.Load() < frames; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "%d messages", h.messages.Load())
	}
	keeps := (&conn{srv: s}).keeps()
	t.Logf("at most %d bytes waited", h.most.Load())
	assert.Greater(t, h.most.Load(), int64(readSize), "something was put off, or this tests nothing")
	assert.LessOrEqual(t, h.most.Load(), int64(keeps+readSize))
	l := s.loops[0]
	l.post(nil, func() { assert.Empty(t, l.resumes) })
}
