package server_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// party dials so many clients and returns them with their sessions.
func party(t *testing.T, r *recorder, srv *server.Server, n int) (clients []*client, sessions []*server.Session) {
	t.Helper()
	for range n {
		clients = append(clients, dial(t, srv))
		sessions = append(sessions, r.nextOpen(t))
	}
	return clients, sessions
}

// patient is quick, but nobody is asked, nor ended for silence, while a test lasts.
func patient() server.Config {
	cfg := quick()
	cfg.Policy.Interval, cfg.Policy.Timeout, cfg.HandshakeTimeout = time.Minute, 3*time.Minute, time.Minute
	return cfg
}

func TestGroup(t *testing.T) {
	r := newRecorder()
	var g, other server.Group
	inClose := make(chan int, 5)
	r.onClose = func(*server.Session, *server.CloseError) { inClose <- g.Len() }
	srv := start(t, r, patient())
	clients, sessions := party(t, r, srv, 5)
	require.NoError(t, g.Broadcast([]byte("nobody")), "an empty group")
	for _, s := range sessions {
		require.NoError(t, g.Join(s))
		require.NoError(t, g.Join(s), "once more")
		require.NoError(t, other.Join(s))
	}
	assert.Equal(t, 5, g.Len())

	require.NoError(t, g.Broadcast([]byte("all")))
	for _, c := range clients {
		assert.Equal(t, "all", string(c.readUntil(t, codec.Data).Payload))
	}

	g.Leave(sessions[0])
	g.Leave(sessions[0])
	assert.Equal(t, 4, g.Len())
	assert.Equal(t, 5, other.Len())
	require.NoError(t, g.Broadcast([]byte("four")))
	require.NoError(t, other.Broadcast([]byte("five")))
	assert.Equal(t, "five", string(clients[0].readUntil(t, codec.Data).Payload))
	for _, c := range clients[1:] {
		assert.Equal(t, "four", string(c.readUntil(t, codec.Data).Payload))
		assert.Equal(t, "five", string(c.readUntil(t, codec.Data).Payload))
	}

	require.NoError(t, clients[2].Close())
	r.nextClose(t)
	assert.Equal(t, 3, <-inClose, "it has left before OnClose")
	assert.Equal(t, 4, other.Len())
	require.NoError(t, g.Broadcast([]byte("three")))
	for _, i := range []int{1, 3, 4} {
		assert.Equal(t, "three", string(clients[i].readUntil(t, codec.Data).Payload))
	}
	err := g.Join(sessions[2])
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, err, server.PeerClosed)
	g.Leave(sessions[2])
	assert.Equal(t, 3, g.Len())
}

// TestBroadcastOrder: what one goroutine sends, by Send and by Broadcast to groups that overlap, arrives in
// the order in which it was sent, whoever else sends meanwhile; from the handler's goroutine, too.
func TestBroadcastOrder(t *testing.T) {
	const (
		members = 8
		writers = 4
		each    = 300
	)
	r := newRecorder()
	var all, some server.Group
	var sessions []*server.Session
	var sent [writers + 1][members]atomic.Uint32
	// message is the next of a writer to those members.
	write := func(writer, k int) {
		payload := func(n uint32) []byte {
			return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(writer)), n)
		}
		n := uint32(k)
		var err error
		switch k % 3 {
		case 0:
			err = all.Broadcast(payload(n))
			for i := range members {
				sent[writer][i].Add(1)
			}
		case 1:
			i := k % members
			err = sessions[i].Send(payload(n))
			sent[writer][i].Add(1)
		case 2:
			err = some.Broadcast(payload(n))
			for i := range members / 2 {
				sent[writer][i].Add(1)
			}
		}
		assert.NoError(t, err)
	}
	r.onMessage = func(_ *server.Session, p []byte) error {
		write(writers, int(binary.BigEndian.Uint32(p)))
		return nil
	}
	srv := start(t, r, patient())
	clients, opened := party(t, r, srv, members)
	sessions = opened
	for i, s := range sessions {
		require.NoError(t, all.Join(s))
		if i < members/2 {
			require.NoError(t, some.Join(s))
		}
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for k := range each {
				write(w, k)
			}
		}()
	}
	for k := range each {
		clients[0].send(t, codec.Data, binary.BigEndian.AppendUint32(nil, uint32(k)))
	}
	wg.Wait()
	for i, c := range clients {
		want := uint32(0)
		for w := range sent {
			eventually(t, 10*time.Second, func() bool { return w < writers || sent[w][0].Load() >= each*2/3 }, "the handler has not sent all")
			want += sent[w][i].Load()
		}
		var last [writers + 1]int
		for w := range last {
			last[w] = -1
		}
		for range want {
			p := c.readUntil(t, codec.Data).Payload
			w, n := binary.BigEndian.Uint32(p), int(binary.BigEndian.Uint32(p[4:]))
			require.Greater(t, n, last[w], "client %d, writer %d", i, w)
			last[w] = n
		}
	}
}

// counting is a codec that counts what it encodes.
type counting struct {
	codec.Binary
	n *atomic.Int64
}

func (c counting) AppendFrame(b []byte, f codec.Frame) ([]byte, error) {
	c.n.Add(1)
	return c.Binary.AppendFrame(b, f)
}

// sequenced is a codec with a state that cannot be compared.
type sequenced struct {
	counting
	_ []byte
}

// TestBroadcastEncodesOnce: for codecs that are equal; who has one of his own, or one that cannot be
// compared, gets his own bytes.
func TestBroadcastEncodesOnce(t *testing.T) {
	const members = 6
	var n atomic.Int64
	equal := counting{n: &n}
	for _, c := range []struct {
		name  string
		codec func() codec.Codec
		want  int64
	}{
		{"equal", func() codec.Codec { return equal }, 1},
		{"different", func() codec.Codec { return &counting{n: &n} }, members},
		{"not to be compared", func() codec.Codec { return sequenced{counting: equal} }, members},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder()
			cfg := patient()
			cfg.NewCodec = c.codec
			srv := start(t, r, cfg)
			clients, sessions := party(t, r, srv, members)
			var g server.Group
			for _, s := range sessions {
				require.NoError(t, g.Join(s))
			}
			n.Store(0)
			require.NoError(t, g.Broadcast([]byte("once")))
			for _, c := range clients {
				assert.Equal(t, "once", string(c.readUntil(t, codec.Data).Payload))
			}
			assert.Equal(t, c.want, n.Load())
		})
	}
}

// TestBroadcastErrors: who cannot take it does not keep it from the others.
func TestBroadcastErrors(t *testing.T) {
	r := newRecorder()
	cfg := patient()
	cfg.Loops, cfg.PayloadMax, cfg.BacklogMax = 1, 1000, 2000
	srv := start(t, r, cfg)
	clients, sessions := party(t, r, srv, 3)
	var g server.Group
	for _, s := range sessions {
		require.NoError(t, g.Join(s))
	}
	require.ErrorIs(t, g.Broadcast(make([]byte, 1001)), codec.ErrTooLong)

	block, blocked := make(chan struct{}), make(chan struct{})
	require.NoError(t, sessions[0].Post(func() { close(blocked); <-block }))
	<-blocked
	require.NoError(t, sessions[1].Send(make([]byte, 900)))
	require.NoError(t, sessions[1].Send(make([]byte, 900)))
	err := g.Broadcast(make([]byte, 900))
	require.ErrorIs(t, err, server.ErrBacklogFull)
	assert.ErrorContains(t, err, "1 of 3 members did not get it")
	require.NoError(t, g.Broadcast([]byte("small")), "there is room for that")
	close(block)
	for i, want := range [][]int{{900, 5}, {900, 900, 5}, {900, 5}} {
		for _, n := range want {
			assert.Len(t, clients[i].readUntil(t, codec.Data).Payload, n, "client %d", i)
		}
	}
}

// panicky is a codec that throws when it is to encode a certain payload for a certain connection.
type panicky struct {
	codec.Binary
	number int
	_      []byte // not to be compared: each connection's own is asked
}

// The first codec is New's own, so that of the second connection is the third.
func (c panicky) AppendFrame(b []byte, f codec.Frame) ([]byte, error) {
	if c.number == 3 && string(f.Payload) == "throw" {
		panic("no")
	}
	return c.Binary.AppendFrame(b, f)
}

// TestBroadcastPanics: a codec that panics does so in the caller, as in Send, and leaves the group and its
// members as good as before.
func TestBroadcastPanics(t *testing.T) {
	r := newRecorder()
	cfg := patient()
	cfg.Loops = 1
	var made atomic.Int64
	cfg.NewCodec = func() codec.Codec { return panicky{number: int(made.Add(1))} }
	srv := start(t, r, cfg)
	clients, sessions := party(t, r, srv, 3)
	var g server.Group
	for _, s := range sessions {
		require.NoError(t, g.Join(s))
	}
	assert.Panics(t, func() { _ = g.Broadcast([]byte("throw")) })
	require.NoError(t, g.Broadcast([]byte("after")))
	assert.Equal(t, "throw", string(clients[0].readUntil(t, codec.Data).Payload), "it was before the one that panicked")
	for _, c := range clients {
		assert.Equal(t, "after", string(c.readUntil(t, codec.Data).Payload))
	}
}

// TestBroadcastWakes: a broadcast wakes each loop once at most, however many members there are.
func TestBroadcastWakes(t *testing.T) {
	r := newRecorder()
	cfg := patient()
	srv := start(t, r, cfg)
	const members, rounds = 200, 20
	clients, sessions := party(t, r, srv, members)
	var g server.Group
	for _, s := range sessions {
		require.NoError(t, g.Join(s))
	}
	before := srv.Stats().Wakes
	began := time.Now()
	for range rounds {
		require.NoError(t, g.Broadcast(make([]byte, 100)))
		for _, c := range clients {
			c.readUntil(t, codec.Data)
		}
	}
	ticks := uint64(time.Since(began)/cfg.Tick + 2)
	wakes := srv.Stats().Wakes - before
	assert.GreaterOrEqual(t, wakes, uint64(rounds))
	assert.LessOrEqual(t, wakes, uint64(cfg.Loops)*(rounds+ticks))
}

// TestGroupRace has many goroutines join, leave, broadcast and close at once. Nothing but nil, or an error
// that is net.ErrClosed, comes back, and at the end the groups are empty.
func TestGroupRace(t *testing.T) {
	r := newRecorder()
	cfg := patient()
	cfg.BacklogMax = 1 << 30
	srv := start(t, r, cfg)
	const members = 40
	clients, sessions := party(t, r, srv, members)
	for _, c := range clients {
		go func() { // it reads until the end, and then closes first
			defer c.Close()
			for {
				if f, err := c.read(); err != nil || f.Type == codec.Goodbye {
					return
				}
			}
		}()
	}
	groups := make([]server.Group, 3)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 500 {
				s, g := sessions[(i*7+w)%members], &groups[i%len(groups)]
				var err error
				switch (i + w) % 5 {
				case 0, 1:
					err = g.Join(s)
				case 2:
					g.Leave(s)
				case 3:
					err = g.Broadcast(fmt.Appendf(nil, "%d %d", w, i))
				case 4:
					if i%10 == 4 {
						err = s.Close(1000, "")
					} else {
						err = s.Send([]byte("x"))
					}
				}
				if err != nil && !errors.Is(err, net.ErrClosed) {
					assert.NoError(t, err)
				}
			}
		}()
	}
	wg.Wait()
	for _, s := range sessions {
		if err := s.Close(1000, ""); err != nil {
			assert.ErrorIs(t, err, net.ErrClosed)
		}
	}
	for range sessions {
		r.nextClose(t)
	}
	for i := range groups {
		assert.Zero(t, groups[i].Len())
	}
}
