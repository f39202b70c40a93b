package server_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// dialFrom connects from an address of the loopback's.
func dialFrom(t testing.TB, srv *server.Server, from string) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.Dial("tcp", srv.Addr().String())
	require.NoError(t, err)
	return wrap(t, nc)
}

// agrees waits until nobody is on the way in any more, and every connection has been accounted for.
func agrees(t testing.TB, srv *server.Server) {
	t.Helper()
	require.Eventually(t, func() bool {
		st := srv.Stats()
		return st.Accepted == st.Opened+st.Refused+st.Failed
	}, 10*time.Second, time.Millisecond, "%+v", srv.Stats())
}

func TestConnsPerAddrMax(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.ConnsPerAddrMax = 2
	h := newRecorder()
	srv := start(t, h, cfg)
	var inside []*client
	for _, from := range []string{"127.0.0.2", "127.0.0.2", "127.0.0.3"} {
		cl := dialFrom(t, srv, from)
		cl.echoes(t)
		inside = append(inside, cl)
	}
	for range 3 {
		cl := dialFrom(t, srv, "127.0.0.2")
		code, text := cl.goodbye(t)
		assert.Equal(t, server.ServerFull, code)
		assert.Equal(t, "too many connections from your address", text)
		cl.wasReset(t, nil)
	}
	inside[0].Close()
	h.nextClose(t)
	for srv.Stats().Conns == 3 { // until its socket is closed
		time.Sleep(time.Millisecond)
	}
	dialFrom(t, srv, "127.0.0.2").echoes(t)
	agrees(t, srv)
	st := srv.Stats()
	assert.EqualValues(t, 3, st.Refused)
	assert.EqualValues(t, 3, st.RefusedAddr)
	assert.EqualValues(t, 4, st.Opened)
	assert.EqualValues(t, 7, st.Accepted)
}

func TestAcceptRate(t *testing.T) {
	t.Parallel()
	const rate, connects = 20, 100
	cfg := calm()
	cfg.AcceptRate = rate
	srv := start(t, newRecorder(), cfg)
	begun := time.Now()
	in, out := 0, 0
	for range connects {
		nc, err := net.Dial("tcp", srv.Addr().String())
		if err != nil { // reset already: of a crowd not all are told
			out++
			continue
		}
		cl := wrap(t, nc)
		_, _ = cl.Write(frame(codec.Data, []byte("hi")))
		if f, err := cl.read(); err == nil && f.Type == codec.Data {
			in++
		} else {
			out++
			assert.True(t, err != nil || f.Type == codec.Goodbye && strings.Contains(string(f.Payload), "too many connections at once"))
		}
		cl.Close()
	}
	took := time.Since(begun)
	agrees(t, srv)
	most := rate + int(took.Seconds()*rate) + 1
	assert.LessOrEqual(t, in, most, "in %v", took)
	assert.GreaterOrEqual(t, in, rate)
	assert.EqualValues(t, out, srv.Stats().RefusedRate)
	assert.EqualValues(t, in, srv.Stats().Opened)
	if most >= connects {
		fmt.Printf("TestAcceptRate: the machine took %v for %d connects: none had to be refused\n", took, connects)
	} else {
		assert.Positive(t, out)
	}
}
