package server_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// A client that reads everything and has never answered a Ping is every client author's first
// mistake: the detail says so. Of one that has answered before, it does not.
func TestPathNeverAnswered(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		answered bool
		stream   bool
	}{
		{"never", false, false},
		{"never, streamed to", false, true},
		{"once", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newRecorder()
			h.onMessage = func(*server.Session, []byte) error { return nil }
			srv := start(t, h, quick())
			cl := dial(t, srv)
			cl.send(t, codec.Data, []byte("hello"))
			if s := h.nextOpen(t); c.stream {
				go push(s, 100, 20*time.Millisecond)
			}
			if c.answered {
				cl.send(t, codec.Pong, cl.readUntil(t, codec.Ping).Payload)
			}
			go func() {
				for {
					if _, err := cl.read(); err != nil {
						return
					}
				}
			}()
			e := h.nextClose(t)
			assert.Equal(t, server.PeerFrozen, e.end.Reason, "%v", e.end)
			const never = "it has never answered a Ping"
			if c.answered {
				assert.NotContains(t, e.end.Detail, never)
			} else {
				assert.Contains(t, e.end.Detail, never)
			}
		})
	}
}

// A tongueTied codec does not encode Pings.
type tongueTied struct {
	codec.Binary
	err error // what it says then; nil: it swallows them
}

func (c tongueTied) AppendFrame(b []byte, f codec.Frame) ([]byte, error) {
	if f.Type == codec.Ping {
		return b, c.err
	}
	return c.Binary.AppendFrame(b, f)
}

// A Ping that the codec refuses, or swallows, has asked nobody. New tries the codec, and says so.
func TestPathCodecWithoutPing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		err    error
		silent bool // it never says a word
	}{
		{"refuses", errors.New("no Ping in this protocol"), false},
		{"swallows", nil, false},
		{"swallows, and nothing is said", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := &lines{}
			cfg := quick()
			cfg.Logger = log.logger()
			cfg.NewCodec = func() codec.Codec { return tongueTied{err: c.err} }
			h := newRecorder()
			h.onMessage = func(*server.Session, []byte) error { return nil }
			srv := start(t, h, cfg)
			assert.NotEmpty(t, log.with("level=WARN", "Ping"), "New says so")
			cl := dial(t, srv)
			if !c.silent {
				cl.send(t, codec.Data, []byte("hello"))
			}
			s := h.nextOpen(t)
			go push(s, 100, 20*time.Millisecond)
			go beats(cl)
			if c.silent { // the handshake deadline is about what was said, not about an answer
				e := h.nextClose(t)
				assert.Equal(t, server.PeerUnready, e.end.Reason, "%v", e.end)
				assert.Less(t, e.end.Record.Age, cfg.HandshakeTimeout*3/2, "there is no answer to wait for")
				assert.Zero(t, e.end.Record.Pings)
				return
			}
			lives(t, h, 3*cfg.Policy.Timeout)
			assert.Zero(t, srv.Stats().Suspected, "nobody who was not asked is suspect of his silence")
			require.NoError(t, cl.Close())
			e := h.nextClose(t)
			assert.NotEqual(t, server.PeerFrozen, e.end.Reason)
			assert.Zero(t, e.end.Record.Pings)
		})
	}
}
