// Package sockstat asks the kernel about one socket, by file descriptor: TCP_INFO, what waits to be
// read, what waits to be acknowledged, and the options by which the kernel itself watches a peer.
//
// Every call is one system call that does not block. A descriptor is only a number: the caller must
// know that it is still open and still the socket that is meant.
//
// On systems other than Linux most of it answers ErrUnknown, never a guess.
package sockstat

import (
	"errors"
	"time"
)

// ErrUnknown is the answer where the system, or the kind of socket, cannot tell.
var ErrUnknown = errors.New("sockstat: not known on this system or kind of socket")

// A TCPState is the state of a TCP connection as Linux numbers it (include/net/tcp_states.h).
// 0 is "not known".
type TCPState uint8

// The states, in the kernel's numbering.
const (
	Established TCPState = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
)

var stateNames = [...]string{"unknown", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
	"TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"}

// String returns the name that ss(8) and the kernel's headers use, or "unknown".
func (s TCPState) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return stateNames[0]
}

// MarshalText makes the state its name in JSON and logs.
func (s TCPState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// TCPInfo is the part of the kernel's struct tcp_info (include/uapi/linux/tcp.h) that tells how a
// peer is. The zero value, with State 0, means that nothing is known.
//
// Once a connection has been reset or has timed out the kernel clears Unacked, Retransmits, Backoff
// and Probes; LastDataRecv, LastAckRecv and SndWnd survive. So a sample is worth keeping while the
// connection lives.
type TCPInfo struct {
	State        TCPState      `json:"state"`
	RTT          time.Duration `json:"rtt"`     // smoothed
	RTTVar       time.Duration `json:"rtt_var"` // mean deviation
	RTTMin       time.Duration `json:"rtt_min"` // the least of late; 0 on kernels before 4.6
	RTO          time.Duration `json:"rto"`     // retransmission timeout, backed off
	Unacked      uint32        `json:"unacked"` // segments sent and not acknowledged
	Retransmits  uint32        `json:"retransmits"`
	Backoff      uint32        `json:"backoff"`
	Probes       uint32        `json:"probes"` // keepalive or zero-window probes unanswered
	TotalRetrans uint32        `json:"total_retrans"`
	LastDataSent time.Duration `json:"last_data_sent"` // ago
	LastDataRecv time.Duration `json:"last_data_recv"` // ago
	LastAckRecv  time.Duration `json:"last_ack_recv"`  // ago
	SndWnd       uint32        `json:"snd_wnd"`        // bytes the peer is ready to take, if SndWndKnown
	SndWndKnown  bool          `json:"snd_wnd_known"`  // false on kernels before 5.4, which do not tell SndWnd
	SndMSS       uint32        `json:"snd_mss"`        // bytes of a full segment
	NotSent      uint32        `json:"notsent"`        // bytes in the send queue never sent
}

// Known tells whether i is a sample at all.
func (i TCPInfo) Known() bool { return i.State != 0 }

// Options are the per-socket settings of an accepted connection. A zero duration leaves the setting
// as it is.
type Options struct {
	KeepIdle     time.Duration // TCP_KEEPIDLE; rounded up to whole seconds, at least 1 (tcp(7))
	KeepInterval time.Duration // TCP_KEEPINTVL; likewise
	UserTimeout  time.Duration // TCP_USER_TIMEOUT (RFC 5482); milliseconds
}

// wholeSeconds rounds d up to whole seconds, at least 1: the unit of TCP_KEEPIDLE and TCP_KEEPINTVL.
func wholeSeconds(d time.Duration) int {
	return max(1, int((d+time.Second-1)/time.Second))
}
