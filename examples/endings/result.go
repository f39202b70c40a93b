package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// result is what came of one case: a line of -json.
type result struct {
	Case    string          `json:"case"`
	Want    []server.Reason `json:"want"` // any of these
	Got     string          `json:"got"`  // "": none was told
	AfterMS float64         `json:"after_ms"`
	LimitMS float64         `json:"limit_ms"`
	OK      bool            `json:"ok"`

	NotBeforeMS float64 `json:"not_before_ms"` // the deadline
	Act         string  `json:"act"`
	Problem     string  `json:"problem,omitempty"`
	Detail      string  `json:"detail,omitempty"`
	Errno       string  `json:"errno,omitempty"`
	Heard       string  `json:"client_heard,omitempty"` // the Goodbye that it received
	HeldUpMS    float64 `json:"held_up_ms,omitempty"`   // by the machine; a part of limit_ms
	SuspectMS   float64 `json:"suspect_after_ms,omitempty"`
	Note        string  `json:"note,omitempty"`
	Reset       bool    `json:"reset"` // by the server
	Kernel      *kernel `json:"kernel,omitempty"`

	deadline bool
}

// kernel is the kernel's view at the end: the state at that moment, and what the last sample says.
type kernel struct {
	State       string  `json:"state"`
	Unacked     uint32  `json:"unacked"`
	Retransmits uint32  `json:"retransmits"`
	SndWnd      uint32  `json:"snd_wnd"`
	NotSent     uint32  `json:"notsent"`
	DataRecvMS  float64 `json:"last_data_recv_ms"`
	AckRecvMS   float64 `json:"last_ack_recv_ms"`
	SampleMS    float64 `json:"sample_age_ms"`
}

func newResult(e ending) result {
	return result{Case: e.name, Act: e.act, Want: e.want, deadline: e.deadline > 0,
		NotBeforeMS: milliseconds(e.deadline), LimitMS: milliseconds(e.limit())}
}

// milliseconds is d to the microsecond.
func milliseconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e3 }

// heldUp allows for how long the machine has held this process up.
func (r *result) heldUp(d time.Duration) {
	r.HeldUpMS = milliseconds(d)
	r.LimitMS += r.HeldUpMS
}

// problem notes that something was wrong; the first is the one that is shown.
func (r *result) problem(text string) {
	if r.Problem == "" {
		r.Problem = text
	}
}

// unexpected tells whether a reason has been told that is not wanted.
func (r *result) unexpected() bool {
	return r.Got != "" && !slices.ContainsFunc(r.Want, func(w server.Reason) bool { return w.String() == r.Got })
}

// judge decides: the right reason, not before its time, not after its limit, and no other problem.
func (r *result) judge() {
	switch {
	case r.Got == "":
		r.problem("no reason was told")
	case r.unexpected():
		r.Problem = strings.TrimSuffix("want "+join(r.Want, " or ")+"; "+r.Problem, "; ")
	case r.AfterMS < r.NotBeforeMS:
		r.problem(fmt.Sprintf("told too early: the deadline is %.0f ms", r.NotBeforeMS))
	case r.AfterMS > r.LimitMS:
		r.problem(fmt.Sprintf("told too late: the limit is %.0f ms", r.LimitMS))
	}
	r.OK = r.Problem == ""
}

// note keeps what is worth telling of a session's end.
func (r *result) note(end *server.CloseError) {
	r.Detail, r.Reset = end.Detail, end.Record.Reset
	if call, errno := end.Errno(); errno != 0 {
		r.Errno = strings.TrimSpace(call + " " + errno.Error())
	}
	if rec := end.Record; rec.TCP.Known() {
		r.Kernel = &kernel{State: rec.TCPState.String(), Unacked: rec.TCP.Unacked, Retransmits: rec.TCP.Retransmits,
			SndWnd: rec.TCP.SndWnd, NotSent: rec.TCP.NotSent, DataRecvMS: milliseconds(rec.TCP.LastDataRecv),
			AckRecvMS: milliseconds(rec.TCP.LastAckRecv), SampleMS: milliseconds(rec.TCPAge)}
	}
}

// view is what the kernel says, the most telling first.
func (r result) view() []string {
	k := r.Kernel
	if k == nil {
		return []string{"-"}
	}
	v := []string{k.State}
	if !r.deadline {
		return v
	}
	if k.SndWnd == 0 {
		v = append(v, "window 0")
	}
	switch {
	case k.Unacked == 0 && k.NotSent == 0:
		v = append(v, "all acked")
	case k.Unacked > 0:
		v = append(v, fmt.Sprintf("unacked %d", k.Unacked))
	}
	if k.Retransmits > 0 {
		v = append(v, fmt.Sprintf("retransmits %d", k.Retransmits))
	}
	if k.NotSent > 0 {
		v = append(v, fmt.Sprintf("%d KiB not sent", k.NotSent>>10))
	}
	return append(v, fmt.Sprintf("data %.0f ms ago", k.DataRecvMS), fmt.Sprintf("ack %.0f ms ago", k.AckRecvMS))
}

func (r result) writeJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

func join(list []server.Reason, sep string) string {
	var names []string
	for _, r := range list {
		names = append(names, r.String())
	}
	return strings.Join(names, sep)
}
