//go:build linux

package bench

import (
	"bufio"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
)

// chaosActs are all that a chaos client does. One that needs the server to end it waits no longer than
// chaosPatience.
var chaosActs = []struct {
	name string
	do   func(w *worker)
}{
	{"random bytes", (*worker).garbage},
	{"half a frame", (*worker).half},
	{"RST at any byte", (*worker).cutOff},
	{"FIN at any byte", (*worker).finish},
	{"tiny window", (*worker).sip},
	{"huge pipeline", (*worker).flood},
	{"storm", (*worker).storm},
	{"byte by byte", (*worker).trickle},
	{"never reads", (*worker).deaf},
	{"lengths", (*worker).lengths},
	{"silence", (*worker).silence},
	{"urgent data", (*worker).urgent},
	{"Goodbyes", (*worker).goodbyes},
	{"Pings and Pongs", (*worker).pings},
	{"good manners", (*worker).polite},
	{"connect and RST", (*worker).flee},
}

// rawFrame is a frame of any type and length, also of those that are not allowed.
func rawFrame(typ codec.Type, payload []byte) []byte {
	n := len(payload)
	return append([]byte{byte(typ), byte(n >> 16), byte(n >> 8), byte(n)}, payload...)
}

// frame returns a frame: a message that makes the application do something, mostly.
func (w *worker) frame() []byte {
	n := w.rnd.IntN(64)
	switch w.rnd.IntN(20) {
	case 0:
		n = 0
	case 1:
		n = w.rnd.IntN(soakPayloadMax + 1)
	}
	typ := codec.Data
	switch w.rnd.IntN(12) {
	case 0:
		typ = codec.Ping
	case 1:
		typ = codec.Pong
	}
	if typ != codec.Data {
		n = min(n, 70) // some are too long
	}
	return rawFrame(typ, w.bytes(n))
}

// calm returns a frame that does not end the session.
func (w *worker) calm() []byte {
	p := w.bytes(2 + w.rnd.IntN(64))
	p[0] = byte(w.rnd.IntN(8))
	return rawFrame(codec.Data, p)
}

func (w *worker) garbage() {
	if cc := w.dial(0); cc != nil {
		cc.say(w.bytes(1 + w.rnd.IntN(2000)))
		if w.rnd.IntN(2) == 0 {
			cc.drink()
		}
		w.part(cc)
	}
}

// half begins a frame and does not finish it.
func (w *worker) half() {
	cc := w.dial(0)
	if cc == nil {
		return
	}
	f := rawFrame(codec.Data, w.bytes(1+w.rnd.IntN(soakPayloadMax)))
	cc.say(append(w.calm(), f[:1+w.rnd.IntN(len(f)-1)]...))
	if w.rnd.IntN(3) == 0 {
		cc.drink()
	}
	w.part(cc)
}

func (w *worker) cutOff() {
	if cc := w.dial(0); cc != nil {
		all := w.frames(8)
		cc.say(all[:w.rnd.IntN(len(all)+1)])
		w.sleep(time.Duration(w.rnd.IntN(3)) * time.Millisecond)
		cc.rst()
	}
}

func (w *worker) finish() {
	if cc := w.dial(0); cc != nil {
		all := w.frames(8)
		cc.say(all[:w.rnd.IntN(len(all)+1)])
		_ = cc.CloseWrite()
		cc.drink()
		cc.end()
	}
}

// sip asks for much with a window of next to nothing, and takes it in sips.
func (w *worker) sip() {
	cc := w.dial(1) // the kernel makes it a little more: see socket(7)
	if cc == nil {
		return
	}
	for range 1 + w.rnd.IntN(4) {
		cc.say(rawFrame(codec.Data, []byte{2, byte(w.rnd.Uint32())}))
	}
	b := make([]byte, 512)
	for range w.rnd.IntN(200) {
		if _, err := cc.Read(b[:1+w.rnd.IntN(len(b))]); err != nil {
			break
		}
		w.sleep(time.Duration(w.rnd.IntN(5)) * time.Millisecond)
	}
	w.part(cc)
}

// flood sends as much as it can, and reads all of it, or nothing.
func (w *worker) flood() {
	cc := w.dial(0)
	if cc == nil {
		return
	}
	var all []byte
	for len(all) < 64<<10 {
		all = append(all, w.calm()...)
	}
	if w.rnd.IntN(2) == 0 {
		go cc.drink() // it ends with the connection
	}
	for range 1 + w.rnd.IntN(64) {
		if !cc.say(all) {
			break
		}
	}
	w.part(cc)
}

// storm connects very often at once.
func (w *worker) storm() {
	if w.rnd.IntN(8) != 0 {
		return // others are to be heard too
	}
	var all sync.WaitGroup
	hold := time.Duration(w.rnd.IntN(300)) * time.Millisecond
	rude := w.rnd.IntN(2) == 0
	for range 100 + w.rnd.IntN(400) {
		all.Go(func() {
			cc := w.dial(0)
			if cc == nil {
				return
			}
			w.sleep(hold)
			if rude {
				cc.rst()
			} else {
				cc.end()
			}
		})
	}
	all.Wait()
}

// trickle says something byte by byte, each in a segment of its own.
func (w *worker) trickle() {
	cc := w.dial(0)
	if cc == nil {
		return
	}
	all := append(w.calm(), w.frames(3)...)
	pause := time.Duration(w.rnd.IntN(20)) * time.Millisecond
	for _, b := range all[:min(len(all), 300)] {
		if !cc.say([]byte{b}) {
			break
		}
		w.sleep(pause)
	}
	w.part(cc)
}

// deaf has much sent to it and never reads.
func (w *worker) deaf() {
	cc := w.dial(w.rnd.IntN(2) * 4096)
	if cc == nil {
		return
	}
	for range 1 + w.rnd.IntN(200) {
		if !cc.say(rawFrame(codec.Data, []byte{2, 255})) {
			break
		}
	}
	w.hangUp(cc)
}

// hangUp waits for the end without reading: an RST, or the worker's patience.
func (w *worker) hangUp(cc *chaosConn) {
	for deadline := time.Now().Add(time.Duration(w.rnd.IntN(int(chaosPatience)))); time.Now().Before(deadline) && !w.ended(); {
		if raw, err := cc.SyscallConn(); err == nil {
			gone := false
			err = raw.Control(func(fd uintptr) {
				fds := []unix.PollFd{{Fd: int32(fd)}}
				_, _ = unix.Poll(fds, 0)
				gone = fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
			})
			if gone || err != nil {
				break
			}
		}
		w.sleep(20 * time.Millisecond)
	}
	w.part(cc)
}

// lengths sends frames of lengths at the limits.
func (w *worker) lengths() {
	cc := w.dial(0)
	if cc == nil {
		return
	}
	lengths := []int{0, soakPayloadMax - 1, soakPayloadMax, 0, soakPayloadMax + 1, 1<<24 - 1}
	for _, n := range lengths[:1+w.rnd.IntN(len(lengths))] {
		f := rawFrame(codec.Data, make([]byte, min(n, soakPayloadMax+1)))
		f[1], f[2], f[3] = byte(n>>16), byte(n>>8), byte(n)
		if !cc.say(f) {
			break
		}
	}
	if w.rnd.IntN(2) == 0 {
		cc.drink()
	}
	w.part(cc)
}

// silence says nothing, or one thing and then nothing more.
func (w *worker) silence() {
	if cc := w.dial(0); cc != nil {
		if w.rnd.IntN(2) == 0 {
			cc.say(w.calm())
		}
		w.hangUp(cc)
	}
}

// urgent sends out of band, which the stream does not show; and then as any other.
func (w *worker) urgent() {
	cc := w.dial(0)
	if cc == nil {
		return
	}
	for range 1 + w.rnd.IntN(5) {
		cc.say(w.calm())
		if raw, err := cc.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.Sendto(int(fd), []byte{'!'}, unix.MSG_OOB|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
			})
		}
	}
	w.part(cc)
}

// goodbyes says Goodbye, in one of the ways that it should not.
func (w *worker) goodbyes() {
	cc := w.dial(0)
	if cc == nil {
		return
	}
	payload := w.bytes(w.rnd.IntN(126)) // most are no text
	if w.rnd.IntN(2) == 0 {
		payload, _ = codec.AppendGoodbye(nil, uint16(w.rnd.Uint32()), "that is all")
	}
	cc.say(slices.Concat(w.calm(), rawFrame(codec.Goodbye, payload), w.frames(2)))
	switch w.rnd.IntN(3) {
	case 0:
		w.hangUp(cc)
		return
	case 1:
		cc.drink()
	}
	w.part(cc)
}

// pings sends Pings and Pongs that nobody asked for.
func (w *worker) pings() {
	cc := w.dial(0)
	if cc == nil {
		return
	}
	for range 1 + w.rnd.IntN(200) {
		typ := []codec.Type{codec.Ping, codec.Pong}[w.rnd.IntN(2)]
		if !cc.say(rawFrame(typ, w.bytes(w.rnd.IntN(66)))) {
			break
		}
	}
	w.part(cc)
}

// polite does for a while what a client should.
func (w *worker) polite() {
	cc := w.dial(0)
	if cc == nil {
		return
	}
	for range 1 + w.rnd.IntN(20) {
		if !cc.say(w.frames(2)) {
			break
		}
		w.sleep(time.Duration(w.rnd.IntN(20)) * time.Millisecond)
	}
	_ = cc.SetReadDeadline(time.Now().Add(time.Duration(w.rnd.IntN(1500)) * time.Millisecond))
	for in := bufio.NewReader(cc.TCPConn); ; {
		f, err := readFrame(in)
		if err != nil || f.Type == codec.Goodbye {
			break
		}
		if f.Type == codec.Ping && !cc.say(rawFrame(codec.Pong, f.Payload)) {
			break
		}
	}
	w.part(cc)
}

func (w *worker) flee() {
	if cc := w.dial(0); cc != nil {
		cc.rst()
	}
}
