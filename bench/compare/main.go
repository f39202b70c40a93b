// Command compare prints how the library compares to what it is built upon.
package main

import (
	"fmt"
	"os"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
	"github.com/pulsewheel/pulsewheel/codec"
)

func main() {
	servers.Register()
	rig.Main()
	msg, _ := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: make([]byte, 64)})
	pl := rig.Apart(1)
	fmt.Println(pl.Note)
	for _, cell := range [][2]int{{1, 1}, {100, 1}, {1000, 1}, {1000, 16}} {
		var cs []rig.Candidate
		for _, k := range []struct {
			name, role string
			p          int
		}{{"epoll p1", servers.Epoll, 1}, {"epoll p2", servers.Epoll, 2}, {"gnet p1", servers.Gnet, 1}, {"gnet p2", servers.Gnet, 2}, {"pw p1", servers.Pulsewheel, 1}, {"pw p2", servers.Pulsewheel, 2}, {"off p2", servers.Unwatched, 2}} {
			s := servers.Server(k.role, servers.Options{Loops: 1})
			s.GOMAXPROCS, s.CPUs = k.p, pl.Server
			cs = append(cs, rig.Candidate{Name: k.name, Server: s, Load: load.Options{Conns: cell[0], Outstanding: cell[1], Message: msg, Pongs: true, CPUs: pl.Load}})
		}
		out := rig.Match{Rounds: 7}.Compare(cs)
		fmt.Println(cell)
		out.Print(os.Stdout, "gnet p2")
	}
}
