package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// reporter writes what happens on stdout, a line each. The loops share it, so each line is one write
// under a lock; and it is there when print returns, for whoever waits at the other end.
type reporter struct {
	json bool

	mu sync.Mutex // guards w
	w  io.Writer
}

// event is one line in either form: a struct for package json, whose fields give the order of its
// keys, and a String for people.
type event interface{ String() string }

func (r *reporter) print(e event) {
	var b strings.Builder
	if r.json {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(e); err != nil {
			panic(err) // one of the types below is wrong
		}
	} else {
		b.WriteString(e.String())
		b.WriteByte('\n')
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = io.WriteString(r.w, b.String())
}

type listening struct {
	Msg  string `json:"msg"`
	Addr string `json:"addr"`
}

// newListening gives the address in a form that -listen takes.
func newListening(a net.Addr) *listening {
	addr := a.String()
	if a.Network() == "unix" {
		addr = "unix://" + addr
	}
	return &listening{"listening", addr}
}

func (l *listening) String() string { return "listening on " + l.Addr }

// about is the beginning of every line about a session, and all of "opened" and "recovered".
type about struct {
	Msg     string `json:"msg"`
	Session uint64 `json:"session"`
	Peer    string `json:"peer"`
}

func (a *about) String() string { return fmt.Sprintf("session %d (%s) %s", a.Session, a.Peer, a.Msg) }

// peerOf names the peer; one on a Unix socket has no address.
func peerOf(s *server.Session) string {
	if a := s.RemoteAddr(); a.IsValid() {
		return a.String()
	}
	return "unix"
}

type suspect struct {
	about
	Why string `json:"why"`
}

func (s *suspect) String() string { return s.about.String() + ": " + s.Why }

// closed is a session's end with its whole record. Milliseconds are whole, rounded down.
type closed struct {
	about
	Reason          string `json:"reason"`
	Detail          string `json:"detail"`
	Errno           string `json:"errno"` // "" if there was none
	AfterMS         int64  `json:"after_ms"`
	IdleMS          int64  `json:"idle_ms"`
	Syscall         string `json:"syscall"`
	PeerCode        uint16 `json:"peer_code"`
	BytesIn         uint64 `json:"bytes_in"`
	BytesOut        uint64 `json:"bytes_out"`
	FramesIn        uint64 `json:"frames_in"`
	FramesOut       uint64 `json:"frames_out"`
	RTTus           int64  `json:"rtt_us"`
	PingsUnanswered int    `json:"pings_unanswered"`
	Unsent          int    `json:"unsent"`
	Reset           bool   `json:"reset"`
	TCPState        string `json:"tcp_state"`
	TCP             *tcp   `json:"tcp"` // null if nothing is known

	end *server.CloseError
}

// tcp is the last sample of the kernel's counters, taken AgeMS before the end.
type tcp struct {
	State          string `json:"state"`
	RTTus          int64  `json:"rtt_us"`
	RTTVarUS       int64  `json:"rtt_var_us"`
	Unacked        uint32 `json:"unacked"`
	Retransmits    uint32 `json:"retransmits"`
	Backoff        uint32 `json:"backoff"`
	Probes         uint32 `json:"probes"`
	TotalRetrans   uint32 `json:"total_retrans"`
	LastDataSentMS int64  `json:"last_data_sent_ms"`
	LastDataRecvMS int64  `json:"last_data_recv_ms"`
	LastAckRecvMS  int64  `json:"last_ack_recv_ms"`
	SndWnd         uint32 `json:"snd_wnd"`
	NotSent        uint32 `json:"notsent"`
	AgeMS          int64  `json:"age_ms"`
}

func newClosed(s *server.Session, end *server.CloseError) *closed {
	call, errno := end.Errno()
	r := &end.Record
	c := &closed{
		about:  about{"closed", s.ID(), peerOf(s)},
		Reason: end.Reason.String(), Detail: end.Detail, AfterMS: r.Age.Milliseconds(), IdleMS: r.Idle.Milliseconds(),
		Syscall: call, PeerCode: uint16(end.PeerCode),
		BytesIn: r.BytesIn, BytesOut: r.BytesOut, FramesIn: r.FramesIn, FramesOut: r.FramesOut,
		RTTus: r.RTT.Microseconds(), PingsUnanswered: r.Pings, Unsent: r.Unsent, Reset: r.Reset, TCPState: r.TCPState.String(),
		end: end,
	}
	if errno != 0 {
		c.Errno = errnoName(errno)
	}
	if ti := &r.TCP; ti.Known() {
		c.TCP = &tcp{
			State: ti.State.String(), RTTus: ti.RTT.Microseconds(), RTTVarUS: ti.RTTVar.Microseconds(),
			Unacked: ti.Unacked, Retransmits: ti.Retransmits, Backoff: ti.Backoff, Probes: ti.Probes, TotalRetrans: ti.TotalRetrans,
			LastDataSentMS: ti.LastDataSent.Milliseconds(), LastDataRecvMS: ti.LastDataRecv.Milliseconds(),
			LastAckRecvMS: ti.LastAckRecv.Milliseconds(), SndWnd: ti.SndWnd, NotSent: ti.NotSent, AgeMS: r.TCPAge.Milliseconds(),
		}
	}
	return c
}

func (c *closed) String() string {
	s := fmt.Sprintf("%v after %v: %s", &c.about, c.end.Record.Age.Round(time.Millisecond), c.Reason)
	if c.PeerCode != 0 {
		s += fmt.Sprintf(" %d", c.PeerCode)
	}
	if c.Detail != "" {
		s += fmt.Sprintf(" %q", c.Detail) // quoted: it may be the peer's
	}
	if c.Errno != "" {
		s += fmt.Sprintf(" (%s: %s)", c.Syscall, c.Errno)
	}
	return s + "; " + c.end.Record.String()
}

// drained is the last line. Who was refused never had a session and is not among the closed.
type drained struct {
	Msg     string            `json:"msg"`
	Opened  uint64            `json:"opened"`
	Closed  uint64            `json:"closed"`
	Refused uint64            `json:"refused"`
	Reasons map[string]uint64 `json:"reasons"`
}

func newDrained(n server.Stats) *drained {
	d := &drained{"drained", n.Opened, n.Closed, n.Refused, map[string]uint64{}}
	for r, count := range n.Reasons {
		d.Reasons[r.String()] = count
	}
	return d
}

func (d *drained) String() string {
	s := fmt.Sprintf("drained: %d opened, %d closed, %d refused", d.Opened, d.Closed, d.Refused)
	for _, name := range slices.Sorted(maps.Keys(d.Reasons)) {
		s += fmt.Sprintf(", %s %d", name, d.Reasons[name])
	}
	return s
}
