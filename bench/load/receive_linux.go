package load

import (
	"encoding/binary"

	"github.com/pulsewheel/pulsewheel/codec"
)

// unasked is what a thread knows of messages that its server sends of itself.
type unasked struct {
	every int64 // messages between two reports; 0: the server only replies
	size  int64 // bytes of one
	bytes int64 // that came since the last report, less what it told of
}

// hello says on each connection that it is there.
func (t *thread) hello() {
	if t.every == 0 {
		return
	}
	for i := range t.conns {
		t.report(i, 0)
	}
}

// came counts bytes that nobody asked for.
func (t *thread) came(n int) {
	t.bytes += int64(n)
	if n := t.bytes / t.size / t.every * t.every; n > 0 {
		t.bytes -= n * t.size
		t.report(0, uint64(n))
	}
}

// report tells the server how many messages have come.
func (t *thread) report(i int, messages uint64) {
	b := [codec.HeaderSize + 8]byte{byte(codec.Data), 0, 0, 8}
	binary.BigEndian.PutUint64(b[codec.HeaderSize:], messages)
	t.send(i, b[:])
}
