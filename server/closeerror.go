package server

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// A CloseError tells how a session ended: what OnClose is given. errors.Is finds in it the Reason,
// the errno if there was one, and net.ErrClosed.
type CloseError struct {
	Reason   Reason
	Detail   string // a sentence: the text of a Goodbye or of Close, or what exactly was found
	PeerCode Reason // the number in the peer's Goodbye; 0 unless Reason is PeerGoodbye
	// Err is the cause behind the reason, if there is one: a system call's error, a codec's, a handler's. If the session was to
	// end in good order and not all that was queued arrived, it says why not, as a *CloseError (PeerSlow, PathDead,
	// PeerReset) whose Reason errors.Is finds as well; Record.Unsent says how much that was.
	Err    error
	Record Record
}

// Error names the reason, the detail and the cause.
func (e *CloseError) Error() string {
	s := e.Reason.String()
	if e.Reason == PeerGoodbye {
		s += fmt.Sprintf(" %d: %q", uint16(e.PeerCode), e.Detail) // a stranger's text
	} else if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil && e.Err.Error() != e.Detail {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the Reason and, if there is one, the cause.
func (e *CloseError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Err}
}

// Errno returns the system call and the error number at the root of the end, or "" and 0.
func (e *CloseError) Errno() (call string, errno syscall.Errno) {
	if sc := (*os.SyscallError)(nil); errors.As(e.Err, &sc) {
		call = sc.Syscall
	}
	errors.As(e.Err, &errno)
	return call, errno
}

// A Record is the cause-of-death record of a session: what was known about it when it ended. It is
// a plain copy.
type Record struct {
	Age       time.Duration // from OnOpen to the end
	Idle      time.Duration // since the last inbound byte; to the grain of Config.Tick where TCP does not know better
	BytesIn   uint64        // bytes received, frame headers included
	BytesOut  uint64        // bytes given to the kernel or waiting for it
	FramesIn  uint64        // complete frames received
	FramesOut uint64        // frames sent or waiting
	RTT       time.Duration // smoothed Ping round trip; 0: never measured
	Pings     int           // Pings unanswered at the end
	Unsent    int           // bytes of BytesOut that are lost: never taken by the kernel, or not acknowledged when the server reset
	Reset     bool          // the server ended the connection with an RST

	TCPState sockstat.TCPState // of the connection at the very end; 0 on other systems
	TCP      TCPInfo           // the last sample taken while the connection lived, or, where none was needed, at its end (State tells); zero on other systems
	TCPAge   time.Duration     // how old that sample was at the end
}

// String puts the record in one line.
func (r Record) String() string {
	return fmt.Sprintf("age %v idle %v in %d B/%d frames out %d B/%d frames unsent %d B rtt %v pings unanswered %d tcp %v",
		r.Age.Round(time.Millisecond), r.Idle.Round(time.Millisecond), r.BytesIn, r.FramesIn, r.BytesOut, r.FramesOut,
		r.Unsent, r.RTT, r.Pings, r.TCP.State)
}

// TCPInfo is what the kernel knew of a connection; its fields are those of Linux's struct tcp_info.
type TCPInfo = sockstat.TCPInfo
