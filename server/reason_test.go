package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/internal/sockstat"
	"github.com/pulsewheel/pulsewheel/server"
)

// reasons is the table of PROTOCOL.md: numbers and names are part of the wire format and never change.
var reasons = []struct {
	reason server.Reason
	number uint16
	name   string
}{
	{server.PeerClosed, 100, "peer_closed"},
	{server.PeerGoodbye, 101, "peer_goodbye"},
	{server.PeerReset, 102, "peer_reset"},
	{server.PeerProtocol, 103, "peer_protocol"},
	{server.PeerSlow, 104, "peer_slow"},
	{server.PeerFlood, 105, "peer_flood"},
	{server.PeerUnready, 106, "peer_unready"},
	{server.PeerStalledFrame, 107, "peer_stalled_frame"},
	{server.HeartbeatLost, 200, "heartbeat_lost"},
	{server.PeerFrozen, 201, "peer_frozen"},
	{server.PathDead, 202, "path_dead"},
	{server.PathUnreachable, 203, "path_unreachable"},
	{server.ServerClosed, 300, "server_closed"},
	{server.ServerShutdown, 301, "server_shutdown"},
	{server.SessionReplaced, 302, "session_replaced"},
	{server.HandlerFailed, 303, "handler_failed"},
	{server.ServerFull, 304, "server_full"},
	{server.Internal, 399, "internal"},
	{server.AppReason, 1000, "app_1000"},
	{server.AppReason + 7, 1007, "app_1007"},
	{server.Reason(65535), 65535, "app_65535"},
}

func TestReasons(t *testing.T) {
	t.Parallel()
	table := map[server.Reason]bool{}
	for _, c := range reasons {
		table[c.reason] = true
		assert.Equal(t, c.number, uint16(c.reason), c.name)
		assert.Equal(t, c.name, c.reason.String())
		assert.Equal(t, c.name, c.reason.Error())
		assert.True(t, c.reason.Known(), c.name)
		assert.ErrorIs(t, c.reason, net.ErrClosed)
		assert.ErrorIs(t, c.reason, c.reason)
		assert.NotErrorIs(t, c.reason, os.ErrNotExist)
		b, err := json.Marshal(c.reason)
		require.NoError(t, err)
		assert.Equal(t, `"`+c.name+`"`, string(b))
	}
	assert.NotErrorIs(t, server.PeerClosed, server.PeerReset, "a reason is no other reason")
	for n := server.Reason(0); n < server.AppReason; n++ {
		if table[n] {
			continue
		}
		assert.False(t, n.Known(), "%d", n)
		assert.Equal(t, fmt.Sprintf("reason_%d", uint16(n)), n.String())
	}

	// As keys they are names too: Stats as JSON.
	b, err := json.Marshal(server.Stats{Reasons: map[server.Reason]uint64{server.PathDead: 3, 1007: 1}})
	require.NoError(t, err)
	assert.Contains(t, string(b), `"app_1007":1`)
	assert.Contains(t, string(b), `"path_dead":3`)
}

func TestCloseError(t *testing.T) {
	t.Parallel()
	cause := fmt.Errorf("gnet: %w", os.NewSyscallError("read", syscall.ECONNRESET))
	end := &server.CloseError{Reason: server.PeerReset, Detail: "in the middle", Err: cause}
	err := fmt.Errorf("session 7: %w", end)
	assert.ErrorIs(t, err, server.PeerReset)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.ErrorIs(t, err, net.ErrClosed)
	assert.NotErrorIs(t, err, server.PeerClosed)
	assert.NotErrorIs(t, err, syscall.EPIPE)
	assert.Equal(t, []error{server.PeerReset, cause}, end.Unwrap())
	assert.Equal(t, "peer_reset: in the middle: gnet: read: connection reset by peer", end.Error())

	var got *server.CloseError
	require.True(t, errors.As(err, &got))
	assert.Same(t, end, got)
	var reason server.Reason
	require.True(t, errors.As(err, &reason))
	assert.Equal(t, server.PeerReset, reason)
	var sc *os.SyscallError
	require.True(t, errors.As(err, &sc))
	assert.Equal(t, "read", sc.Syscall)

	call, errno := end.Errno()
	assert.Equal(t, "read", call)
	assert.Equal(t, syscall.ECONNRESET, errno)

	bare := &server.CloseError{Reason: server.PeerFrozen}
	assert.Equal(t, "peer_frozen", bare.Error())
	assert.Equal(t, []error{server.PeerFrozen}, bare.Unwrap())
	call, errno = bare.Errno()
	assert.Empty(t, call)
	assert.Zero(t, errno)
	assert.ErrorIs(t, bare, net.ErrClosed)

	left := &server.CloseError{Reason: server.PeerGoodbye, PeerCode: 1042, Detail: "bye\nnow"}
	assert.Contains(t, left.Error(), "1042")
	assert.NotContains(t, left.Error(), "\n", "a stranger's text is quoted")

	naked := &server.CloseError{Reason: server.PathDead, Err: syscall.ETIMEDOUT} // an errno without its call
	call, errno = naked.Errno()
	assert.Empty(t, call)
	assert.Equal(t, syscall.ETIMEDOUT, errno)

	other := &server.CloseError{Reason: server.HandlerFailed, Err: errors.New("no such room")}
	call, errno = other.Errno()
	assert.Empty(t, call)
	assert.Zero(t, errno)
	assert.Equal(t, "handler_failed: no such room", other.Error())
}

func TestEndedError(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("to room 5: %w", &server.EndedError{Session: 7, Reason: server.PeerReset})
	assert.ErrorIs(t, err, server.PeerReset)
	assert.ErrorIs(t, err, net.ErrClosed)
	assert.NotErrorIs(t, err, server.PeerClosed)
	assert.ErrorContains(t, err, "session 7")
	assert.ErrorContains(t, err, "peer_reset")
	var reason server.Reason
	assert.False(t, errors.As(err, &reason), "another session's reason is not taken for one's own")
}

func TestRecordString(t *testing.T) {
	t.Parallel()
	line := server.Record{
		Age: 61*time.Second + 499*time.Microsecond, Idle: 1500 * time.Millisecond, BytesIn: 11, FramesIn: 2, BytesOut: 33, FramesOut: 4,
		Unsent: 5, RTT: 250 * time.Microsecond, Pings: 6, TCPState: sockstat.Close, TCP: server.TCPInfo{State: sockstat.CloseWait},
	}.String()
	assert.NotContains(t, line, "\n")
	for _, part := range []string{"age 1m1s", "idle 1.5s", "in 11 B/2 frames", "out 33 B/4 frames", "unsent 5 B", "rtt 250µs",
		"pings unanswered 6", "tcp CLOSE_WAIT"} {
		assert.Contains(t, line, part)
	}
	assert.Contains(t, server.Record{}.String(), "tcp unknown")
}

func TestTCPStateNames(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(server.Record{TCPState: sockstat.CloseWait, TCP: server.TCPInfo{State: sockstat.Established}})
	require.NoError(t, err)
	assert.Contains(t, string(b), `"TCPState":"CLOSE_WAIT"`)
	assert.Contains(t, string(b), `"state":"ESTABLISHED"`)
	assert.Equal(t, "silence", server.SuspectSilence.String())
	assert.Equal(t, "suspicion(9)", server.Suspicion(9).String())
}
