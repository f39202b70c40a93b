//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
	"github.com/pulsewheel/pulsewheel/codec"
)

// idleMax is the silence after which the servers give a client up, where they can be told. It is longer than
// the pause that a server has between two of its rounds, in which its clients say nothing.
const idleMax = 60 * time.Second

// A peer is a server that takes part.
type peer struct {
	name     string
	module   string // of Go, whose version is printed
	liveness string // how it finds out that a client is gone, as it is set here
	remark   string // how its server is written
	tlv      bool   // it has a framing of its own

	// One of these says what runs.
	serve func() (addr string, err error)                   // a role of this program; it serves until the process ends
	role  string                                            // a role of package servers
	build func(folder string) (command []string, err error) // a foreign program; the error says what is missing
}

// peers are all that take part; the first is what the others are compared with.
var peers = []peer{
	{
		name: "pulsewheel", role: servers.Pulsewheel,
		liveness: "Ping and Pong, timing wheel, the kernel's view of the path",
		remark:   "OnMessage and Send for each message; one write for what a read has brought",
	},
	{
		name: "gnet", module: "github.com/panjf2000/gnet/v2", role: servers.Gnet,
		liveness: "none",
		remark:   "all whole frames of an OnTraffic answered with one Write",
	},
	nbioPeer, netpollPeer, gevPeer, evioPeer, gettyPeer, zinxPeer, stdPeer, stdDeadlinePeer,
	cPeer, asioPeer, nettyPeer,
}

// register gives the roles to the rig.
func register() {
	servers.Register()
	for _, p := range peers {
		if p.serve == nil {
			continue
		}
		rig.Role(p.name, func([]string) {
			addr, err := p.serve()
			if err != nil {
				fmt.Fprintf(os.Stderr, "peers: %s: %v\n", p.name, err)
				os.Exit(1)
			}
			rig.Serving(addr, nil)
		})
	}
}

// server returns how the peer is started with one loop. What has to be compiled is compiled into folder.
func (p peer) server(folder string) (rig.Server, error) {
	switch {
	case p.serve != nil:
		return rig.Server{Role: p.name, GOMAXPROCS: 1}, nil
	case p.role != "":
		s := servers.Server(p.role, servers.Options{Loops: 1})
		s.GOMAXPROCS = 1
		return s, nil
	}
	command, err := p.build(folder)
	return rig.Server{Command: command}, err
}

// message encodes one message in the peer's framing.
func (p peer) message(payload []byte) []byte {
	if p.tlv {
		b := binary.BigEndian.AppendUint32(nil, zinxEcho)
		b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
		return append(b, payload...)
	}
	b, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: payload})
	if err != nil {
		panic(err)
	}
	return b
}

// title is the peer's name and version.
func (p peer) title() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || p.module == "" {
		return p.name
	}
	for _, m := range info.Deps {
		if m.Path == p.module {
			return p.name + " " + m.Version
		}
	}
	return p.name
}

// whole returns how many bytes of b are whole frames.
func whole(b []byte) int {
	n := 0
	for {
		size := need(b[n:])
		if size > len(b)-n {
			return n
		}
		n += size
	}
}

// need returns how many bytes the first frame of b has, or its header if that is not there yet.
func need(b []byte) int {
	if len(b) < codec.HeaderSize {
		return codec.HeaderSize
	}
	return codec.HeaderSize + int(binary.BigEndian.Uint32(b)&0xffffff)
}

// freeAddr returns an address for a framework that does not tell which port it was given.
func freeAddr() (*net.TCPAddr, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return ln.Addr().(*net.TCPAddr), ln.Close()
}

// await waits until addr can be connected to, for a framework that does not tell.
func await(addr string) error {
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		if time.Since(begun) > 10*time.Second {
			return err
		}
	}
}
