//go:build linux

package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
)

func init() { roles["model"] = modelClients }

// modelClients is a process of many clients. Each line on its standard input is an order to one of them:
//
//	dial NUMBER TRAIT USER     connect, say who it is
//	mute NUMBER                connect, say nothing; dribble: a first frame, byte by byte
//	WORD NUMBER ...            see member.obey
//
// What they do and what becomes of them are lines on its standard output, times in nanoseconds since 1970:
//
//	dialed NUMBER ADDR TIME    the connection is there
//	up NUMBER                  the server has answered
//	acted NUMBER TIME B F      an order was carried out at TIME; so many bytes and frames had been sent
//	over NUMBER HOW B CODE     the connection is over; so many bytes had come, and a Goodbye with CODE (0: none)
//	late TIME D                the machine kept this process from running for D ns, up to TIME
//	wrong NUMBER WHAT          the server broke the protocol
func modelClients(args []string) {
	crowd := &crowd{addr: args[0], members: map[string]*member{}}
	go crowd.watchLate()
	go crowd.chat()
	crowd.say("ready")
	_ = syscall.SetNonblock(0, true) // so that waiting for an order does not keep the only processor
	in := bufio.NewScanner(os.NewFile(0, "stdin"))
	for in.Scan() {
		f := strings.Fields(in.Text())
		switch word, number := f[0], f[1]; word {
		case "dial", "mute", "dribble":
			go crowd.dial(word, number, f[2:])
		default:
			if m := crowd.member(number); m != nil {
				m.obey(word, f[2:])
			}
		}
	}
}

// crowd is the members of one process.
type crowd struct {
	addr string
	out  sync.Mutex

	mu      sync.Mutex
	members map[string]*member
}

func (c *crowd) say(format string, args ...any) {
	c.out.Lock()
	defer c.out.Unlock()
	fmt.Printf(format+"\n", args...)
}

func (c *crowd) member(number string) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[number]
}

// watchLate says when this process was held up.
func (c *crowd) watchLate() {
	h := watchHeldUp()
	for before := time.Duration(0); ; time.Sleep(4 * doze) {
		if total := h.total(); total-before >= 4*doze {
			c.say("late %d %d", time.Now().UnixNano(), total-before)
			before = total
		}
	}
}

// dialing bounds the connections that are being made at a time.
var dialing = make(chan struct{}, 16)

func (c *crowd) dial(word, number string, args []string) {
	dialing <- struct{}{}
	d := net.Dialer{KeepAlive: -1, Timeout: 20 * time.Second}
	d.SetMultipathTCP(false)
	nc, err := d.Dial("tcp", c.addr)
	<-dialing
	if err != nil {
		c.say("failed %s %q", number, err)
		return
	}
	m := &member{crowd: c, number: number, nc: nc.(*net.TCPConn), gone: make(chan struct{}), speechless: word == "mute"}
	m.r = bufio.NewReaderSize(m, 512)
	if word == "dial" {
		m.trait = trait(slices.Index(traitNames[:], args[0]))
	}
	c.mu.Lock()
	c.members[number] = m
	c.mu.Unlock()
	c.say("dialed %s %s %d", number, nc.LocalAddr(), time.Now().UnixNano())
	switch word {
	case "dial":
		m.write(frame(codec.Data, []byte("h "+args[0]+" "+args[1])))
	case "dribble":
		m.obey("trickle", nil)
	}
	m.read()
}

// member is one client: a goroutine reads, everybody may write.
type member struct {
	crowd  *crowd
	number string
	nc     *net.TCPConn
	r      *bufio.Reader
	trait  trait
	got    uint64        // bytes
	gone   chan struct{} // closed when it is over

	up, stubborn atomic.Bool
	talks        atomic.Bool // sends what wants no answer
	napUntil     atomic.Int64

	mu           sync.Mutex // guards the rest, and writing
	sent, frames int
	speechless   bool // writes nothing more by itself
	wrote, heard int  // numbers in messages to be echoed
	nextSay      time.Time
}

// Read counts.
func (m *member) Read(b []byte) (int, error) {
	n, err := m.nc.Read(b)
	m.got += uint64(n)
	return n, err
}

// write sends whole frames, unless it is speechless.
func (m *member) write(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.speechless {
		m.writeLocked(b, 1)
	}
}

func (m *member) writeLocked(b []byte, frames int) {
	n, err := m.nc.Write(b)
	m.sent += n
	if err == nil {
		m.frames += frames
	}
}

// read reads until the connection is over.
func (m *member) read() {
	how, goodbye := "", uint16(0)
	for how == "" {
		f, err := m.next()
		if until := m.napUntil.Load(); until != 0 {
			time.Sleep(time.Until(time.Unix(0, until)))
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // it was told to read no more
			<-m.gone
			how = "closed"
			continue
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			how = "eof"
			continue
		case errors.Is(err, syscall.ECONNRESET):
			how = "reset"
			continue
		case errors.Is(err, net.ErrClosed):
			how = "closed"
			continue
		case err != nil:
			how = fmt.Sprintf("%q", err)
			continue
		}
		switch f.Type {
		case codec.Ping:
			m.write(frame(codec.Pong, f.Payload))
		case codec.Data:
			m.take(f.Payload)
		case codec.Goodbye:
			goodbye, _, _ = codec.ParseGoodbye(f.Payload)
			if !m.stubborn.Load() {
				_ = m.nc.CloseWrite() // and reads on to the end
				m.mu.Lock()
				m.speechless = true
				m.mu.Unlock()
			}
		}
	}
	_ = m.nc.Close()
	m.crowd.mu.Lock()
	delete(m.crowd.members, m.number)
	m.crowd.mu.Unlock()
	m.crowd.say("over %s %s %d %d", m.number, how, m.got, goodbye)
}

// next reads a frame; of a long one only the header matters.
func (m *member) next() (codec.Frame, error) {
	head, err := m.r.Peek(codec.HeaderSize)
	if err != nil {
		return codec.Frame{}, err
	}
	if m.trait == lazy && m.up.Load() {
		time.Sleep(time.Duration(100+m.got%300) * time.Millisecond)
	}
	if n := int(head[1])<<16 | int(head[2])<<8 | int(head[3]); n > 256 {
		typ := codec.Type(head[0])
		_, err := m.r.Discard(codec.HeaderSize + n)
		return codec.Frame{Type: typ}, err
	}
	return readFrame(m.r)
}

// take acts on a message: "w" welcomes, "e N" comes back, everything else is streamed.
func (m *member) take(p []byte) {
	if len(p) == 0 {
		return
	}
	switch p[0] {
	case 'w':
		m.up.Store(true)
		m.crowd.say("up %s", m.number)
	case 'e':
		m.mu.Lock()
		m.heard++
		if string(p) != "e "+strconv.Itoa(m.heard) {
			m.crowd.say("wrong %s %q instead of echo %d", m.number, p, m.heard)
		}
		m.mu.Unlock()
	}
}

// chat has the chatty say something, the pingers ping, and those who talk talk.
func (c *crowd) chat() {
	for now := range time.Tick(50 * time.Millisecond) {
		c.mu.Lock()
		all := make([]*member, 0, len(c.members))
		for _, m := range c.members {
			if m.trait == chatty || m.trait == pinger || m.talks.Load() {
				all = append(all, m)
			}
		}
		c.mu.Unlock()
		for _, m := range all {
			m.chat(now)
		}
	}
}

func (m *member) chat(now time.Time) {
	if !m.up.Load() || now.UnixNano() < m.napUntil.Load() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.speechless || now.Before(m.nextSay) {
		return
	}
	m.nextSay = now.Add(400*time.Millisecond + time.Duration(now.UnixNano()%1000)*time.Millisecond)
	switch {
	case m.talks.Load():
		m.nextSay = now.Add(200 * time.Millisecond)
		m.writeLocked(frame(codec.Data, []byte("t")), 1)
	case m.trait == chatty:
		m.wrote++
		m.writeLocked(frame(codec.Data, []byte("e "+strconv.Itoa(m.wrote))), 1)
	case m.trait == pinger:
		m.writeLocked(frame(codec.Ping, []byte("there?")), 1)
	}
}

// acted says that an order has been carried out, begun at the time given. mu is held.
func (m *member) acted(at time.Time) {
	m.crowd.say("acted %s %d %d %d", m.number, at.UnixNano(), m.sent, m.frames)
}

// obey does to the connection what the model wants done.
func (m *member) obey(word string, args []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := time.Now()
	if word != "nap" && word != "say" && word != "stubborn" && word != "deaf" && word != "unread" {
		m.speechless = true
	}
	switch word {
	case "fin":
		_ = m.nc.CloseWrite()
	case "close":
		_ = m.nc.Close()
	case "rst":
		_ = m.nc.SetLinger(0)
		_ = m.nc.Close()
	case "drop": // the model says that the server is through with it
		_ = m.nc.SetLinger(0)
		_ = m.nc.Close()
		close(m.gone)
		return
	case "unread":
		m.deafen()
		m.writeLocked(frame(codec.Data, []byte("b")), 1)
		m.speechless = true
		go m.closeUnread()
		return
	case "goodbye", "goodbye-close", "goodbye-stay":
		code, _ := strconv.Atoi(args[0])
		p, _ := codec.AppendGoodbye(nil, uint16(code), "code "+args[0])
		m.writeLocked(frame(codec.Goodbye, p), 1)
		if word == "goodbye" {
			_ = m.nc.CloseWrite()
		} else if word == "goodbye-close" {
			_ = m.nc.Close()
		}
	case "garbage":
		m.writeLocked([]byte("GET / HTTP/1.1\r\nHost: game\r\n\r\n"), 0)
	case "oversize":
		m.writeLocked([]byte{byte(codec.Data), 0xff, 0xff, 0xff, 'x'}, 0)
	case "half":
		m.writeLocked(frame(codec.Data, make([]byte, 100))[:50], 0)
	case "trickle":
		go m.trickle()
	case "deaf":
		m.deafen()
		m.talks.Store(true)
	case "halt":
		m.deafen()
	case "nap":
		d, _ := time.ParseDuration(args[0])
		m.napUntil.Store(at.Add(d).UnixNano())
	case "say":
		m.writeLocked(frame(codec.Data, []byte(strings.Join(args, " "))), 1)
	case "stubborn":
		m.stubborn.Store(true)
	}
	m.acted(at)
}

// deafen makes the reader read no more.
func (m *member) deafen() {
	_ = m.nc.SetReadBuffer(16 << 10)
	_ = m.nc.SetReadDeadline(time.Unix(1, 0))
}

// closeUnread closes when the server's answer lies in the receive queue.
func (m *member) closeUnread() {
	raw, err := m.nc.SyscallConn()
	for waiting, tries := 0, 0; err == nil && waiting == 0 && tries < 2000; tries++ {
		time.Sleep(time.Millisecond)
		err = raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acted(time.Now())
	close(m.gone)
	_ = m.nc.Close()
}

// trickle sends a frame byte by byte, and never the end of it.
func (m *member) trickle() {
	b := frame(codec.Data, make([]byte, 1000))
	for i := range b {
		m.mu.Lock()
		at := time.Now()
		_, err := m.nc.Write(b[i : i+1])
		m.sent++
		if i == 0 {
			m.acted(at)
		}
		m.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(80 * time.Millisecond)
	}
}
