package sockstat

import (
	"net"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fdOf returns c's descriptor; it stays c's.
func fdOf(t *testing.T, c syscall.Conn) (fd int) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(n uintptr) { fd = int(n) }))
	return fd
}

// tcpPair returns the descriptor of our end of a TCP connection, and both ends.
func tcpPair(t *testing.T) (fd int, near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	f, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	n, err := ln.Accept()
	require.NoError(t, err)
	near, far = n.(*net.TCPConn), f.(*net.TCPConn)
	t.Cleanup(func() { near.Close(); far.Close() })
	return fdOf(t, near), near, far
}

// unixPair returns the descriptors of two connected Unix sockets.
func unixPair(t *testing.T) (near, far int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

// until waits for what the kernel does in its own time.
func until(t *testing.T, ok func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), what)
	}
}

// state waits for a state.
func state(t *testing.T, fd int, want TCPState) TCPInfo {
	t.Helper()
	var ti TCPInfo
	until(t, func() bool {
		var err error
		ti, err = ReadTCPInfo(fd)
		require.NoError(t, err)
		return ti.State == want
	}, want.String())
	return ti
}

func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	require.NoError(t, c.SetLinger(0))
	require.NoError(t, c.Close())
}

func TestReadTCPInfo(t *testing.T) {
	t.Parallel()
	fd, near, far := tcpPair(t)
	ti, err := ReadTCPInfo(fd)
	require.NoError(t, err)
	assert.True(t, ti.Known())
	assert.Equal(t, Established, ti.State)
	assert.Positive(t, ti.RTT)
	assert.Positive(t, ti.SndWnd)
	assert.Zero(t, ti.Unacked)

	_, err = far.Write([]byte("hello"))
	require.NoError(t, err)
	until(t, func() bool { n, _ := Waiting(fd); return n > 0 }, "hello")
	ti, err = ReadTCPInfo(fd)
	require.NoError(t, err)
	fresh := ti.LastDataRecv
	time.Sleep(100 * time.Millisecond) // what is measured
	ti, err = ReadTCPInfo(fd)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, ti.LastDataRecv-fresh, 80*time.Millisecond)
	assert.Less(t, ti.LastDataRecv, 10*time.Second, "the unit is right")

	require.NoError(t, far.CloseWrite())
	state(t, fd, CloseWait)
	require.NoError(t, near.CloseWrite())
	ti = state(t, fd, Close) // the far end, which closed first, has the TIME_WAIT
	assert.True(t, ti.Known())

	fd, near, _ = tcpPair(t)
	require.NoError(t, near.CloseWrite())
	state(t, fd, FinWait2)

	fd, _, far = tcpPair(t)
	reset(t, far)
	state(t, fd, Close)
}

func TestReadTCPInfoOfOthers(t *testing.T) {
	t.Parallel()
	near, _ := unixPair(t)
	_, err := ReadTCPInfo(near)
	assert.Equal(t, ErrUnknown, err)
	_, err = ReadTCPInfo(-1)
	assert.Equal(t, unix.EBADF, err)
	ln, err := net.ListenTCP("tcp", nil)
	require.NoError(t, err)
	defer ln.Close()
	ti, err := ReadTCPInfo(fdOf(t, ln))
	require.NoError(t, err)
	assert.Equal(t, Listen, ti.State)
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	fd, _, far := tcpPair(t)
	waits := func() (int, error) { return Waiting(fd) }
	n, err := waits()
	assert.Zero(t, n)
	assert.Equal(t, unix.EAGAIN, err)

	_, err = far.Write([]byte("hello"))
	require.NoError(t, err)
	until(t, func() bool { _, err := waits(); return err == nil }, "hello")
	n, err = waits()
	assert.Positive(t, n)
	assert.NoError(t, err)
	n, _ = waits()
	assert.Positive(t, n, "looking takes nothing")

	var buf [10]byte
	n, err = Receive(fd, buf[:2])
	assert.NoError(t, err)
	assert.Equal(t, "he", string(buf[:n]))
	n, err = Receive(fd, buf[:])
	assert.NoError(t, err)
	assert.Equal(t, "llo", string(buf[:n]))
	_, err = Receive(fd, buf[:])
	assert.Equal(t, unix.EAGAIN, err)

	require.NoError(t, far.CloseWrite())
	until(t, func() bool { _, err := waits(); return err == nil }, "the FIN")
	n, err = waits()
	assert.Zero(t, n)
	assert.NoError(t, err)
	n, err = Receive(fd, buf[:])
	assert.Zero(t, n)
	assert.NoError(t, err)

	fd, _, far = tcpPair(t)
	_, err = far.Write([]byte("last"))
	require.NoError(t, err)
	reset(t, far)
	state(t, fd, Close)
	n, err = waits()
	assert.Positive(t, n, "what came before the RST can still be read")
	assert.NoError(t, err)
	n, err = Receive(fd, buf[:])
	assert.NoError(t, err)
	assert.Equal(t, "last", string(buf[:n]))
	n, err = waits()
	assert.Zero(t, n)
	assert.Equal(t, unix.ECONNRESET, err)

	_, err = Waiting(-1)
	assert.Equal(t, unix.EBADF, err)
	_, err = Receive(-1, buf[:])
	assert.Equal(t, unix.EBADF, err)
}

func TestPendingError(t *testing.T) {
	t.Parallel()
	fd, _, far := tcpPair(t)
	assert.NoError(t, PendingError(fd))
	reset(t, far)
	state(t, fd, Close)
	assert.Equal(t, unix.ECONNRESET, PendingError(fd))
	assert.NoError(t, PendingError(fd), "asking takes it")
	assert.Equal(t, unix.EBADF, PendingError(-1))
}

func TestSend(t *testing.T) {
	t.Parallel()
	fd, near, far := tcpPair(t)
	n, err := Send(fd, []byte("hello"))
	require.NoError(t, err)
	assert.Equal(t, 5, n)
	buf := make([]byte, 5)
	_, err = far.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(buf))
	until(t, func() bool { n, err := Unacknowledged(fd); require.NoError(t, err); return n == 0 }, "the acknowledgement")

	// The far end reads nothing: a part is taken, and then nothing.
	require.NoError(t, near.SetWriteBuffer(64<<10))
	require.NoError(t, far.SetReadBuffer(64<<10))
	big := make([]byte, 16<<20)
	taken, partial := 0, false
	for {
		n, err := Send(fd, big)
		if err != nil {
			assert.Equal(t, unix.EAGAIN, err)
			assert.Zero(t, n)
			if ti, _ := ReadTCPInfo(fd); ti.SndWnd == 0 {
				break
			}
			time.Sleep(time.Millisecond) // the kernel still moves some across
			continue
		}
		partial = partial || n < len(big)
		taken += n
	}
	assert.True(t, partial)
	assert.Positive(t, taken)
	waiting, err := Unacknowledged(fd)
	require.NoError(t, err)
	assert.Positive(t, waiting)
	assert.LessOrEqual(t, waiting, taken)
	ti, err := ReadTCPInfo(fd)
	require.NoError(t, err)
	assert.Positive(t, ti.NotSent+ti.Unacked)

	// After an RST it is ECONNRESET once, and then EPIPE.
	reset(t, far)
	state(t, fd, Close)
	_, err = Send(fd, []byte("x"))
	assert.Equal(t, unix.ECONNRESET, err)
	_, err = Send(fd, []byte("x"))
	assert.Equal(t, unix.EPIPE, err)

	_, err = Send(-1, []byte("x"))
	assert.Equal(t, unix.EBADF, err)
	_, err = Unacknowledged(-1)
	assert.Equal(t, unix.EBADF, err)
}

// A signal that the application might watch for must not be ours. A Unix socket raises it at the first
// write after the far end has closed.
func TestSendWithoutSIGPIPE(t *testing.T) {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, unix.SIGPIPE, unix.SIGWINCH)
	defer signal.Stop(signals)
	near, far := unixPair(t)
	require.NoError(t, unix.Shutdown(far, unix.SHUT_RDWR))
	next := func() os.Signal { // the marker comes behind what was raised before: Go hands them out by number
		require.NoError(t, unix.Kill(unix.Getpid(), unix.SIGWINCH))
		s := <-signals
		for last := s; last != unix.SIGWINCH; last = <-signals {
		}
		return s
	}
	_, err := Send(near, []byte("x"))
	assert.Equal(t, unix.EPIPE, err)
	assert.Equal(t, unix.SIGWINCH, next())
	_, err = unix.Write(near, []byte("x")) // which does raise it: the test can fail
	assert.Equal(t, unix.EPIPE, err)
	assert.Equal(t, unix.SIGPIPE, next())
}

func TestSendToUnix(t *testing.T) {
	t.Parallel()
	near, far := unixPair(t)
	n, err := Send(near, []byte("hello"))
	require.NoError(t, err)
	assert.Equal(t, 5, n)
	waiting, err := Unacknowledged(near)
	require.NoError(t, err)
	assert.Positive(t, waiting, "not read yet")
	var buf [9]byte
	n, err = Receive(far, buf[:])
	require.NoError(t, err)
	assert.Equal(t, "hello", string(buf[:n]))
	waiting, err = Unacknowledged(near)
	require.NoError(t, err)
	assert.Zero(t, waiting)
	_, err = Waiting(far)
	assert.Equal(t, unix.EAGAIN, err)
}

func TestApply(t *testing.T) {
	t.Parallel()
	fd, near, _ := tcpPair(t)
	get := func(level, opt int) int {
		t.Helper()
		v, err := unix.GetsockoptInt(fd, level, opt)
		require.NoError(t, err)
		return v
	}
	require.NoError(t, near.SetKeepAlive(false))
	idle := get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
	require.NoError(t, Apply(fd, Options{}))
	assert.Zero(t, get(unix.SOL_SOCKET, unix.SO_KEEPALIVE), "zero leaves it as it is")
	assert.Equal(t, idle, get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE))

	require.NoError(t, Apply(fd, Options{KeepIdle: 200 * time.Millisecond, KeepInterval: 2500 * time.Millisecond, UserTimeout: 7250 * time.Millisecond}))
	assert.NotZero(t, get(unix.SOL_SOCKET, unix.SO_KEEPALIVE))
	assert.Equal(t, 1, get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE))
	assert.Equal(t, 3, get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL))
	assert.Equal(t, 7250, get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT))
	require.NoError(t, Apply(fd, Options{UserTimeout: 9 * time.Second}))
	assert.Equal(t, 1, get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE))
	assert.Equal(t, 9000, get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT))

	o := Options{KeepIdle: 3 * time.Second, KeepInterval: 3 * time.Second, UserTimeout: 8 * time.Second}
	assert.False(t, Applied(fd, o))
	require.NoError(t, Apply(fd, o))
	assert.True(t, Applied(fd, o))
	require.NoError(t, near.SetKeepAlivePeriod(15*time.Second)) // as the net package does by default
	assert.False(t, Applied(fd, o))
	assert.False(t, Applied(-1, o))

	// What cannot be set is an error, and the rest is set all the same.
	assert.Equal(t, unix.EINVAL, Apply(fd, Options{KeepIdle: 40000 * time.Second, UserTimeout: 5 * time.Second}))
	assert.Equal(t, 5000, get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT))
	assert.Equal(t, unix.EBADF, Apply(-1, Options{KeepIdle: 1}))
}

func TestResetOnClose(t *testing.T) {
	t.Parallel()
	fd, near, far := tcpPair(t)
	require.NoError(t, ResetOnClose(fd))
	require.NoError(t, near.Close())
	_, err := far.Read(make([]byte, 1))
	assert.ErrorIs(t, err, unix.ECONNRESET)
	assert.Equal(t, unix.EBADF, ResetOnClose(-1))
	assert.True(t, Supported)
}

// What an older kernel does not fill in is not known, which is not the same as zero.
func TestOlderKernel(t *testing.T) {
	full := uint32(unsafe.Sizeof(unix.TCPInfo{}))
	upToWindow := uint32(unsafe.Offsetof(unix.TCPInfo{}.Rcv_wnd)) // Linux 5.4
	for length, known := range map[uint32]bool{104: false, upToWindow - 4: false, upToWindow: true, full: true} {
		assert.Equal(t, known, infoOf(&unix.TCPInfo{State: uint8(Established)}, length).SndWndKnown, "%d bytes", length)
	}
	fd, _, _ := tcpPair(t)
	ti, err := ReadTCPInfo(fd)
	require.NoError(t, err)
	var raw unix.TCPInfo
	length, err := tcpInfo(fd, &raw)
	require.NoError(t, err)
	assert.Equal(t, length >= upToWindow, ti.SndWndKnown)
	assert.Positive(t, ti.SndMSS)
}
