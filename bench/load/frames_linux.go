package load

import "github.com/pulsewheel/pulsewheel/codec"

// frames is where a connection is in the stream of frames that comes back.
type frames struct {
	kind codec.Type // of the frame whose payload is being read
	have uint8      // bytes of the header that are there, 0 to 3
	head [codec.HeaderSize]byte
	body int32  // bytes of the payload still to come
	keep []byte // the payload so far, of a frame that was cut in two and is not Data
}

// read reads frames: the bytes of Data are counted as replies, Pings are answered.
func (t *thread) read(i int, b []byte) {
	c := &t.conns[i]
	data := 0
	for len(b) > 0 {
		f := &c.frames
		if f.body == 0 {
			n := copy(f.head[f.have:], b)
			b = b[n:]
			if f.have += uint8(n); f.have < codec.HeaderSize {
				break
			}
			f.have, f.keep = 0, f.keep[:0]
			f.kind = codec.Type(f.head[0])
			f.body = int32(f.head[1])<<16 | int32(f.head[2])<<8 | int32(f.head[3])
			switch {
			case f.kind == codec.Data:
				data += codec.HeaderSize
			case f.kind == 0 || f.kind > codec.Ack:
				t.lost(i, "what came is no frame of codec.Binary: type %d", f.kind)
				return
			}
		}
		n := min(int(f.body), len(b))
		part := b[:n]
		b = b[n:]
		f.body -= int32(n)
		if f.kind == codec.Data {
			data += n
			continue
		}
		if f.body > 0 || len(f.keep) > 0 {
			f.keep = append(f.keep, part...)
			part = f.keep
		}
		if f.body == 0 && !t.told(i, f.kind, part) {
			return
		}
	}
	if data > 0 {
		t.got(i, data)
	}
}

// told does what a frame that is not Data asks for. It is false when the connection is lost.
func (t *thread) told(i int, kind codec.Type, payload []byte) bool {
	switch kind {
	case codec.Ping:
		var pong [codec.HeaderSize + codec.PingPayloadMax]byte
		n := copy(pong[codec.HeaderSize:], payload)
		pong[0], pong[3] = byte(codec.Pong), byte(n)
		t.pings.Add(1)
		t.send(i, pong[:codec.HeaderSize+n])
	case codec.Goodbye:
		reason, text, err := codec.ParseGoodbye(payload)
		t.lost(i, "the server says goodbye: reason %d %q (%v)", reason, text, err)
	default:
	}
	return t.conns[i].fd >= 0
}
