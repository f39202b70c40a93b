package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

const (
	backoffMin = 5 * time.Millisecond // after an accept that failed
	backoffMax = time.Second
)

// Listen opens a listener for Serve. addr is "tcp://host:port" or "unix:///path"; without a scheme
// it is TCP. SO_REUSEADDR is set, so that a restart finds its port free, and
// Multipath TCP, which the net package offers by default, is not: of it the kernel tells less.
func Listen(addr string) (net.Listener, error) {
	network, address, ok := strings.Cut(addr, "://")
	if !ok {
		network, address = "tcp", addr
	}
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		return nil, fmt.Errorf("server: Listen: %q: the network %q is not one of tcp, tcp4, tcp6, unix", addr, network)
	}
	var lc net.ListenConfig
	lc.KeepAlive = -1         // each connection gets its own, from the policy
	lc.SetMultipathTCP(false) // such a socket answers neither TCP_INFO nor TCP_USER_TIMEOUT for its path
	ln, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		return nil, fmt.Errorf("server: Listen: %w", err)
	}
	return ln, nil
}

// ListenAndServe listens on addr, as Listen does, and serves until Drain or Close. A port in use is
// an error at once.
func (s *Server) ListenAndServe(addr string) error {
	ln, err := Listen(addr)
	if err != nil {
		return err
	}
	return s.Serve(ln)
}

// Serve accepts connections on ln until Drain or Close, and then returns ErrServerClosed; ln is
// closed when it returns. It may be called for several listeners at a time. ln must give
// *net.TCPConn or *net.UnixConn: a connection wrapped in something else has no socket that an event
// loop could watch, and is an error. The listening socket itself is given keepalive, TCP_USER_TIMEOUT and
// linger options, for the connections to inherit.
//
// ln may be inherited, from systemd or from the process before this one: net.FileListener makes it of a
// descriptor, see the example. Then it is a duplicate: the socket, with the connections that wait in its queue, lives on after Drain
// and Close if another process holds it; and the path of a Unix socket stays, which a listener of Listen's takes away with it.
//
// An accept that fails for want of descriptors or memory is tried again, with a growing pause and when a session has ended;
// it does not end the server. Connections wait in the kernel's queue meanwhile: set Config.ConnsMax below the limit
// on descriptors (RLIMIT_NOFILE, getrlimit(2)), less what the process needs for other things and 100, so that those who are too many are told so.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	if err := s.open(&ln); err != nil {
		return err
	}
	defer s.accepting.Done()
	err := s.accept(ln)
	s.mu.Lock()
	delete(s.listeners, &ln)
	if s.closing {
		err = ErrServerClosed
	}
	s.mu.Unlock()
	return err
}

// open starts the loops if need be and enters ln.
func (s *Server) open(ln *net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrServerClosed
	}
	if err := s.start(); err != nil {
		return err
	}
	s.listeners[ln] = struct{}{}
	if s.addr == nil {
		s.addr = (*ln).Addr()
	}
	s.accepting.Add(1)
	return nil
}

// accept is the front door: it returns when the listener can give no more.
func (s *Server) accept(ln net.Listener) error {
	var waiting net.Conn // accepted, but there is no room for it yet
	failing, pause := false, time.Duration(0)
	defer func() {
		if failing {
			s.failing.Add(-1)
		}
	}()
	prepared, proven := s.prepare(ln), false
	for {
		nc, err := waiting, error(nil)
		if nc == nil {
			if nc, err = ln.Accept(); err == nil {
				s.counters.accepted.Add(1)
			}
		}
		if err == nil {
			waiting, err = nc, s.room()
			if err != nil && s.full() { // no use to wait
				s.refuse(nc, refusedFull, false)
				waiting = nil
				continue
			}
		}
		if err != nil {
			var errno syscall.Errno
			if !errors.As(err, &errno) || !acceptPasses(errno) || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("server: Serve: %w", err)
			}
			s.counters.acceptErrors.Add(1)
			s.unchecked.Store(0)
			if !failing {
				failing = true
				s.failing.Add(1)
				s.log.Warn("pulsewheel: accept fails; trying again until it works", "addr", ln.Addr().String(), "err", err)
			}
			pause = min(max(2*pause, backoffMin), backoffMax)
			select {
			case <-time.After(pause):
			case <-s.freed:
				pause = 0
			case <-s.stopping:
				if waiting != nil {
					s.refuse(waiting, refusedFull, true)
					waiting = nil
				}
			}
			continue
		}
		waiting = nil
		if pause = 0; failing {
			failing = false
			s.failing.Add(-1)
			s.log.Warn("pulsewheel: accept works again", "addr", ln.Addr().String())
		}
		if prepared && !proven {
			proven = s.inherited(nc) // and so have all that follow: they come in the order in which they were made
		}
		if err := s.admit(nc, proven); err != nil {
			return err
		}
	}
}

// prepare sets on the listening socket what the connections are to have, and tells whether that worked. Linux
// copies a listening socket's options to the connections that it makes (sk_clone_lock), which saves some
// system calls for each.
func (s *Server) prepare(ln net.Listener) bool {
	tl, ok := ln.(*net.TCPListener)
	if !ok {
		return false
	}
	done := false
	if err := onSocket(tl, func(fd int) {
		err := sockstat.ResetOnClose(fd)
		if err == nil {
			err = sockstat.Apply(fd, s.kernelOptions())
		}
		done = err == nil
	}); err != nil {
		s.log.Debug("pulsewheel: options of the listening socket", "addr", ln.Addr().String(), "err", err)
	}
	return done
}

// inherited tells whether nc has the options of a listening socket that was prepared. It has not if it was
// made before that; or if the listener sets a keepalive of its own on each, as the net package's does by default.
func (s *Server) inherited(nc net.Conn) (has bool) {
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = onSocket(tc, func(fd int) { has = sockstat.Applied(fd, s.kernelOptions()) })
	}
	return has
}

func onSocket(sc syscall.Conn, f func(fd int)) error {
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// admit places one accepted connection on a loop, or refuses it. An error means that no connection
// of this listener can be served. prepared: it has inherited its options.
func (s *Server) admit(nc net.Conn, prepared bool) error {
	tcp, remote := false, remoteOf(nc)
	switch c := nc.(type) {
	case *net.TCPConn:
		tcp = true
		if c.RemoteAddr() == nil { // already gone
			s.counters.failed.Add(1)
			_ = c.Close()
			return nil
		}
		// gnet recycles the memory of the zone's name, which belongs to the net package. remote has
		// a copy of its own.
		for _, a := range []net.Addr{c.LocalAddr(), c.RemoteAddr()} {
			if ta, ok := a.(*net.TCPAddr); ok && ta != nil && ta.Zone != "" {
				ta.Zone = ""
			}
		}
	case *net.UnixConn:
		if c.RemoteAddr() == nil || c.RemoteAddr().Network() != "unix" {
			s.counters.failed.Add(1)
			_ = c.Close()
			return errors.New("server: Serve: the listener gives Unix sockets that are not streams")
		}
	default:
		s.counters.failed.Add(1)
		_ = nc.Close()
		return fmt.Errorf("server: Serve: the listener gives connections of type %T; only *net.TCPConn and *net.UnixConn can be served", nc)
	}
	why := admitted
	if s.held.Add(1) > int64(s.cfg.ConnsMax) && s.cfg.ConnsMax > 0 {
		why = refusedFull
	} else {
		why = s.admission.enter(remote.Addr(), s.elapsed())
	}
	if why != admitted {
		s.release(nil)
		s.refuse(nc, why, true)
		return nil
	}
	c, err := newConn(s, remote, tcp)
	if err != nil {
		s.counters.acceptErrors.Add(1)
		s.counters.failed.Add(1)
		s.log.Error("pulsewheel: an accepted connection has no codec", "err", err)
		s.admission.leave(remote.Addr())
		s.release(nil)
		reset(nc)
		return nil
	}
	c.prepared = prepared
	if tcp && !prepared {
		_ = nc.(*net.TCPConn).SetLinger(0) // should it not get as far as OnOpen, which takes that back: no TIME_WAIT here
	}
	h := s.choose()
	h.loop.load.Inc()
	c.loop = h.loop
	if !tcpKeepAlive(nc, s.cfg) {
		s.log.Debug("pulsewheel: keepalive could not be set", "peer", c.session.RemoteAddr())
	}
	s.entering.Add(1)
	if !h.take(newcomer{nc, c}) {
		s.entering.Add(-1)
		s.admission.leave(remote.Addr())
		s.release(h.loop)
		s.refuse(nc, refusedFull, true)
	}
	return nil
}

// full tells whether there are as many connections as Config.ConnsMax lets in.
func (s *Server) full() bool { return s.cfg.ConnsMax > 0 && s.held.Load() >= int64(s.cfg.ConnsMax) }

// choose returns the hall of the loop with the fewest connections, of those that are not stuck; only
// when every loop is, its choice makes the front door wait.
func (s *Server) choose() *hall {
	now := s.elapsed()
	var best *hall
	bestStuck, bestLoad := true, int32(0)
	for _, h := range s.halls {
		stuck, load := h.stuck(now), h.loop.load.Load()
		if best == nil || bestStuck && !stuck || stuck == bestStuck && load < bestLoad {
			best, bestStuck, bestLoad = h, stuck, load
		}
	}
	return best
}
