// Package servers has the servers of this repository's own measurements, as roles for package rig: raw
// epoll, gnet as an author uses it by hand, and the library with and without liveness. They echo
// frames of codec.Binary; those of many send to all their sessions instead.
package servers

import (
	"encoding/binary"
	"flag"
	"os"
	"strconv"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/codec"
)

// The roles.
const (
	Epoll      = "epoll"      // Linux only
	Pings      = "pings"      // epoll that sends the library's Pings and does nothing else of liveness; Linux only
	Gnet       = "gnet"       //
	Pulsewheel = "pulsewheel" // liveness on, as always
	Unwatched  = "unwatched"  // pulsewheel with a judge who finds everybody alive

	EpollMany      = "epoll-many"      // broadcasts only; Linux only
	GnetMany       = "gnet-many"       // echoes nothing: it sends when a Push asks it to
	PulsewheelMany = "pulsewheel-many" // the same, liveness on
)

// Options of a server.
type Options struct {
	Loops    int           // if zero, 1
	Interval time.Duration // of the heartbeat policy; if zero, the default
}

// Register gives the roles to the rig. It is called before rig.Main.
func Register() {
	rig.Role(Epoll, role(func(o Options) { serveEpoll(o, false) }))
	rig.Role(Pings, role(func(o Options) { serveEpoll(o, true) }))
	rig.Role(Gnet, role(serveGnet))
	rig.Role(Pulsewheel, role(func(o Options) { servePulsewheel(o, true) }))
	rig.Role(Unwatched, role(func(o Options) { servePulsewheel(o, false) }))
	rig.Role(EpollMany, role(serveEpollMany))
	rig.Role(GnetMany, role(serveGnetMany))
	rig.Role(PulsewheelMany, role(servePulsewheelMany))
}

// Server is a server in one of the roles. GOMAXPROCS and CPUs are left to be filled in.
func Server(name string, o Options) rig.Server {
	return rig.Server{Role: name, Args: []string{"-loops", strconv.Itoa(max(o.Loops, 1)), "-interval", o.Interval.String()}}
}

// role reads what Server has written.
func role(serve func(Options)) func(args []string) {
	return func(args []string) {
		var o Options
		flags := flag.NewFlagSet(os.Args[0], flag.ExitOnError)
		flags.IntVar(&o.Loops, "loops", 1, "event loops")
		flags.DurationVar(&o.Interval, "interval", 0, "interval of the heartbeat policy; zero: the default")
		_ = flags.Parse(args)
		serve(o)
	}
}

// whole returns how many bytes of b are whole frames.
func whole(b []byte) int {
	n := 0
	for len(b)-n >= codec.HeaderSize {
		size := codec.HeaderSize + int(binary.BigEndian.Uint32(b[n:])&0xffffff)
		if len(b)-n < size {
			break
		}
		n += size
	}
	return n
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
