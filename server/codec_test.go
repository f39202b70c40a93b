package server_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

var errManners = errors.New("manners: say HELLO first")

// polite is a codec with a state: a line "HELLO name" comes first and is answered, empty lines are
// skipped, then frames of Binary follow.
type polite struct {
	codec.Binary
	met atomic.Bool
}

func (p *polite) Decode(b []byte) (codec.Frame, int, error) {
	const hello = "HELLO "
	if p.met.Load() {
		return p.Binary.Decode(b)
	}
	if len(b) > 0 && b[0] == '\n' {
		return codec.Frame{Type: codec.Raw}, 1, nil
	}
	if n := min(len(b), len(hello)); string(b[:n]) != hello[:n] {
		return codec.Frame{}, 0, errManners
	}
	line, _, whole := bytes.Cut(b, []byte("\n"))
	if !whole {
		return codec.Frame{}, 0, nil
	}
	p.met.Store(true)
	return codec.Frame{Type: codec.Raw, Payload: append([]byte("WELCOME "), append(line[len(hello):], '\n')...)}, len(line) + 1, nil
}

func (p *polite) AppendFrame(b []byte, f codec.Frame) ([]byte, error) {
	if !p.met.Load() {
		return b, errManners
	}
	return p.Binary.AppendFrame(b, f)
}

// Need hides Binary's, which would read a header in the line.
func (p *polite) Need(b []byte) int {
	if !p.met.Load() {
		return len(b)
	}
	return p.Binary.Need(b)
}

// line reads a line that is no frame.
func (c *client) line(t testing.TB) string {
	t.Helper()
	s, err := c.r.ReadString('\n')
	require.NoError(t, err)
	return s
}

func TestStatefulCodec(t *testing.T) {
	t.Parallel()
	cfg := calm()
	made := atomic.NewInt64(0)
	cfg.NewCodec = func() codec.Codec { made.Inc(); return &polite{} }
	h := newRecorder()
	srv, cl, s := open(t, h, cfg)
	assert.EqualValues(t, 2, made.Load(), "the first is New's, to see whether it sends Pings")
	assert.ErrorIs(t, s.Send([]byte("too early")), errManners)

	// In one piece, with two messages behind it, answered in the order in which they came.
	all := append([]byte("\n\nHELLO Ada\n"), append(frame(codec.Data, []byte("one")), frame(codec.Data, []byte("two"))...)...)
	_, err := cl.Write(all)
	require.NoError(t, err)
	assert.Equal(t, "WELCOME Ada\n", cl.line(t))
	assert.Equal(t, []string{"one", "two"}, cl.data(t, 2))

	// In single bytes, on a connection with a state of its own.
	bytewise := dialAt(t, srv.Addr())
	other := h.nextOpen(t)
	assert.EqualValues(t, 3, made.Load())
	for _, b := range all {
		_, err := bytewise.Write([]byte{b})
		require.NoError(t, err)
		time.Sleep(100 * time.Microsecond) // so that most are read one by one
	}
	assert.Equal(t, "WELCOME Ada\n", bytewise.line(t))
	assert.Equal(t, []string{"one", "two"}, bytewise.data(t, 2))
	require.NoError(t, other.Close(server.SessionReplaced, "Ada came back"))
	_, text := bytewise.goodbye(t)
	assert.Equal(t, "Ada came back", text)
	bytewise.Close()
	e := h.nextClose(t)
	assert.EqualValues(t, 5, e.end.Record.FramesIn, "two empty lines, the line, two messages")
	assert.EqualValues(t, len(all), e.end.Record.BytesIn)
	assert.EqualValues(t, len("WELCOME Ada\n")+2*(4+3)+4+2+len(text), e.end.Record.BytesOut)

	// Bad manners. The codec does not know how to say Goodbye yet: there is only the RST.
	rude := dialAt(t, srv.Addr())
	h.nextOpen(t)
	_, err = rude.Write([]byte("HELP\n"))
	require.NoError(t, err)
	e = h.nextClose(t)
	assert.Equal(t, server.PeerProtocol, e.end.Reason)
	assert.ErrorIs(t, e.end, errManners)
	_, err = rude.read()
	assert.True(t, isReset(err), "an RST, not %v", err)
	cl.echoes(t)
}

// mad is a codec whose halves can be replaced.
type mad struct {
	codec.Binary
	decode func([]byte) (codec.Frame, int, error)
	append func([]byte, codec.Frame) ([]byte, error)
}

func (m mad) Decode(b []byte) (codec.Frame, int, error) {
	if m.decode != nil {
		return m.decode(b)
	}
	return m.Binary.Decode(b)
}

func (m mad) AppendFrame(b []byte, f codec.Frame) ([]byte, error) {
	if m.append != nil && f.Type == codec.Data {
		return m.append(b, f)
	}
	return m.Binary.AppendFrame(b, f)
}

// A codec's bug is one session's end, told as what it is.
func TestMadCodec(t *testing.T) {
	t.Parallel()
	length := func(n int) func([]byte) (codec.Frame, int, error) {
		return func([]byte) (codec.Frame, int, error) { return codec.Frame{Type: codec.Data}, n, nil }
	}
	for _, c := range []struct {
		name  string
		codec mad
		says  string
		logs  int
	}{
		{"a negative length", mad{decode: length(-1)}, "returned a length of -1 for 12 bytes", 0},
		{"a length beyond the input", mad{decode: length(13)}, "returned a length of 13 for 12 bytes", 0},
		{"a panic in Decode", mad{decode: func([]byte) (codec.Frame, int, error) { panic("boom") }}, "panic in codec: boom", 1},
		{"a panic in AppendFrame", mad{append: func([]byte, codec.Frame) ([]byte, error) { panic("boom") }}, "panic in OnMessage: boom", 1},
		{"an error of AppendFrame", mad{append: func(b []byte, _ codec.Frame) ([]byte, error) { return b, io.ErrNoProgress }}, io.ErrNoProgress.Error(), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := &lines{}
			cfg := calm()
			cfg.Logger = log.logger()
			calls := atomic.NewInt64(0)
			cfg.NewCodec = func() codec.Codec {
				if calls.Inc() <= 2 { // for New, and for the witness
					return codec.Binary{}
				}
				return c.codec
			}
			h := newRecorder()
			srv, witness, _ := open(t, h, cfg)
			cl := dial(t, srv)
			s := h.nextOpen(t)
			cl.send(t, codec.Data, []byte("12345678"))
			code, _ := cl.goodbye(t)
			assert.Equal(t, server.HandlerFailed, code)
			cl.Close()
			e := h.nextClose(t)
			require.Same(t, s, e.s)
			assert.Equal(t, server.HandlerFailed, e.end.Reason)
			assert.ErrorContains(t, e.end.Err, c.says)
			assert.Len(t, log.with("level=ERROR", "boom", "stack", "codec_test.go"), c.logs)
			witness.echoes(t)
		})
	}
}

// sick is a codec that panics when it is to write a frame of one type, and perhaps in Need.
type sick struct {
	codec.Binary
	at   codec.Type
	need bool
}

func (s sick) AppendFrame(b []byte, f codec.Frame) ([]byte, error) {
	if f.Type == s.at {
		panic("boom")
	}
	return s.Binary.AppendFrame(b, f)
}

func (s sick) Need(b []byte) int {
	if s.need {
		panic("boom")
	}
	return s.Binary.Need(b)
}

type sickJudge struct{}

func (sickJudge) Judge(heartbeat.Evidence) (heartbeat.Verdict, time.Duration) { panic("boom") }

// Nothing that the application brings along takes the server with it.
func TestSickPlugins(t *testing.T) {
	t.Parallel()
	ping := func(t *testing.T, cl *client, _ *server.Session) { cl.send(t, codec.Ping, nil) }
	quiet := func(*testing.T, *client, *server.Session) {}
	for _, c := range []struct {
		name  string
		codec codec.Codec
		judge heartbeat.Judge
		act   func(*testing.T, *client, *server.Session)
		want  server.Reason
	}{
		{"Ping", sick{at: codec.Ping}, nil, quiet, server.HandlerFailed},
		{"Pong", sick{at: codec.Pong}, nil, ping, server.HandlerFailed},
		{"Need", sick{need: true}, nil, func(_ *testing.T, cl *client, _ *server.Session) { cl.Write([]byte{1, 0}) }, server.HandlerFailed},
		{"no codec", nil, nil, ping, server.HandlerFailed},
		{"a judge", codec.Binary{}, sickJudge{}, quiet, server.HandlerFailed},
		{"Goodbye after Close", sick{at: codec.Goodbye}, nil, func(t *testing.T, _ *client, s *server.Session) {
			assert.NoError(t, s.Close(server.ServerClosed, ""))
		}, server.ServerClosed},
		{"Goodbye after garbage", sick{at: codec.Goodbye}, nil, func(_ *testing.T, cl *client, _ *server.Session) {
			cl.Write(make([]byte, 9))
		}, server.PeerProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := &lines{}
			cfg := quick()
			cfg.Loops, cfg.Logger, cfg.Judge = 1, log.logger(), c.judge
			cfg.NewCodec = func() codec.Codec { return c.codec }
			h := newRecorder()
			srv := start(t, h, cfg)
			for range 2 { // and the next is served as well
				cl := dial(t, srv)
				s := h.nextOpen(t)
				c.act(t, cl, s)
				e := h.nextClose(t)
				assert.Same(t, s, e.s)
				assert.Equal(t, c.want, e.end.Reason, "%v", e.end)
				cl.Close()
			}
			assert.NotEmpty(t, log.with("level=ERROR", "panic", "stack"))
		})
	}
}

// A codec that panics over the Goodbye to one who is refused does not take the front door with it.
func TestSickCodecAtTheDoor(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.ConnsMax = 1
	cfg.NewCodec = func() codec.Codec { return sick{at: codec.Goodbye} }
	srv, cl, _ := open(t, newRecorder(), cfg)
	for range 3 {
		refused := dial(t, srv)
		_, err := refused.Read(make([]byte, 1))
		assert.True(t, isReset(err), "%v", err)
	}
	assert.EqualValues(t, 3, srv.Stats().Refused)
	cl.echoes(t)
}

// A NewCodec that panics is no session.
func TestPanicInNewCodec(t *testing.T) {
	t.Parallel()
	log := &lines{}
	cfg := calm()
	cfg.Logger = log.logger()
	calls := atomic.NewInt64(0)
	cfg.NewCodec = func() codec.Codec {
		if calls.Inc() == 2 { // the first is New's
			panic("boom")
		}
		return codec.Binary{}
	}
	srv := start(t, newRecorder(), cfg)
	if nc, err := net.Dial("tcp", srv.Addr().String()); err == nil { // the RST may overtake connect(2)
		_, err = nc.Read(make([]byte, 1))
		assert.Error(t, err)
		nc.Close()
	}
	dial(t, srv).echoes(t)
	assert.EqualValues(t, 1, srv.Stats().Opened)
	assert.EqualValues(t, 1, srv.Stats().AcceptErrors)
	assert.Len(t, log.with("level=ERROR", "boom"), 1)
}

// A panic in AppendFrame on another goroutine is that goroutine's; the session is as good as before.
func TestPanicInSend(t *testing.T) {
	t.Parallel()
	cfg := calm()
	angry := atomic.NewBool(true)
	cfg.NewCodec = func() codec.Codec {
		return mad{append: func(b []byte, f codec.Frame) ([]byte, error) {
			if angry.Load() {
				panic("boom")
			}
			return codec.Binary{}.AppendFrame(b, f)
		}}
	}
	_, cl, s := open(t, newRecorder(), cfg)
	assert.PanicsWithValue(t, "boom", func() { _ = s.Send([]byte("x")) })
	angry.Store(false)
	require.NoError(t, s.Send([]byte("y")))
	assert.Equal(t, []string{"y"}, cl.data(t, 1))
	cl.echoes(t)
}
