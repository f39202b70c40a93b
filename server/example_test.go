package server_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// echo answers each message with itself, and tells why each client went.
type echo struct{ server.Base }

func (echo) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

func (echo) OnClose(s *server.Session, end *server.CloseError) { fmt.Println(s.ID(), "gone:", end) }

// A whole server.
func ExampleServer_ListenAndServe() {
	srv, err := server.New(echo{}, server.Config{})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(srv.ListenAndServe("tcp://:7070"))
}

// A server on a listener of its own, and a client that has nothing but a socket: 4 bytes of header
// are all there is to a message.
func Example() {
	srv, err := server.New(echo{}, server.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := server.Listen("tcp://127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()

	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	reply := make([]byte, 9)
	_, _ = nc.Write([]byte("\x01\x00\x00\x05hello"))
	_, _ = io.ReadFull(nc, reply)
	fmt.Println(string(reply[4:]))
	_, _ = nc.Write([]byte("\x04\x00\x00\x0e\x00\x00time for bed"))
	_ = nc.Close() // the client always closes first
	for srv.Stats().Closed == 0 {
		time.Sleep(time.Millisecond)
	}

	_ = srv.Close()
	fmt.Println(errors.Is(<-served, server.ErrServerClosed))
	// Output:
	// hello
	// 1 gone: peer_goodbye 0: "time for bed"
	// true
}

func ExampleReason() {
	err := error(server.PeerFrozen)
	fmt.Println(err, uint16(server.PeerFrozen), errors.Is(err, net.ErrClosed))
	fmt.Println(server.AppReason + 7)
	// Output:
	// peer_frozen 201 true
	// app_1007
}

func ExampleCloseError() {
	var err error = &server.CloseError{Reason: server.PeerReset, Err: syscall.ECONNRESET}
	var end *server.CloseError
	switch {
	case errors.Is(err, server.PeerGoodbye):
		fmt.Println("it left")
	case errors.Is(err, syscall.ECONNRESET) && errors.As(err, &end):
		fmt.Println(end.Reason)
	}
	// Output: peer_reset
}

// A phone that goes into the background is given more time; it is asked less often, too.
func ExampleSession_SetPolicy() {
	toBackground := func(s *server.Session) error {
		return s.SetPolicy(heartbeat.Policy{Interval: time.Minute, Timeout: 5 * time.Minute})
	}
	_ = toBackground
}

// Slow work leaves the event loop, and its result comes back to it.
func ExampleSession_Post() {
	load := func(s *server.Session, name string) {
		go func() {
			time.Sleep(time.Millisecond) // the database
			_ = s.Post(func() { s.SetValue(name) })
		}()
	}
	_ = load
}

// A limit on the payload, and a game's own reason.
func ExampleNew() {
	_, err := server.New(server.Base{}, server.Config{PayloadMax: codec.PayloadLimit + 1})
	fmt.Println(err)
	// Output: server: Config.PayloadMax: 16777216 is not between 0 and 16777215
}

// lobby is a Handler all of whose clients hear what one of them says.
type lobby struct {
	server.Base
	all server.Group
}

func (l *lobby) OnOpen(s *server.Session) error { return l.all.Join(s) }

func (l *lobby) OnMessage(_ *server.Session, p []byte) error {
	if err := l.all.Broadcast(p); err != nil {
		log.Println(err) // somebody's backlog is full: no fault of who spoke
	}
	return nil
}

// A Group needs no making, and a session that ends has left it when OnClose is called.
func ExampleGroup() {
	srv, err := server.New(&lobby{}, server.Config{})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(srv.ListenAndServe("tcp://:7070"))
}
