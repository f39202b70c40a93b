package load

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stallMax is for how long no reply may come.
const stallMax = 10 * time.Second

// What a thread is doing.
const (
	idle     = iota
	warming  // bursts are sent, and not counted
	counting // bursts are sent and counted
	draining // what is under way is awaited
)

// A thread has an epoll and a share of the connections. But for give, pings, found and gone, it is its own
// goroutine's, which is locked to an OS thread.
type thread struct {
	poll
	conns       []conn
	first       int // the number of its first connection
	cpu         int // that it is bound to; -1: none
	spin, pongs bool
	outstanding int
	burst       []byte // one burst, as it is sent
	reply       int32  // bytes that come back for it
	in          []byte // what was received last
	wake        int    // an eventfd: a task has been given
	unasked            // what the server sends of itself

	pings atomic.Int64 // answered
	tasks chan task
	found chan finding
	gone  chan struct{}

	task
	phase      int
	now        time.Duration // since epoch, read once a round
	from, heat time.Duration // when counting began, or is to begin
	lastReply  time.Duration
	cpuFrom    time.Duration
	under      int // connections with a burst under way
	res        Result
	err        error // why no later task can be done
}

// A task is given to a thread.
type task struct {
	Round
	bursts  int      // to be sent by this thread, if Messages is not zero
	latency []uint64 // bucketsMax of them
	quit    bool
}

type finding struct {
	Result
	err error
}

// A conn is one connection.
type conn struct {
	fd      int           // -1: closed
	missing int32         // bytes of replies still to come; 0: no burst is under way
	sent    time.Duration // when the burst was sent
	rest    []byte        // what the kernel has not taken yet
	frames  frames
}

func newThread(o Options, first int, fds []int) (*thread, error) {
	t := &thread{
		first: first, cpu: -1, spin: o.Spin, pongs: o.Pongs, outstanding: o.Outstanding, reply: int32(o.Reply * o.Outstanding),
		unasked: unasked{every: int64(o.Reports), size: int64(len(o.Message))},
		in:      make([]byte, 64<<10), tasks: make(chan task, 2), found: make(chan finding, 2), gone: make(chan struct{}),
	}
	for range o.Outstanding {
		t.burst = append(t.burst, o.Message...)
	}
	var err error
	if t.poll.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("load: epoll_create1: %w", err)
	}
	if t.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(t.poll.fd)
		return nil, fmt.Errorf("load: eventfd: %w", err)
	}
	err = t.control(unix.EPOLL_CTL_ADD, t.wake, unix.EPOLLIN, -1)
	for i, fd := range fds {
		if err == nil {
			err = t.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, i)
		}
		t.conns = append(t.conns, conn{fd: fd})
	}
	if err != nil {
		_, _ = unix.Close(t.poll.fd), unix.Close(t.wake)
		return nil, fmt.Errorf("load: epoll_ctl: %w", err)
	}
	return t, nil
}

// give hands the thread a task, from another goroutine.
func (t *thread) give(task task) {
	t.tasks <- task
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(t.wake, one[:])
}

// run is the thread.
func (t *thread) run() {
	runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
	defer close(t.gone)
	if t.cpu >= 0 {
		t.err = bind(t.cpu)
	}
	t.hello()
	for !t.quit {
		n := t.next()
		t.now = time.Since(epoch)
		t.watch()
		for _, ev := range t.events[:n] {
			switch {
			case ev.Fd < 0:
				t.begin()
			default:
				t.event(int(ev.Fd), ev.Events)
			}
		}
		if t.phase != idle && t.under == 0 {
			t.finish(nil)
		}
	}
	for i := range t.conns {
		if c := &t.conns[i]; c.fd >= 0 {
			reset(c.fd)
		}
	}
	_, _ = unix.Close(t.poll.fd), unix.Close(t.wake)
}

// next waits for events.
func (t *thread) next() int {
	switch {
	case t.phase == idle:
		return t.wait(-1)
	case t.spin:
		return t.look()
	}
	return t.wait(50) // the clock is to be looked at, too
}

// begin begins the task that has been given.
func (t *thread) begin() {
	var b [8]byte
	_, _ = unix.Read(t.wake, b[:])
	select {
	case t.task = <-t.tasks:
	default:
		return
	}
	if t.quit {
		return
	}
	t.res = Result{Latency: Histogram{Counts: t.latency}}
	t.phase, t.lastReply, t.under = warming, t.now, 0
	if t.err != nil {
		t.finish(t.err)
		return
	}
	t.heat = t.now + t.Warm
	if t.Messages > 0 || t.Warm <= 0 {
		t.count()
	}
	for i := range t.conns {
		t.sendBurst(i)
	}
}

// watch looks at the clock for what is to begin or to end now.
func (t *thread) watch() {
	switch {
	case t.phase == idle:
		return
	case t.phase == warming && t.now >= t.heat:
		t.count()
	case t.phase == counting && t.Messages == 0 && t.now >= t.from+t.For:
		t.counted()
	case t.now-t.lastReply > stallMax:
		t.finish(fmt.Errorf("load: no reply for %v; %d connections still wait", stallMax, t.under))
	}
}

// count begins to count.
func (t *thread) count() {
	t.phase, t.from, t.cpuFrom = counting, t.now, cpuTime()
}

// counted ends counting.
func (t *thread) counted() {
	t.res.Elapsed = t.now - t.from
	t.res.CPU = cpuTime() - t.cpuFrom
	t.phase = draining
}

// finish ends the task. An error stays.
func (t *thread) finish(err error) {
	if t.phase == counting {
		t.counted()
	}
	if err != nil {
		t.err = err
	}
	t.phase = idle
	t.res.Latency.trim()
	t.found <- finding{t.res, t.err}
}

// lost gives up a connection, and with it what the thread is doing.
func (t *thread) lost(i int, format string, args ...any) {
	c := &t.conns[i]
	reset(c.fd)
	c.fd = -1
	if t.err != nil {
		return
	}
	t.err = fmt.Errorf("load: connection %d: %s (%d bytes of replies were still to come)", t.first+i, fmt.Sprintf(format, args...), c.missing)
	if t.phase != idle {
		t.finish(t.err)
	}
}

// sendBurst sends the next burst on a connection, if there is one to be sent.
func (t *thread) sendBurst(i int) {
	if t.phase != warming && t.phase != counting {
		return
	}
	if t.Messages > 0 {
		if t.bursts == 0 {
			return
		}
		t.bursts--
	}
	c := &t.conns[i]
	c.missing, c.sent = t.reply, t.now
	t.under++
	t.send(i, t.burst)
}

// replied is called when the last byte of a burst's replies has come.
func (t *thread) replied(i int) {
	t.under--
	t.lastReply = t.now
	t.res.Total += t.outstanding
	if t.phase == counting {
		t.res.Messages += t.outstanding
		t.res.Latency.Add(t.now - t.conns[i].sent)
	}
	t.sendBurst(i)
}

// event does what there is to do on a connection.
func (t *thread) event(i int, events uint32) {
	if events&unix.EPOLLOUT != 0 {
		t.flush(i)
	}
	if c := &t.conns[i]; c.fd < 0 || events&^unix.EPOLLOUT == 0 {
		return
	}
	c := &t.conns[i]
	n, errno := receive(c.fd, t.in)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
	case errno != 0:
		t.lost(i, "the server has gone: %v", errno)
	case n == 0:
		t.lost(i, "the server has closed it")
	case t.pongs:
		t.read(i, t.in[:n])
	default:
		t.got(i, n)
	}
}

// got counts bytes of replies.
func (t *thread) got(i, n int) {
	if t.every > 0 {
		t.came(n)
		return
	}
	c := &t.conns[i]
	if int64(n) > int64(c.missing) {
		t.lost(i, "%d bytes came, more than were asked for", n)
		return
	}
	if c.missing -= int32(n); c.missing == 0 {
		t.replied(i)
	}
}

// send sends b, or keeps what the kernel does not take.
func (t *thread) send(i int, b []byte) {
	c := &t.conns[i]
	if c.fd < 0 {
		return
	}
	if len(c.rest) > 0 {
		c.rest = append(c.rest, b...)
		return
	}
	n, errno := send(c.fd, b)
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		t.lost(i, "the server has gone: %v", errno)
		return
	}
	if n < len(b) {
		c.rest = append(c.rest, b[n:]...)
		_ = t.control(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN|unix.EPOLLOUT, i)
	}
}

// flush sends what the kernel did not take before.
func (t *thread) flush(i int) {
	c := &t.conns[i]
	rest := c.rest
	c.rest = c.rest[:0]
	if len(rest) == 0 || c.fd < 0 {
		return
	}
	n, errno := send(c.fd, rest)
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		t.lost(i, "the server has gone: %v", errno)
		return
	}
	if c.rest = append(c.rest, rest[n:]...); len(c.rest) == 0 {
		_ = t.control(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN, i)
	}
}

// cpuTime is the CPU time of this OS thread.
func cpuTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
