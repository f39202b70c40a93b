package netlab

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/internal/busy"
)

// relayed makes a lab with one leg of the given shape and an echo server, and a connection to it.
func relayed(t testing.TB, s Shape) (*Leg, *net.TCPConn) {
	t.Helper()
	l := newLab(t, 1)
	require.NoError(t, l.Leg(0).Relay(s))
	return l.Leg(0), dial(t, l.Leg(0), echo(t, l))
}

func TestRelayDelay(t *testing.T) {
	for _, delay := range []time.Duration{0, 10 * time.Millisecond, 150 * time.Millisecond} {
		t.Run(delay.String(), busy.Test(func(t *busy.T) {
			_, c := relayed(t, Shape{Delay: delay})
			var took []time.Duration
			for len(took) < 7 || len(took) < 50 && slices.Min(took) >= 2*delay+10*time.Millisecond {
				rtt, err := roundTrip(c, "hello", 10*time.Second)
				require.NoError(t, err)
				took = append(took, rtt)
			}
			slices.Sort(took)
			t.Logf("round trips of %v", took)
			assert.GreaterOrEqual(t, took[0], 2*delay)
			assert.Less(t.IfQuiet(busy.Doze), took[0], 2*delay+10*time.Millisecond)
		}))
	}
}

func TestRelayReshape(t *testing.T) {
	g, c := relayed(t, Shape{})
	_, err := roundTrip(c, "hello", 10*time.Second)
	require.NoError(t, err)
	require.NoError(t, g.Relay(Shape{Delay: 50 * time.Millisecond}))
	rtt, err := roundTrip(c, "hello", 10*time.Second)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, rtt, 100*time.Millisecond)
	for _, s := range []Shape{{Delay: -1}, {Jitter: -1}, {Loss: 1.1}, {Loss: -0.1}, {Rate: -1}, {Queue: -1}} {
		assert.Error(t, g.Relay(s), "%+v", s)
	}
}

func TestRelayCut(t *testing.T) {
	g, c := relayed(t, Shape{Delay: 20 * time.Millisecond})
	_, err := roundTrip(c, "before", 5*time.Second)
	require.NoError(t, err)
	_, err = c.Write([]byte("under way"))
	require.NoError(t, err)
	_, err = g.Cut()
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	back := make([]byte, len("under way"))
	_, err = io.ReadFull(c, back)
	assert.Error(t, err, "what was under way is lost")
	require.NoError(t, g.Mend())
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = io.ReadFull(c, back)
	assert.NoError(t, err, "and TCP sends it again")

	// A leg that is cut stays so when its relay begins.
	l := newLab(t, 1)
	c = dial(t, l.Leg(0), echo(t, l))
	_, err = l.Leg(0).Cut()
	require.NoError(t, err)
	require.NoError(t, l.Leg(0).Relay(Shape{}))
	_, err = roundTrip(c, "hello", 200*time.Millisecond)
	assert.Error(t, err)
}

func TestRelayStall(t *testing.T) { busy.Try(t, testRelayStall) }

func testRelayStall(t *busy.T) {
	const stall = 500 * time.Millisecond
	g, c := relayed(t, Shape{Delay: time.Millisecond})
	_, err := roundTrip(c, "before", 5*time.Second)
	require.NoError(t, err)
	stalled := time.Now()
	require.NoError(t, g.Stall(stall))
	rtt, err := roundTrip(c, "held back", 5*time.Second)
	require.NoError(t, err)
	t.Logf("a round trip of %v", rtt)
	assert.Greater(t, rtt, stall-10*time.Millisecond)
	t.NotLater(stalled, time.Now(), stall+100*time.Millisecond, "the first round trip") // at its end it goes on at once: it needs no retransmission
	after := time.Now()
	_, err = roundTrip(c, "after", 5*time.Second)
	require.NoError(t, err)
	t.NotLater(after, time.Now(), 100*time.Millisecond, "the second round trip")
}

// Bulk data takes the time that the rate gives it.
func TestRelayRate(t *testing.T) { busy.Try(t, testRelayRate) }

func testRelayRate(t *busy.T) {
	const rate, size = 1 << 20, 1 << 20
	_, c := relayed(t, Shape{Rate: rate, Queue: 64 << 10})
	require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	from := time.Now()
	go func() { _, _ = c.Write(make([]byte, size)) }()
	_, err := io.CopyN(io.Discard, c, size)
	require.NoError(t, err)
	took := time.Since(from)
	t.Logf("%d bytes in %v at %d bytes a second", size, took, rate)
	assert.Greater(t, took, time.Second, "headers count too")
	t.NotLater(from, from.Add(took), 3*time.Second, "the transfer")
}

// shaped makes a lab with one leg of the given shape, both of whose ends know their neighbours already.
func shaped(t testing.TB, s Shape) *Lab {
	t.Helper()
	l := newLab(t, 1)
	_, err := roundTrip(dial(t, l.Leg(0), echo(t, l)), "hello", 30*time.Second)
	require.NoError(t, err)
	require.NoError(t, l.Leg(0).Relay(s))
	return l
}

// datagrams sends so many numbered UDP datagrams from the leg's client to the server, every pace, and
// returns the numbers that came, in order of arrival, and when each came.
func datagrams(t testing.TB, l *Lab, n int, pace time.Duration, size int) (got []int, at []time.Time, sending time.Duration) {
	t.Helper()
	var to, from *net.UDPConn
	require.NoError(t, l.InServer(func() (err error) {
		to, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(ServerAddr)})
		return err
	}))
	defer to.Close()
	raw, err := to.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { // room for all of them, however long we are not let run
		assert.NoError(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 2*socketRoom))
	}))
	require.NoError(t, l.Leg(0).In(func() (err error) {
		from, err = net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
		return err
	}))
	defer from.Close()
	sent, heard := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(heard)
		buf, last := make([]byte, size), false
		for len(got) < n {
			_ = to.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if _, err := to.Read(buf); err != nil {
				if last {
					return
				}
				select {
				case <-sent:
					last = true
				default:
				}
				continue
			}
			got, at = append(got, int(binary.BigEndian.Uint32(buf))), append(at, time.Now())
		}
	}()
	buf := make([]byte, size)
	begin := time.Now()
	for i := range n {
		if d := time.Until(begin.Add(time.Duration(i) * pace)); d > 100*time.Microsecond {
			time.Sleep(d)
		}
		binary.BigEndian.PutUint32(buf, uint32(i))
		_, err := from.Write(buf)
		require.NoError(t, err)
	}
	sending = time.Since(begin)
	close(sent)
	<-heard
	return got, at, sending
}

func TestRelayLoss(t *testing.T) { busy.Try(t, testRelayLoss) }

func testRelayLoss(t *busy.T) {
	const n, loss = 4000, 0.05
	l := shaped(t, Shape{Loss: loss, Seed: 1})
	got, _, _ := datagrams(t, l, n, 50*time.Microsecond, 100)
	share := 1 - float64(len(got))/n
	t.Logf("%.1f %% lost", 100*share)
	assert.InDelta(t, loss, share, 0.015) // 4 standard deviations
	again := shaped(t, Shape{Loss: loss, Seed: 1})
	second, _, _ := datagrams(t, again, n, 50*time.Microsecond, 100)
	same := 0
	for same < min(len(got), len(second)) && got[same] == second[same] {
		same++
	}
	assert.True(t, slices.Equal(got, second), "the seed decides: of %d and %d that came the first %d are the same", len(got), len(second), same)
}

func TestRelayJitterKeepsOrder(t *testing.T) { busy.Try(t, testRelayJitterKeepsOrder) }

func testRelayJitterKeepsOrder(t *busy.T) {
	const n = 500
	l := shaped(t, Shape{Delay: 5 * time.Millisecond, Jitter: 50 * time.Millisecond})
	got, at, _ := datagrams(t, l, n, time.Millisecond, 100)
	assert.Equal(t, n, len(got))
	assert.True(t, slices.IsSorted(got))
	gap := time.Duration(0)
	for i := range len(at) - 1 {
		gap = max(gap, at[i+1].Sub(at[i]))
	}
	assert.Greater(t, gap, 5*time.Millisecond, "not evenly")
}

// A drop-tail queue: what is more than it holds is lost, what it holds comes out at the rate.
func TestRelayQueue(t *testing.T) { busy.Try(t, testRelayQueue) }

func testRelayQueue(t *busy.T) {
	const size, headers, n = 972, 28, 200
	l := shaped(t, Shape{Rate: 100_000, Queue: 50_000})
	got, at, sending := datagrams(t, l, n, 0, size)
	require.NotEmpty(t, got)
	t.Logf("%d of %d came, the last one after %v", len(got), n, at[len(at)-1].Sub(at[0]))
	room, last := 50_000/(size+headers), len(at)-1
	assert.GreaterOrEqual(t, len(got), room-5)
	assert.LessOrEqual(t, len(got), room+5+int(sending/(10*time.Millisecond)), "as many more as went meanwhile")
	assert.Equal(t.IfQuiet(busy.Doze), last, got[last], "the tail is dropped, if all are sent at once")
	want := time.Duration(last) * 10 * time.Millisecond
	assert.Greater(t.IfQuiet(busy.Doze), at[last].Sub(at[0]), want-50*time.Millisecond)
	t.NotLater(at[0], at[last], want+50*time.Millisecond, "%d datagrams", last)
}

// It keeps up with 20,000 packets a second.
func TestRelaySpeed(t *testing.T) { busy.Try(t, testRelaySpeed) }

func testRelaySpeed(t *busy.T) {
	const n = 20_000
	l := shaped(t, Shape{Delay: 5 * time.Millisecond})
	got, at, sending := datagrams(t, l, n, time.Second/n, 200)
	require.NotEmpty(t, got)
	t.Logf("%d of %d came, sent in %v, heard in %v", len(got), n, sending, at[len(at)-1].Sub(at[0]))
	assert.GreaterOrEqual(t.IfQuiet(busy.Doze), len(got), n*99/100)
	t.NotLater(at[0], at[len(at)-1], sending+time.Second, "hearing them")
}

// Segments larger than the MTU, or without a checksum, would not arrive.
func TestRelayBulk(t *testing.T) {
	for _, delay := range []time.Duration{0, 10 * time.Millisecond} {
		t.Run(fmt.Sprint(delay), func(t *testing.T) {
			const size = 16 << 20
			_, c := relayed(t, Shape{Delay: delay})
			require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
			from := time.Now()
			go func() { _, _ = c.Write(make([]byte, size)) }()
			_, err := io.CopyN(io.Discard, c, size)
			require.NoError(t, err)
			t.Logf("%d MiB both ways in %v", size>>20, time.Since(from))
		})
	}
}
