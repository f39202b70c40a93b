// Command minimal is the server at the top of the README: it echoes, and says why each client went.
package main

import (
	"github.com/pulsewheel/pulsewheel/server"
	"log"
)

type game struct{ server.Base }

func (game) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

func (game) OnClose(s *server.Session, end *server.CloseError) { log.Println(s.ID(), end, end.Record) }

func main() {
	srv, err := server.New(game{}, server.Config{})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(srv.ListenAndServe(":7070"))
}
