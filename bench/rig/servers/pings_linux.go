package servers

import (
	"encoding/binary"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// beatTick is how often a beat looks for what is due: as often as the library does by default.
const beatTick = 100 * time.Millisecond

// A beat sends the Pings that heartbeat.Policy sends to sessions that live: one after each silence of half
// to three quarters of an Interval, by a list of sessions for each tick. It is the least that can be done: nobody is
// suspected, nobody is convicted, no round trip is measured. A session is asked from its first message on.
type beat struct {
	epoch    time.Time
	interval uint64
	tick     uint32        // since epoch, as of the last look at the clock
	swept    uint32        // the last tick whose list has been done
	due      [][]int32     // descriptors, by tick modulo length
	peers    []beating     // by descriptor
	began    uint32        // sessions so far
	elapsed  time.Duration // since epoch, likewise
}

// beating is what is known of one session.
type beating struct {
	heard  uint32 // tick
	after  uint16 // ticks of silence until it is asked
	open   bool
	listed bool // it is in a list, once; what was closed is so until its tick comes
}

func newBeat(interval time.Duration) *beat {
	p := heartbeat.Policy{Interval: interval}.OrDefault()
	return &beat{epoch: time.Now(), interval: uint64(p.Interval / beatTick), due: make([][]int32, p.Interval*3/4/beatTick+2)}
}

// look reads the clock, and returns how many milliseconds there are until the next tick.
func (b *beat) look() int {
	b.elapsed = time.Since(b.epoch)
	b.tick = uint32(b.elapsed / beatTick)
	return int((beatTick-b.elapsed%beatTick)/time.Millisecond) + 1
}

// sweep asks those whose tick has come.
func (b *beat) sweep(l *loop) {
	for b.swept != b.tick {
		b.swept++
		list := &b.due[b.swept%uint32(len(b.due))]
		all := *list
		*list = all[:0] // what is put back into this one, by a beat that is late, overwrites only what is done
		ping := [codec.HeaderSize + 8]byte{0: byte(codec.Ping), 3: 8}
		binary.BigEndian.PutUint64(ping[codec.HeaderSize:], uint64(b.elapsed))
		for _, fd := range all {
			p := &b.peers[fd]
			if !p.open {
				p.listed = false
				continue
			}
			at := p.heard + uint32(p.after)
			if at <= b.tick {
				l.send(fd, l.cut[fd], ping[:])
				at = b.tick + uint32(p.after)
			}
			b.list(fd, at)
		}
	}
}

func (b *beat) list(fd int32, at uint32) {
	list := &b.due[at%uint32(len(b.due))]
	*list = append(*list, fd)
}

// heard notes that something has come.
func (b *beat) heard(fd int32) {
	for int(fd) >= len(b.peers) {
		b.peers = append(b.peers, beating{})
	}
	p := &b.peers[fd]
	p.heard = b.tick
	if p.open {
		return
	}
	const knuth = 2654435761 // the spread is the policy's
	b.began++
	p.after = uint16(max(b.interval/2+uint64(b.began*knuth)*(b.interval/4)>>32, 1))
	p.open = true
	if !p.listed {
		p.listed = true
		b.list(fd, b.tick+uint32(p.after))
	}
}

// gone notes that a connection has been closed.
func (b *beat) gone(fd int32) {
	if int(fd) < len(b.peers) {
		b.peers[fd].open = false
	}
}

// data returns the Data frames of whole frames, moved together.
func (b *beat) data(in []byte) []byte {
	kept := 0
	for at := 0; at < len(in); {
		size := codec.HeaderSize + int(binary.BigEndian.Uint32(in[at:])&0xffffff)
		if codec.Type(in[at]) == codec.Data {
			kept += copy(in[kept:], in[at:at+size])
		}
		at += size
	}
	return in[:kept]
}
