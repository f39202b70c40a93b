// Command hotrestart is a server that is replaced by a new version of itself while clients come and stay:
//
//	go build && ./hotrestart -listen :7070 -pidfile hotrestart.pid &
//	kill -HUP $(cat hotrestart.pid)     # as often as you like: after go build, say
//	kill -TERM $(cat hotrestart.pid)    # the end
//
// On SIGHUP it starts its own file again, which inherits the listening socket (github.com/cloudflare/tableflip).
// When the new process is ready to serve, the old one drains: its sessions are told server_shutdown and when to come back, and come to the
// new one. No connect is refused meanwhile, for there is one listening socket with one queue, whoever accepts from it. The new one accepts nobody
// before it has said that it is ready: should that fail, the old one goes on, and nobody is hurt. A new
// process that is not ready within a minute is killed, and the old one stays. While the old one drains, the
// new one cannot be replaced in its turn.
//
// # Whose child is it
//
// Each process is the parent of the next one, and waits for it (os.Process.Wait, on a goroutine of tableflip's) for as long as it
// lives itself: a new process that fails is no zombie. SIGCHLD needs no handler in Go, where Wait asks for one child by its number; and it
// must not be ignored: with SIG_IGN the kernel reaps children by itself, and Wait fails with ECHILD (wait(2)). Nor
// should a program wait for just any child, as a C handler of SIGCHLD does with waitpid(-1): it would take those that os/exec waits for.
//
// When the old process has gone, the new one belongs to process 1, or to the nearest ancestor that is a subreaper
// (PR_SET_CHILD_SUBREAPER in prctl(2)), such as systemd, and that one reaps it. So this must not be process 1 of a container: the container ends with it.
// Run it below an init (docker run --init).
//
// Under systemd, which learns from the file which process is the main one:
//
//	[Service]
//	ExecStart=/usr/local/bin/hotrestart -listen :7070 -pidfile /run/hotrestart.pid
//	ExecReload=/bin/kill -HUP $MAINPID
//	PIDFile=/run/hotrestart.pid
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"

	"github.com/pulsewheel/pulsewheel/server"
)

type game struct{ server.Base }

func (game) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

func main() {
	addr := flag.String("listen", ":7070", "where to listen, over TCP")
	pidFile := flag.String("pidfile", "", "file for the number of the process that serves")
	grace := flag.Duration("grace", 30*time.Second, "how long sessions may take to leave")
	flag.Parse()
	log.SetPrefix(fmt.Sprintf("hotrestart[%d] ", os.Getpid()))
	if err := run(*addr, *pidFile, *grace); err != nil {
		log.Fatal(err)
	}
}

func run(addr, pidFile string, grace time.Duration) error {
	upg, err := tableflip.New(tableflip.Options{PIDFile: pidFile})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	go func() {
		for stopped := false; ; {
			if sig := <-signals; sig != syscall.SIGHUP {
				if stopped {
					log.Fatal("at once: ", sig) // a second one
				}
				stopped = true
				upg.Stop()
				continue
			}
			go func() {
				if err := upg.Upgrade(); err != nil {
					log.Print("no restart: ", err)
				}
			}()
		}
	}()

	// Inherited, if there is a process before this one; else made.
	ln, err := upg.ListenWithCallback("tcp", addr, func(_, addr string) (net.Listener, error) { return server.Listen(addr) })
	if err != nil {
		return err
	}
	srv, err := server.New(game{}, server.Config{})
	if err != nil {
		return err
	}
	if err := upg.Ready(); err != nil { // else the old process drains
		if !parentHasGone(upg) { // it goes on; nobody has come here yet
			return err
		}
		log.Print("the old process has gone meanwhile: ", err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }() // who has come meanwhile waits in the socket's queue
	log.Print("serving on ", ln.Addr())

	select {
	case err = <-served:
		_ = srv.Close()
		return err
	case <-upg.Exit(): // the new process is ready, or somebody wants an end
	}
	drain(srv, grace)
	st := srv.Stats()
	log.Printf("left: %d sessions, %d of them told to go", st.Closed, st.Reasons[server.ServerShutdown])
	return nil
}

func drain(srv *server.Server, grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := srv.Drain(ctx); err != nil {
		log.Print(err)
	}
}

// parentHasGone tells whether there was a process before this one, and it has ended.
func parentHasGone(upg *tableflip.Upgrader) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return upg.HasParent() && upg.WaitForParent(ctx) == nil
}
