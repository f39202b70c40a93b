package load

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
)

// A server that sends of itself is told how much has come, to the message, whatever the pieces it comes in.
func TestReports(t *testing.T) {
	message := frame(t, codec.Data, "twelve bytes")
	for _, pongs := range []bool{false, true} {
		var mu sync.Mutex
		var conns []net.Conn
		reports := make(chan int, 1000)
		addr := listen(t, func(c net.Conn, r *bufio.Reader) {
			for {
				f, err := readFrame(r)
				if err != nil {
					return
				}
				n := int(binary.BigEndian.Uint64(f[codec.HeaderSize:]))
				if n == 0 { // hello
					mu.Lock()
					conns = append(conns, c)
					mu.Unlock()
				}
				reports <- n
			}
		})
		c := dialed(t, Options{Addr: addr, Conns: 3, Message: message, Reports: 30, Pongs: pongs})
		_, err := c.Run(Round{Messages: 1})
		require.ErrorContains(t, err, "Reports")
		for range 3 {
			assert.Zero(t, next(t, reports))
		}
		for _, c := range conns { // 10 on each connection, and 2 and a half more
			_, err := c.Write(append(bytes.Repeat(message, 12), message[:8]...))
			require.NoError(t, err)
		}
		first := next(t, reports)
		assert.Equal(t, 30, first)
		for _, c := range conns {
			_, err := c.Write(append(append([]byte{}, message[8:]...), bytes.Repeat(message, 18)...))
			require.NoError(t, err)
		}
		for sum := first; sum <= 93-30; { // of 93 that have been sent
			n := next(t, reports)
			assert.Zero(t, n%30)
			sum += n
			assert.LessOrEqual(t, sum, 93)
		}
		select {
		case n := <-reports:
			assert.Fail(t, "more than was sent", "%d", n)
		case <-time.After(20 * time.Millisecond):
		}
	}
	_, err := Dial(Options{Addr: "127.0.0.1:1", Message: message, Reports: -1})
	require.ErrorContains(t, err, "negative")
}

func next(t *testing.T, reports chan int) int {
	t.Helper()
	select {
	case n := <-reports:
		return n
	case <-time.After(10 * time.Second):
		require.FailNow(t, "no report")
		return 0
	}
}
