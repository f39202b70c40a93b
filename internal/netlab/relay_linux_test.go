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
		t.Run(delay.String(), func(t *testing.T) {
			_, c := relayed(t, Shape{Delay: delay})
			var took []time.Duration
			for range 7 {
				rtt, err := roundTrip(c, "hello", 10*time.Second)
				require.NoError(t, err)
				took = append(took, rtt)
			}
			slices.Sort(took)
			t.Logf("round trips of %v", took)
			assert.GreaterOrEqual(t, took[0], 2*delay)
			assert.Less(t, took[0], 2*delay+10*time.Millisecond)
		})
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

func TestRelayStall(t *testing.T) {
	const stall = 500 * time.Millisecond
	g, c := relayed(t, Shape{Delay: time.Millisecond})
	_, err := roundTrip(c, "before", 5*time.Second)
	require.NoError(t, err)
	require.NoError(t, g.Stall(stall))
	rtt, err := roundTrip(c, "held back", 5*time.Second)
	require.NoError(t, err)
	t.Logf("a round trip of %v", rtt)
	assert.Greater(t, rtt, stall-10*time.Millisecond)
	assert.Less(t, rtt, stall+100*time.Millisecond, "at its end it goes on at once: it needs no retransmission")
	rtt, err = roundTrip(c, "after", 5*time.Second)
	require.NoError(t, err)
	assert.Less(t, rtt, 100*time.Millisecond)
}

// Bulk data takes the time that the rate gives it.
func TestRelayRate(t *testing.T) {
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
	assert.Less(t, took, 3*time.Second)
}

// datagrams sends so many numbered UDP datagrams from the leg's client to the server, every pace, and
// returns the numbers that came, in order of arrival, and when each came.
func datagrams(t *testing.T, l *Lab, n int, pace time.Duration, size int) (got []int, at []time.Time, sending time.Duration) {
	t.Helper()
	var to, from *net.UDPConn
	require.NoError(t, l.InServer(func() (err error) {
		to, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(ServerAddr)})
		return err
	}))
	defer to.Close()
	require.NoError(t, to.SetReadBuffer(8<<20))
	require.NoError(t, l.Leg(0).In(func() (err error) {
		from, err = net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
		return err
	}))
	defer from.Close()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		buf := make([]byte, size)
		for {
			_ = to.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
			if _, err := to.Read(buf); err != nil {
				return
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
	<-heard
	return got, at, sending
}

func TestRelayLoss(t *testing.T) {
	const n, loss = 4000, 0.05
	l := newLab(t, 1)
	require.NoError(t, l.Leg(0).Relay(Shape{Loss: loss, Seed: 1}))
	got, _, _ := datagrams(t, l, n, 50*time.Microsecond, 100)
	share := 1 - float64(len(got))/n
	t.Logf("%.1f %% lost", 100*share)
	assert.InDelta(t, loss, share, 0.015) // 4 standard deviations
	again := newLab(t, 1)
	require.NoError(t, again.Leg(0).Relay(Shape{Loss: loss, Seed: 1}))
	second, _, _ := datagrams(t, again, n, 50*time.Microsecond, 100)
	assert.Equal(t, got, second, "the seed decides")
}

func TestRelayJitterKeepsOrder(t *testing.T) {
	const n = 500
	l := newLab(t, 1)
	require.NoError(t, l.Leg(0).Relay(Shape{Delay: 5 * time.Millisecond, Jitter: 50 * time.Millisecond}))
	got, at, _ := datagrams(t, l, n, time.Millisecond, 100)
	assert.Len(t, got, n)
	assert.True(t, slices.IsSorted(got))
	gap := time.Duration(0)
	for i := range len(at) - 1 {
		gap = max(gap, at[i+1].Sub(at[i]))
	}
	assert.Greater(t, gap, 5*time.Millisecond, "not evenly")
}

// A drop-tail queue: what is more than it holds is lost, what it holds comes out at the rate.
func TestRelayQueue(t *testing.T) {
	const size, headers, n = 972, 28, 200
	l := newLab(t, 1)
	require.NoError(t, l.Leg(0).Relay(Shape{Rate: 100_000, Queue: 50_000}))
	got, at, _ := datagrams(t, l, n, 0, size)
	require.NotEmpty(t, got)
	t.Logf("%d of %d came, the last one after %v", len(got), n, at[len(at)-1].Sub(at[0]))
	assert.InDelta(t, 50_000/(size+headers), len(got), 5)
	assert.Equal(t, len(got)-1, got[len(got)-1], "the tail is dropped")
	want := time.Duration(len(got)-1) * 10 * time.Millisecond
	assert.InDelta(t, want.Seconds(), at[len(at)-1].Sub(at[0]).Seconds(), 0.05)
}

// It keeps up with 20,000 packets a second.
func TestRelaySpeed(t *testing.T) {
	const n = 20_000
	l := newLab(t, 1)
	require.NoError(t, l.Leg(0).Relay(Shape{Delay: 5 * time.Millisecond}))
	got, at, sending := datagrams(t, l, n, time.Second/n, 200)
	require.NotEmpty(t, got)
	t.Logf("%d of %d came, sent in %v, heard in %v", len(got), n, sending, at[len(at)-1].Sub(at[0]))
	assert.GreaterOrEqual(t, len(got), n*99/100)
	assert.Less(t, at[len(at)-1].Sub(at[0]), sending+time.Second)
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
