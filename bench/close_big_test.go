//go:build linux

package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/server"
)

var closeSize = flag.Int("close.size", 16<<20, "bytes that are queued in TestCloseBig when Close is called")

// bigMessage is the length of one message, its header included.
const bigMessage = 64 << 10

// closer is a Handler that queues messages until there are enough, closes, and hands on how that ended.
type closer struct {
	server.Base
	ends chan *server.CloseError
}

func (h closer) OnMessage(s *server.Session, _ []byte) error {
	p := make([]byte, bigMessage-codec.HeaderSize)
	for i := range *closeSize / bigMessage {
		binary.BigEndian.PutUint64(p, uint64(i))
		if err := s.Send(p); err != nil {
			return err
		}
	}
	return s.Close(server.ServerClosed, "that was all")
}

func (h closer) OnClose(_ *server.Session, end *server.CloseError) { h.ends <- end }

// bigReader is a client of such a server.
type bigReader struct {
	nc      *net.TCPConn
	r       *bufio.Reader
	arrived int  // whole messages, in order
	goodbye bool // it came, with the right words
	end     error
}

// read reads messages and the Goodbye; before each it pauses.
func (b *bigReader) read(pause func(arrived int) time.Duration) {
	for {
		time.Sleep(pause(b.arrived))
		var f codec.Frame
		if f, b.end = readFrame(b.r); b.end != nil {
			return
		}
		switch f.Type {
		case codec.Data:
			if n := binary.BigEndian.Uint64(f.Payload); n != uint64(b.arrived) {
				b.end = fmt.Errorf("message %d came where %d was due", n, b.arrived)
				return
			}
			b.arrived++
		case codec.Goodbye:
			code, text, err := codec.ParseGoodbye(f.Payload)
			b.goodbye = err == nil && server.Reason(code) == server.ServerClosed && text == "that was all"
			return
		}
	}
}

// sip reads so many bytes, at most, every so often, until that is an error.
func (b *bigReader) sip(n int, every time.Duration) {
	_ = b.nc.SetReadDeadline(time.Time{})
	for p := make([]byte, n); ; time.Sleep(every) {
		if _, b.end = b.nc.Read(p); b.end != nil {
			return
		}
	}
}

// TestCloseBig queues 16 MiB and closes, towards readers of all kinds. Who reads on gets everything, then the Goodbye, and the server
// has not closed by then: however slow it is, and however short CloseTimeout. For whom it cannot be kept the record
// says why, and how much is lost.
//
//	go test ./bench -run TestCloseBig -v
func TestCloseBig(t *testing.T) {
	all := *closeSize / bigMessage
	fast := func(int) time.Duration { return 0 }
	for _, c := range []struct {
		name         string
		buffer       int // SO_RCVBUF; 0: as the kernel likes
		closeTimeout time.Duration
		pause        func(arrived int) time.Duration
		quit         func(b *bigReader) // instead of reading to the end
		late         bool               // it is reset after CloseTimeout, with everything in its kernel
		lost         bool
		far          bool            // its segments are short and its buffer is small
		why          []server.Reason // it was lost: one of these
	}{
		{name: "reads as fast as it can", closeTimeout: 100 * time.Millisecond, pause: fast},
		{name: "reads 8 MiB/s", buffer: 64 << 10, closeTimeout: 100 * time.Millisecond,
			pause: func(int) time.Duration { return 8 * time.Millisecond }},
		{name: "reads the last of it long after CloseTimeout", buffer: 200 << 10, closeTimeout: 100 * time.Millisecond, late: true,
			pause: func(n int) time.Duration {
				if n < all-1 {
					return 0
				}
				return time.Second
			}},
		{name: "reads, and pauses for long", buffer: 64 << 10, closeTimeout: 100 * time.Millisecond,
			pause: func(n int) time.Duration {
				if n == all/2 {
					return 600 * time.Millisecond // WriteTimeout is 1 s
				}
				return 0
			}},
		{name: "stops to read halfway", buffer: 64 << 10, closeTimeout: 100 * time.Millisecond, pause: fast,
			quit: func(*bigReader) {}, lost: true, why: []server.Reason{server.PeerSlow}},
		{name: "closes halfway", buffer: 64 << 10, closeTimeout: 100 * time.Millisecond, pause: fast,
			quit: func(b *bigReader) { _ = b.nc.Close() }, lost: true, why: []server.Reason{server.PeerReset, server.PeerClosed}},
		{name: "takes a little at a time", far: true, closeTimeout: 100 * time.Millisecond, pause: fast,
			quit: func(b *bigReader) { b.sip(2<<10, 100*time.Millisecond) }, lost: true, why: []server.Reason{server.PeerSlow}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := closer{ends: make(chan *server.CloseError, 1)}
			ln, err := server.Listen("127.0.0.1:0")
			require.NoError(t, err)
			serveOn(t, h, server.Config{Loops: 1, BacklogMax: 32 << 20, WriteTimeout: time.Second, CloseTimeout: c.closeTimeout, Tick: 20 * time.Millisecond}, ln)
			var dial net.Dialer
			if c.far {
				dial.Control = farAway
			}
			nc, err := dial.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			defer nc.Close()
			b := &bigReader{nc: nc.(*net.TCPConn), r: bufio.NewReaderSize(nc, bigMessage)}
			if c.buffer > 0 {
				require.NoError(t, b.nc.SetReadBuffer(c.buffer))
			}
			begun := time.Now()
			_, err = nc.Write(frame(codec.Data, []byte("go")))
			require.NoError(t, err)
			if c.quit != nil {
				b.read(func(n int) time.Duration {
					if n == all/2 {
						_ = nc.SetReadDeadline(time.Now())
					}
					return 0
				})
				require.ErrorIs(t, b.end, os.ErrDeadlineExceeded)
				c.quit(b)
			} else {
				b.read(c.pause)
				require.NoError(t, b.end, "after %d of %d messages", b.arrived, all)
				if !c.late { // the Goodbye is there, and nothing after it: the client is to close first
					require.NoError(t, nc.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
					_, b.end = b.r.ReadByte()
					assert.ErrorIs(t, b.end, os.ErrDeadlineExceeded, "the server has not closed yet")
				}
				_ = nc.Close()
			}
			var end *server.CloseError
			select {
			case end = <-h.ends:
			case <-time.After(20 * time.Second):
				require.FailNow(t, "no OnClose")
			}
			r := end.Record
			t.Logf("%d of %d KiB read, Goodbye %v, in %v; told: %v; %d of %d bytes unsent, reset %v",
				b.arrived*bigMessage>>10, *closeSize>>10, b.goodbye, time.Since(begun).Round(10*time.Millisecond), end, r.Unsent, r.BytesOut, r.Reset)
			assert.Equal(t, server.ServerClosed, end.Reason)
			if !c.lost {
				assert.Equal(t, all, b.arrived, "messages")
				assert.True(t, b.goodbye)
				assert.NoError(t, end.Err)
				assert.Zero(t, r.Unsent)
				assert.Equal(t, c.late, r.Reset)
				return
			}
			known := false
			for _, why := range c.why {
				known = known || errors.Is(end, why)
			}
			assert.True(t, known, "%v says why: %v", end, c.why)
			assert.Positive(t, r.Unsent)
			assert.Less(t, r.Unsent, *closeSize)
		})
	}
}
