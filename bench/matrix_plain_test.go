//go:build linux

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
)

// A method is one of the ways in which a server commonly learns that a client is gone.
type method int

const (
	byRecv        method = iota // what recv(2) returns
	byTCPInfo                   // TCP_INFO: a state other than ESTABLISHED
	byEpoll                     // what epoll_wait(2) reports, and no recv(2) to say what that means
	byKeepalive                 // SO_KEEPALIVE, 3 probes a second apart after a second: the error that it brings
	byHeartbeat                 // the application expects a byte a second, and waits 3 s for it
	byUserTimeout               // TCP_USER_TIMEOUT of 4 s: the error that it brings
	methods
)

func (m method) String() string {
	return [...]string{"recv", "TCP_INFO", "epoll", "keepalive", "heartbeat", "USER_TIMEOUT", "?"}[m]
}

const (
	beatEvery   = time.Second
	beatTimeout = 3 * time.Second
	userTimeout = 4 * time.Second
)

// The grain of the observers that have to ask again and again. The others are woken by the kernel.
const (
	quickGrain = time.Millisecond      // while quick cases are run
	slowGrain  = 10 * time.Millisecond // afterwards
)

// A sighting is the first that a method made of an end, if anything.
type sighting struct {
	what string // "": nothing
	at   time.Duration
}

// sees tells whether what was seen is one of what is expected, which spaces separate; "" and "-" are
// nothing.
func sees(expect, what string) bool {
	for w := range strings.FieldsSeq(expect) {
		if w == what || w == "-" && what == "" {
			return true
		}
	}
	return expect == "" && what == ""
}

// An observer watches plain accepted sockets by one method alone. What it learns otherwise it does not
// use.
type observer struct {
	how         method
	port        int
	door, epoll int // descriptors: the listener, and what wakes it
	grain       atomic.Int64
	quit        chan struct{}
	done        sync.WaitGroup

	mu     sync.Mutex
	byFD   map[int]*plain
	byPeer map[netip.AddrPort]*plain
}

// A plain is one socket that is watched.
type plain struct {
	o  *observer
	fd int

	// The observer's mutex guards the rest.
	beat time.Duration // when a byte was last heard
	seen sighting
}

// newObserver is called in the namespace in which it is to listen.
func newObserver(how method) (o *observer, err error) {
	o = &observer{how: how, quit: make(chan struct{}), byFD: map[int]*plain{}, byPeer: map[netip.AddrPort]*plain{}}
	o.grain.Store(int64(quickGrain))
	if o.door, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	at := netip.MustParseAddr(netlab.ServerAddr).As4()
	if err = unix.Bind(o.door, &unix.SockaddrInet4{Addr: at}); err == nil {
		err = unix.Listen(o.door, 1024)
	}
	var name unix.Sockaddr
	if err == nil {
		name, err = unix.Getsockname(o.door)
	}
	if err == nil {
		o.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	}
	if err != nil {
		unix.Close(o.door)
		return nil, err
	}
	o.port = name.(*unix.SockaddrInet4).Port
	o.done.Add(2)
	go o.accept()
	go o.watch()
	return o, nil
}

func (o *observer) close() {
	close(o.quit)
	_ = unix.Shutdown(o.door, unix.SHUT_RDWR) // wakes accept
	o.done.Wait()
	for fd := range o.byFD {
		unix.Close(fd)
	}
	unix.Close(o.door)
	unix.Close(o.epoll)
}

func (o *observer) accept() {
	defer o.done.Done()
	for {
		fd, name, err := unix.Accept4(o.door, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil { // shut
			return
		}
		if err := o.prepare(fd); err != nil {
			panic(fmt.Sprintf("%v: %v", o.how, err))
		}
		from := name.(*unix.SockaddrInet4)
		p := &plain{o: o, fd: fd, beat: monotonic()}
		o.mu.Lock()
		o.byFD[fd] = p
		o.byPeer[netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port))] = p
		o.mu.Unlock()
		if err := o.enrol(fd); err != nil {
			panic(fmt.Sprintf("%v: epoll_ctl: %v", o.how, err))
		}
	}
}

// prepare sets the options that are the method.
func (o *observer) prepare(fd int) (err error) {
	set := func(level, opt, v int) {
		if e := unix.SetsockoptInt(fd, level, opt, v); e != nil {
			err = e
		}
	}
	switch o.how {
	case byKeepalive:
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3)
	case byUserTimeout:
		set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
	}
	return err
}

// enrol has the observer woken for what its method waits for. Errors and hang-ups wake it in any case.
func (o *observer) enrol(fd int) error {
	ev := unix.EpollEvent{Fd: int32(fd)}
	switch o.how {
	case byTCPInfo: // asks
		return nil
	case byRecv, byHeartbeat:
		ev.Events = unix.EPOLLIN
	case byEpoll:
		ev.Events = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	default:
		ev.Events = unix.EPOLLET
	}
	return unix.EpollCtl(o.epoll, unix.EPOLL_CTL_ADD, fd, &ev)
}

// await waits until the peer has been accepted.
func (o *observer) await(peer netip.AddrPort) (*plain, error) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
		o.mu.Lock()
		p := o.byPeer[peer]
		o.mu.Unlock()
		if p != nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%v: %v was not accepted within 5 s", o.how, peer)
}

func (o *observer) watch() {
	defer o.done.Done()
	events := make([]unix.EpollEvent, 256)
	buf := make([]byte, 64<<10)
	for {
		select {
		case <-o.quit:
			return
		default:
		}
		n := 0
		if o.how == byTCPInfo {
			time.Sleep(time.Duration(o.grain.Load()))
		} else {
			var err error
			if n, err = unix.EpollWait(o.epoll, events, int(slowGrain/time.Millisecond)); err != nil && err != unix.EINTR {
				panic(fmt.Sprintf("%v: epoll_wait: %v", o.how, err))
			}
		}
		o.mu.Lock()
		for _, ev := range events[:max(n, 0)] {
			o.woken(o.byFD[int(ev.Fd)], ev.Events, buf)
		}
		o.ask()
		o.mu.Unlock()
	}
}

// woken is called with mu held when the kernel has something to say about p.
func (o *observer) woken(p *plain, events uint32, buf []byte) {
	switch o.how {
	case byRecv, byHeartbeat:
		o.receive(p, buf)
	case byEpoll:
		names := eventNames(events)
		if p.seen.what == "IN" && names != "IN" { // that was no more than something to read
			p.seen = sighting{}
		}
		p.see(names)
	default:
		if events&unix.EPOLLERR == 0 {
			return
		}
		if v, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && v != 0 {
			p.see(unix.ErrnoName(unix.Errno(v)))
		}
	}
}

// receive reads what there is. For a heartbeat only bytes count: an end is none of its business.
func (o *observer) receive(p *plain, buf []byte) {
	for {
		n, _, err := unix.Recvfrom(p.fd, buf, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case n > 0:
			p.beat = monotonic()
			continue
		case o.how == byHeartbeat:
		case err == nil:
			p.see("0")
		default:
			p.see(errnoName(err))
		}
		_ = unix.EpollCtl(o.epoll, unix.EPOLL_CTL_DEL, p.fd, nil)
		return
	}
}

// ask does, with mu held, what a method does by the clock.
func (o *observer) ask() {
	if o.how != byTCPInfo && o.how != byHeartbeat {
		return
	}
	for fd, p := range o.byFD {
		switch {
		case p.seen.what != "":
		case o.how == byHeartbeat:
			if monotonic()-p.beat > beatTimeout {
				p.see("silent")
			}
		default:
			if ti, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && sockstat.TCPState(ti.State) != sockstat.Established {
				p.see(sockstat.TCPState(ti.State).String())
			}
		}
	}
}

// see notes the first sighting. It is called with mu held.
func (p *plain) see(what string) {
	if p.seen.what == "" {
		p.seen = sighting{what, monotonic()}
	}
}

// sighting is what was seen so far, counted from the act.
func (p *plain) sighting(act time.Duration) sighting {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	s := p.seen
	if s.what != "" {
		s.at -= act
	}
	return s
}

// send sends b as an application would. The kernel tells an error once, to whoever asks first, send(2)
// too: a method that lives by errors learns of it.
func (p *plain) send(b []byte) {
	err := unix.Sendto(p.fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	if err == nil || err == unix.EAGAIN || err == unix.EPIPE {
		return
	}
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	switch p.o.how {
	case byRecv, byKeepalive, byUserTimeout:
		p.see(errnoName(err))
	}
}

func errnoName(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// eventNames names the epoll events in short.
func eventNames(events uint32) string {
	var names []string
	for _, e := range []struct {
		bit  uint32
		name string
	}{{unix.EPOLLIN, "IN"}, {unix.EPOLLRDHUP, "RDHUP"}, {unix.EPOLLHUP, "HUP"}, {unix.EPOLLERR, "ERR"}} {
		if events&e.bit != 0 {
			names = append(names, e.name)
		}
	}
	return strings.Join(names, "+")
}
