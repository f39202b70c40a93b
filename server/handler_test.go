package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// with returns the lines that contain all of parts.
func (l *lines) with(parts ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.all.String()) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			found = append(found, line)
		}
	}
	return found
}

// counted returns how many lines there are of a kind, those included that were held back.
func (l *lines) counted(t testing.TB, kind string) (n int) {
	for _, line := range l.with(fmt.Sprintf("msg=%q", kind)) {
		if _, after, ok := strings.Cut(line, "suppressed="); ok {
			var held int
			_, err := fmt.Sscan(after, &held)
			require.NoError(t, err)
			n += held
		} else {
			n++
		}
	}
	return n
}

// saboteur panics in one method, for the second session.
type saboteur struct {
	*recorder
	in string
}

func (b saboteur) sabotage(method string, s *server.Session) {
	if b.in == method && s.ID() == 2 {
		panic("boom")
	}
}

func (b saboteur) OnOpen(s *server.Session) error {
	_ = b.recorder.OnOpen(s)
	b.sabotage("OnOpen", s)
	return nil
}

func (b saboteur) OnMessage(s *server.Session, p []byte) error {
	b.sabotage("OnMessage", s)
	return b.recorder.OnMessage(s, p)
}

func (b saboteur) OnSuspect(s *server.Session, why server.Suspicion) {
	b.recorder.OnSuspect(s, why)
	b.sabotage("OnSuspect", s)
}

func (b saboteur) OnRecover(s *server.Session) {
	b.recorder.OnRecover(s)
	b.sabotage("OnRecover", s)
}

func (b saboteur) OnClose(s *server.Session, end *server.CloseError) {
	b.recorder.OnClose(s, end)
	b.sabotage("OnClose", s)
}

// A panic ends the session in whose name it happened, with its stack in the log, and no other.
func TestPanics(t *testing.T) {
	t.Parallel()
	speak := func(t *testing.T, cl *client, _ *server.Session) { cl.send(t, codec.Data, []byte("hi")) }
	quiet := func(*testing.T, *client, *server.Session) {}
	cases := map[string]func(*testing.T, *client, *server.Session){
		"OnOpen": quiet, "OnMessage": speak, "OnSuspect": quiet, "OnClose": func(_ *testing.T, cl *client, _ *server.Session) { cl.Close() },
		"OnRecover": func(t *testing.T, cl *client, s *server.Session) {
			cl.readUntil(t, codec.Ping)
			cl.readUntil(t, codec.Ping) // sent with the suspicion
			speak(t, cl, s)
		},
		"Post": func(t *testing.T, _ *client, s *server.Session) { assert.NoError(t, s.Post(func() { panic("boom") })) },
		"After": func(_ *testing.T, _ *client, s *server.Session) {
			s.After(time.Millisecond, func() { panic("boom") })
		},
	}
	for in, act := range cases {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			log := &lines{}
			cfg := quick()
			cfg.Loops, cfg.Logger = 1, log.logger()
			h := newRecorder()
			srv := start(t, saboteur{h, in}, cfg)
			witness := dial(t, srv)
			other := h.nextOpen(t)
			cl := dial(t, srv)
			s := h.nextOpen(t)
			require.EqualValues(t, 2, s.ID())
			beating := make(chan struct{})
			go func() { defer close(beating); _, _ = witness.beat() }()
			act(t, cl, s)
			where := in
			if in == "After" {
				where = "Post" // both are work brought to the loop
			}
			if in != "OnClose" {
				code, text, err := codec.ParseGoodbye(cl.readUntil(t, codec.Goodbye).Payload)
				require.NoError(t, err)
				assert.EqualValues(t, server.HandlerFailed, code)
				assert.Empty(t, text, "what went wrong inside is not the client's")
				cl.Close()
			}
			e := h.nextClose(t)
			require.Same(t, s, e.s)
			if in == "OnClose" {
				assert.Equal(t, server.PeerClosed, e.end.Reason)
			} else {
				assert.Equal(t, server.HandlerFailed, e.end.Reason)
				assert.ErrorContains(t, e.end, "panic in "+where+": boom")
			}
			<-s.Done()
			assert.Len(t, log.with("level=ERROR", "panic", "in="+where, "session=2", "boom", "handler_test.go"), 1)
			assert.Len(t, log.with("level=ERROR"), 1)
			assert.Same(t, other, srv.Session(1))
			dial(t, srv).echoes(t)
			assert.ErrorIs(t, s.Send(nil), e.end.Reason)
			witness.Close()
			<-beating
		})
	}
}

// What OnOpen and OnMessage return decides on the end.
func TestHandlerErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("the database is away")
	for _, c := range []struct {
		give   error
		want   server.Reason
		detail string
		cause  error
		reset  bool
	}{
		{give: server.ServerClosed, want: server.ServerClosed},
		{give: server.AppReason + 7, want: 1007},
		{give: fmt.Errorf("banned until May: %w", server.AppReason), want: 1000, detail: "banned until May: app_1000"},
		{give: errors.Join(broken, server.SessionReplaced), want: server.SessionReplaced, detail: "the database is away\nsession_replaced"},
		{give: fmt.Errorf("no JSON: %w", server.PeerProtocol), want: server.PeerProtocol, detail: "no JSON: peer_protocol", reset: true},
		{give: server.PeerFlood, want: server.PeerFlood, reset: true},
		{give: broken, want: server.HandlerFailed, cause: broken},
		{give: fmt.Errorf("loading: %w", broken), want: server.HandlerFailed, cause: broken},
		{give: server.ServerFull, want: server.HandlerFailed, cause: server.ServerFull},
		{give: server.Reason(450), want: server.HandlerFailed, cause: server.Reason(450)},
		{give: server.PeerReset, want: server.HandlerFailed, cause: server.PeerReset}, // only the library can know
		{give: server.PathDead, want: server.HandlerFailed, cause: server.PathDead},
		{give: net.ErrClosed, want: server.HandlerFailed, cause: net.ErrClosed},
	} {
		for _, in := range []string{"OnOpen", "OnMessage"} {
			if in == "OnOpen" && c.reset {
				continue // the RST may overtake the client's connect(2)
			}
			h := newRecorder()
			if in == "OnOpen" {
				h.onOpen = func(*server.Session) error { return c.give }
			} else {
				h.onMessage = func(*server.Session, []byte) error { return c.give }
			}
			_, cl, s := open(t, h, calm())
			if in == "OnMessage" {
				cl.send(t, codec.Data, nil)
			}
			code, text, err := codec.ParseGoodbye(cl.readUntil(t, codec.Goodbye).Payload)
			require.NoError(t, err)
			assert.Equal(t, c.want, server.Reason(code), "%v from %s", c.give, in)
			assert.Equal(t, c.detail, text)
			if c.reset {
				_, err = cl.read()
				assert.True(t, isReset(err), "an RST follows, not %v", err)
			}
			cl.Close()
			e := h.nextClose(t)
			require.Same(t, s, e.s)
			assert.Equal(t, c.want, e.end.Reason, "%v from %s", c.give, in)
			assert.Equal(t, c.detail, e.end.Detail)
			assert.Equal(t, c.reset, e.end.Record.Reset)
			if c.cause != nil {
				assert.ErrorIs(t, e.end.Err, c.cause)
			} else {
				assert.NoError(t, e.end.Err)
			}
		}
	}
}

// A handler may write over the payload and append to it: the next message is untouched.
func TestPayloadIsBounded(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	h.onMessage = func(s *server.Session, p []byte) error {
		defer func() {
			copy(p, "########")
			_ = append(p, "########"...)
		}()
		return s.Send(p)
	}
	_, cl, _ := open(t, h, calm())
	_, err := cl.Write(slices.Concat(frame(codec.Data, []byte("one")), frame(codec.Data, []byte("two")), frame(codec.Data, []byte("three"))))
	require.NoError(t, err)
	assert.Equal(t, []string{"one", "two", "three"}, cl.data(t, 3))
}

func TestPostOrder(t *testing.T) {
	t.Parallel()
	const posters, each = 8, 500
	_, _, s := open(t, newRecorder(), calm())
	var got [posters][]int // the loop's
	var all sync.WaitGroup
	for id := range posters {
		all.Go(func() {
			for i := range each {
				assert.NoError(t, s.Post(func() { got[id] = append(got[id], i) }))
			}
		})
	}
	all.Wait()
	want := make([]int, each)
	for i := range want {
		want[i] = i
	}
	onLoop(t, s, func() {
		for id := range posters {
			assert.Equal(t, want, got[id])
		}
	})
}

func TestPostWhenTheSessionEnds(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	srv, cl, s := open(t, h, calm())
	release := hold(t, s)
	ran := make(chan string, 3)
	require.NoError(t, s.Post(func() { ran <- "posted before the end" }))
	require.NoError(t, s.Close(server.PeerFlood, ""))
	err := s.Post(func() { ran <- "posted after the end" })
	assert.ErrorIs(t, err, server.PeerFlood)
	assert.ErrorIs(t, err, net.ErrClosed)
	release()
	h.nextClose(t)
	assert.ErrorIs(t, s.Post(func() { ran <- "posted long after the end" }), server.PeerFlood)
	assert.Equal(t, "posted before the end", within(t, ran, "the post"))
	cl.readUntil(t, codec.Goodbye)
	require.NoError(t, srv.Close())
	assert.Empty(t, ran)
}

// Every Post that returned nil runs once, whatever ends the session or the server meanwhile.
func TestPostExactlyOnce(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*server.Server, *client, *server.Session){
		"the client leaves":  func(_ *server.Server, cl *client, _ *server.Session) { cl.Close() },
		"the session closes": func(_ *server.Server, _ *client, s *server.Session) { _ = s.Close(server.PeerFlood, "") },
		"the server closes":  func(srv *server.Server, _ *client, _ *server.Session) { _ = srv.Close() },
	} {
		for range 3 {
			srv, cl, s := open(t, newRecorder(), calm())
			taken, ran := atomic.NewInt64(0), atomic.NewInt64(0)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for {
						if err := s.Post(func() { ran.Inc() }); err != nil {
							assert.ErrorIs(t, err, net.ErrClosed)
							return
						}
						taken.Inc()
					}
				})
			}
			for ran.Load() == 0 {
				runtime.Gosched()
			}
			end(srv, cl, s)
			all.Wait()
			require.NoError(t, srv.Close())
			assert.Equal(t, taken.Load(), ran.Load(), name)
		}
	}
}

func TestDone(t *testing.T) {
	t.Parallel()
	h := newRecorder()
	let := make(chan struct{})
	inClose := make(chan struct{})
	wait := sync.OnceFunc(func() { close(inClose); <-let })
	h.onClose = func(*server.Session, *server.CloseError) { wait() }
	srv, cl, s := open(t, h, calm())
	done := s.Done()
	assert.Equal(t, done, s.Done())
	cl.Close()
	<-inClose
	select {
	case <-done:
		assert.Fail(t, "Done before OnClose has returned")
	default:
	}
	close(let)
	<-done
	assert.Equal(t, done, s.Done())

	h.nextClose(t)
	cl = dial(t, srv)
	s = h.nextOpen(t)
	cl.Close()
	h.nextClose(t)
	select { // first asked for after the end
	case <-s.Done():
	case <-time.After(10 * time.Second): // OnClose is about to return
		assert.Fail(t, "Done is not closed")
	}
}
