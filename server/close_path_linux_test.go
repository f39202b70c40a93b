package server_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

// A session that is closed in good order and cannot be written out says why not, and blames the
// peer only if the peer is reached.
func TestPathCloseHandshake(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		deaf bool // the client reads nothing, and its window is closed
		act  func(*line) error
		want []server.Reason
	}{
		{"cable cut", false, cutCable, dead},
		{"one way", false, oneWay, dead},
		{"link down", false, linkDown, []server.Reason{server.PathDead, server.PathUnreachable}},
		{"route gone", false, routeGone, []server.Reason{server.PathDead, server.PathUnreachable}},
		{"reads nothing", true, func(*line) error { return nil }, []server.Reason{server.PeerSlow}},
		{"reads nothing, cable cut", true, cutCable, dead},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab, err := netlab.New(1)
			if err != nil {
				t.Skipf("no network to break: %v", err)
			}
			t.Cleanup(func() { require.NoError(t, lab.Close()) })
			h := newRecorder()
			ln, err := lab.Listen(0)
			require.NoError(t, err)
			l := &line{lab: lab, h: h}
			l.c = dialFar(t, serveOn(t, h, brief(), ln), lab.Leg(0))
			l.s = h.nextOpen(t)
			if c.deaf {
				require.NoError(t, l.c.Conn.(*net.TCPConn).SetReadBuffer(16<<10))
				require.NoError(t, l.s.Send(make([]byte, 60_000)))
				require.NoError(t, l.s.Send(make([]byte, 60_000)))
				time.Sleep(400 * time.Millisecond)
			} else {
				l.c.echoes(t)
				go beats(l.c)
			}
			require.NoError(t, c.act(l))
			require.NoError(t, l.s.Send(make([]byte, 1000)))
			require.NoError(t, l.s.Close(server.SessionReplaced, "somebody else came"))
			e := h.nextClose(t)
			assert.Equal(t, server.SessionReplaced, e.end.Reason)
			assert.Positive(t, e.end.Record.Unsent)
			var why *server.CloseError
			if assert.ErrorAs(t, e.end.Err, &why, "%v", e.end) {
				assert.Contains(t, c.want, why.Reason, "%v; %+v", e.end, e.end.Record.TCP)
			}
		})
	}
}
