package main

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// guest is a client of the room.
type guest struct {
	net.Conn
	r *bufio.Reader
}

// hear returns what is said next.
func (g guest) hear(t *testing.T) string {
	t.Helper()
	require.NoError(t, g.SetReadDeadline(time.Now().Add(10*time.Second)))
	var head [codec.HeaderSize]byte
	_, err := io.ReadFull(g.r, head[:])
	require.NoError(t, err)
	p := make([]byte, int(head[1])<<16|int(head[2])<<8|int(head[3]))
	_, err = io.ReadFull(g.r, p)
	require.NoError(t, err)
	require.Equal(t, codec.Data, codec.Type(head[0]))
	return string(p)
}

func TestRoom(t *testing.T) {
	srv, err := server.New(&room{}, server.Config{})
	require.NoError(t, err)
	ln, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	defer func() {
		assert.NoError(t, srv.Close())
		assert.ErrorIs(t, <-served, server.ErrServerClosed)
	}()
	enter := func() guest {
		nc, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { nc.Close() })
		return guest{nc, bufio.NewReader(nc)}
	}

	a := enter()
	assert.Equal(t, "1 has come, 1 are here", a.hear(t))
	b := enter()
	assert.Equal(t, "2 has come, 2 are here", a.hear(t))
	assert.Equal(t, "2 has come, 2 are here", b.hear(t))
	_, err = a.Write([]byte("\x01\x00\x00\x05hello"))
	require.NoError(t, err)
	assert.Equal(t, "1: hello", a.hear(t), "who speaks hears it, too")
	assert.Equal(t, "1: hello", b.hear(t))
	require.NoError(t, b.Close())
	assert.Equal(t, "2 has gone: peer_closed", a.hear(t))
}
