package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/server"
)

// options are the flags.
type options struct {
	listen string
	cfg    server.Config
	sink   bool
	stream time.Duration
	log    string
	flags  *flag.FlagSet
}

// parse reads the flags. What concerns the library's Config beyond a flag's own sense is left to
// server.New, see inFlags.
func parse(args []string) (*options, error) {
	o := &options{flags: flag.NewFlagSet("echo", flag.ContinueOnError)}
	fs, cfg := o.flags, &o.cfg
	fs.SetOutput(io.Discard) // the error is returned, and usage printed only if it is asked for
	fs.StringVar(&o.listen, "listen", "127.0.0.1:7070", "`address` to listen on: host:port, tcp://host:port or unix:///path; port 0 is any")
	span := func(d *time.Duration, name string, value, least time.Duration, zero bool, usage string) {
		*d = value
		fs.Var(&duration{d, least, zero}, name, usage)
	}
	span(&cfg.Policy.Interval, "interval", 5*time.Second, 1, false, "`silence` at which a peer is suspect; it is asked before")
	span(&cfg.Policy.Timeout, "timeout", 15*time.Second, 1, false, "`silence` at which a peer is dead")
	span(&cfg.HandshakeTimeout, "handshake", 10*time.Second, 1, false, "`time` from the connect to the first whole frame")
	span(&cfg.FrameTimeout, "frame", 10*time.Second, 1, false, "`time` from a frame's first byte to its last")
	span(&cfg.WriteTimeout, "write-timeout", 0, 0, true, "`time` in which a peer may take nothing of what waits for it; 0: as -timeout")
	span(&cfg.CloseTimeout, "close-timeout", 3*time.Second, 1, false, "`time` that a peer has for its FIN after a Goodbye")
	span(&cfg.Tick, "tick", 100*time.Millisecond, 1, false, "`grain` of the clock behind all of these, at most a quarter of -interval")
	fs.IntVar(&cfg.Loops, "loops", 0, "event loops, a `number`; 0: one for each core")
	fs.IntVar(&cfg.ConnsMax, "max-conns", 0, "most connections at a time, a `number`; 0: no limit")
	fs.IntVar(&cfg.BacklogMax, "backlog", 1<<20, "most `bytes` that may wait for a peer that does not read")
	fs.BoolVar(&o.sink, "sink", false, "take Data and send nothing back: without -stream only Pings are sent")
	span(&o.stream, "stream", 0, time.Millisecond, true, "send each session a Data frame of 100 bytes in each such `time`; 0: never")
	fs.StringVar(&o.log, "log", "text", "`form` of the lines on stdout: text or json")

	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("argument %q is left over: there are only flags", fs.Arg(0))
	}
	if o.log != "text" && o.log != "json" {
		return o, fmt.Errorf("-log: %q is neither text nor json", o.log)
	}
	if cfg.BacklogMax == 0 { // to the library that is "the default"
		return o, errors.New("-backlog: 0 leaves no room for a frame")
	}
	return o, nil
}

func (o *options) usage(w io.Writer) {
	fmt.Fprintln(w, "echo sends every Data frame back (not with -sink), and says who came and why each one went. Its flags:")
	o.flags.SetOutput(w)
	o.flags.PrintDefaults()
}

// duration is a flag that says what is wrong with its value.
type duration struct {
	d     *time.Duration
	least time.Duration
	zero  bool // 0 is right although it is less than least
}

// String implements flag.Value.
func (v *duration) String() string {
	if v.d == nil { // package flag asks a zero value
		return "0s"
	}
	return v.d.String()
}

// Set implements flag.Value; package flag puts flag and value before the error.
func (v *duration) Set(text string) error {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return errors.New("not a duration like 500ms or 5s")
	case d < 0:
		return errors.New("negative")
	case d == 0 && !v.zero:
		return errors.New("must be more than 0")
	case d != 0 && d < v.least:
		return fmt.Errorf("shorter than %v", v.least)
	}
	*v.d = d
	return nil
}

// Longer names come before those that they contain.
var flagOf = strings.NewReplacer("server: Config.", "", "Policy.", "",
	"HandshakeTimeout", "-handshake", "FrameTimeout", "-frame", "WriteTimeout", "-write-timeout", "CloseTimeout", "-close-timeout",
	"Interval", "-interval", "Timeout", "-timeout", "Tick", "-tick", "Loops", "-loops", "ConnsMax", "-max-conns",
	"BacklogMax", "-backlog", "of PayloadMax", "of the longest payload")

// inFlags puts what server.New says about a Config in terms of the flags.
func inFlags(err error) error { return errors.New(flagOf.Replace(err.Error())) }
