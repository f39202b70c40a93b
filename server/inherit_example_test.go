package server_test

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"

	"github.com/pulsewheel/pulsewheel/server"
)

// inherited returns the listeners of a socket unit of systemd, by the protocol of sd_listen_fds(3): the
// sockets are descriptors 3 and up, LISTEN_FDS says how many, and LISTEN_PID for which process.
func inherited() ([]net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("LISTEN_PID is not this process: nobody passes it sockets")
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 {
		return nil, fmt.Errorf("LISTEN_FDS is %q, not a number of sockets", os.Getenv("LISTEN_FDS"))
	}
	var lns []net.Listener
	for fd := 3; fd < 3+n; fd++ {
		f := os.NewFile(uintptr(fd), "LISTEN_FD_"+strconv.Itoa(fd))
		ln, err := net.FileListener(f) // a duplicate, closed on exec
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", fd, err)
		}
		lns = append(lns, ln)
	}
	return lns, nil
}

// A server that systemd starts when the first client comes. Its unit is of Type=simple, next to a socket unit
// with ListenStream=7070 (or a path, for a Unix socket) and Accept=no. While the service restarts, systemd keeps the socket, and
// clients wait in its queue: none is refused.
func ExampleServer_Serve_inherited() {
	lns, err := inherited()
	if err != nil {
		log.Fatal(err)
	}
	srv, err := server.New(echo{}, server.Config{})
	if err != nil {
		log.Fatal(err)
	}
	for _, ln := range lns[1:] {
		go func() { _ = srv.Serve(ln) }()
	}
	log.Fatal(srv.Serve(lns[0]))
}
