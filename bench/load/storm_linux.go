package load

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A storm opens connections one after another, some at a time, sends one message on each, awaits its reply
// and closes.
type storm struct {
	poll
	StormOptions
	to     unix.Sockaddr
	family int
	slots  []slot
	in     []byte
	now    time.Duration
	end    time.Duration
	opened int
	under  int
	res    StormResult
}

// A slot is a place for one connection.
type slot struct {
	fd      int
	missing int
	began   time.Duration
	sent    bool
}

// Storm opens as many connections as it can, sends one message on each, awaits the reply, and closes; then
// those under way are awaited, and not counted. An error ends it.
func Storm(o StormOptions) (StormResult, error) {
	if len(o.Message) == 0 {
		return StormResult{}, errors.New("load: StormOptions.Message is empty")
	}
	if o.For <= 0 {
		o.For = time.Second
	}
	if o.Slots <= 0 {
		o.Slots = 64
	}
	if o.Reply == 0 {
		o.Reply = len(o.Message)
	}
	s := &storm{StormOptions: o, slots: make([]slot, o.Slots), in: make([]byte, 16<<10)}
	s.res.Latency.Counts = make([]uint64, bucketsMax)
	var err error
	if s.to, s.family, err = sockaddr(o.Addr); err != nil {
		return StormResult{}, err
	}
	if s.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return StormResult{}, fmt.Errorf("load: epoll_create1: %w", err)
	}
	defer unix.Close(s.fd)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: it may be bound to a CPU
		done <- s.run()
	}()
	err = <-done
	for _, sl := range s.slots {
		if sl.fd > 0 {
			reset(sl.fd)
		}
	}
	s.res.Latency.trim()
	return s.res, err
}

func (s *storm) run() error {
	if len(s.CPUs) > 0 {
		if err := bind(s.CPUs[0]); err != nil {
			return err
		}
	}
	cpu := cpuTime()
	begun := time.Since(epoch)
	s.now, s.end = begun, begun+s.For
	last := begun
	counting := true
	for i := range s.slots {
		if err := s.open(i); err != nil {
			return err
		}
	}
	for s.under > 0 {
		n := s.wait(50)
		s.now = time.Since(epoch)
		if counting && s.now >= s.end {
			s.res.Elapsed, s.res.CPU, counting = s.now-begun, cpuTime()-cpu, false
		}
		if n > 0 {
			last = s.now
		} else if s.now-last > stallMax {
			return fmt.Errorf("load: nothing has come for %v; %d connections still wait", stallMax, s.under)
		}
		for _, ev := range s.events[:n] {
			if err := s.event(int(ev.Fd), counting); err != nil {
				return err
			}
		}
	}
	return nil
}

// open opens the next connection in a slot, unless time is up. On the loopback it is there at once; its
// message is sent at once if so.
func (s *storm) open(i int) error {
	sl := &s.slots[i]
	*sl = slot{}
	if s.now >= s.end {
		return nil
	}
	fd, err := socket(s.family, s.opened, s.Sources, unix.SOCK_NONBLOCK)
	if err != nil {
		return fmt.Errorf("load: socket: %w", err)
	}
	s.opened++
	*sl = slot{fd: fd, missing: s.Reply, began: s.now}
	s.under++
	if err := unix.Connect(fd, s.to); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		return fmt.Errorf("load: connect: %w", err)
	}
	events := uint32(unix.EPOLLIN)
	if n, _ := send(fd, s.Message); n == len(s.Message) {
		sl.sent = true
	} else {
		events |= unix.EPOLLOUT // an error comes back with it
	}
	return s.control(unix.EPOLL_CTL_ADD, fd, events, i)
}

// event does what there is to do in a slot.
func (s *storm) event(i int, counting bool) error {
	sl := &s.slots[i]
	if !sl.sent {
		n, errno := send(sl.fd, s.Message)
		if n != len(s.Message) {
			return fmt.Errorf("load: storm: %d bytes of a message of %d were taken: %w", n, len(s.Message), errno)
		}
		sl.sent = true
		return s.control(unix.EPOLL_CTL_MOD, sl.fd, unix.EPOLLIN, i)
	}
	n, errno := receive(sl.fd, s.in)
	switch {
	case errno == unix.EAGAIN:
		return nil
	case errno != 0:
		return fmt.Errorf("load: storm: the server has gone: %w", errno)
	case n == 0:
		return fmt.Errorf("load: storm: the server has closed a connection before its reply (%d bytes were still to come)", sl.missing)
	}
	if sl.missing -= n; sl.missing > 0 {
		return nil
	}
	s.res.Total++
	if counting {
		s.res.Conns++
		s.res.Latency.Add(s.now - sl.began)
	}
	if s.FIN {
		_ = unix.Close(sl.fd)
	} else {
		reset(sl.fd)
	}
	s.under--
	return s.open(i)
}
