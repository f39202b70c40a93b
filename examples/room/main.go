// Command room is a chat room: what one client says, all hear. Who goes is announced with the reason.
//
//	go run ./examples/room -addr :7070
package main

import (
	"flag"
	"fmt"
	"log"

	"github.com/pulsewheel/pulsewheel/server"
)

// room is the Handler. All its sessions are in one group.
type room struct {
	server.Base
	all server.Group
}

// OnOpen lets a client in.
func (r *room) OnOpen(s *server.Session) error {
	if err := r.all.Join(s); err != nil {
		return err
	}
	return r.say("%d has come, %d are here", s.ID(), r.all.Len())
}

// OnMessage passes on what a client says.
func (r *room) OnMessage(s *server.Session, p []byte) error { return r.say("%d: %s", s.ID(), p) }

// OnSuspect tells the others that somebody may be gone.
func (r *room) OnSuspect(s *server.Session, why server.Suspicion) {
	_ = r.say("%d may be gone (%v)", s.ID(), why)
}

// OnRecover tells them that it was not so.
func (r *room) OnRecover(s *server.Session) { _ = r.say("%d is back", s.ID()) }

// OnClose tells them why somebody went, who has left the group by now.
func (r *room) OnClose(s *server.Session, end *server.CloseError) {
	log.Println(s.ID(), end, end.Record)
	_ = r.say("%d has gone: %v", s.ID(), end.Reason)
}

// say tells all. That some who do not read missed it is not the fault of who spoke: the server ends
// them before long (PeerSlow).
func (r *room) say(format string, args ...any) error {
	if err := r.all.Broadcast(fmt.Appendf(nil, format, args...)); err != nil {
		log.Println(err)
	}
	return nil
}

func main() {
	addr := flag.String("addr", ":7070", "where to listen")
	flag.Parse()
	srv, err := server.New(&room{}, server.Config{})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(srv.ListenAndServe(*addr))
}
