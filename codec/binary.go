package codec

import "slices"

// Sizes of the binary format, in bytes.
const (
	HeaderSize        = 4         // type and payload length
	DefaultPayloadMax = 64 << 10  // Binary.PayloadMax, if zero
	PayloadLimit      = 1<<24 - 1 // what 24 bits of length can say
	PingPayloadMax    = 64        // of a Ping and of a Pong
	GoodbyeTextMax    = 123       // of the text in a Goodbye

	goodbyeCodeSize   = 2
	goodbyePayloadMax = goodbyeCodeSize + GoodbyeTextMax
)

// Binary is version 1 of the wire format, as PROTOCOL.md defines it. The zero
// value is ready for use. Binary has no state: it is comparable, and goroutines may share it.
type Binary struct {
	// PayloadMax is the largest payload of a frame, in bytes, both received
	// and sent. If zero (or less), it is DefaultPayloadMax, 64 KiB; above
	// PayloadLimit it is PayloadLimit. Ping, Pong and Goodbye have limits
	// of their own, which PayloadMax neither raises nor lowers.
	PayloadMax int
}

var (
	_ Codec  = Binary{}
	_ Needer = Binary{}
)

// Decode reads the frame at the start of b; see [Codec]. A bad type is
// refused with its first byte, a bad length with its header, before any payload is there.
func (c Binary) Decode(b []byte) (Frame, int, error) {
	n, err := c.frameSize(b)
	if err != nil {
		return Frame{}, 0, err
	}
	if len(b) < n {
		return Frame{}, 0, nil
	}
	// The payload's capacity ends with it, so that an append to it cannot reach the next frame.
	return Frame{Type: Type(b[0]), Payload: b[HeaderSize:n:n]}, n, nil
}

// Need returns the length of the frame at the start of b once its header is
// there, HeaderSize before, and 1 for an empty b: see [Needer]. It is never more than a frame
// within the limits has, whatever a header announces.
func (c Binary) Need(b []byte) int {
	n, _ := c.frameSize(b)
	return n
}

// AppendFrame appends the encoded f to b; see [Codec]. It refuses what Decode refuses.
func (c Binary) AppendFrame(b []byte, f Frame) ([]byte, error) {
	length := len(f.Payload)
	if err := c.check(f.Type, length); err != nil {
		return b, err
	}
	b = slices.Grow(b, HeaderSize+length)
	b = append(b, byte(f.Type), byte(length>>16), byte(length>>8), byte(length))
	return append(b, f.Payload...), nil
}

// frameSize returns how many bytes of b tell what can be told: the whole
// frame, or the part of the header that is wrong or still to come.
func (c Binary) frameSize(b []byte) (int, error) {
	if len(b) == 0 {
		return 1, nil
	}
	t := Type(b[0])
	if !wireType(t) {
		return 1, &Error{Kind: ErrType, Type: t}
	}
	if len(b) < HeaderSize {
		return HeaderSize, nil
	}
	length := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	if err := c.check(t, length); err != nil {
		return HeaderSize, err
	}
	return HeaderSize + length, nil
}

// check is what both directions hold a header to.
func (c Binary) check(t Type, length int) error {
	if !wireType(t) {
		return &Error{Kind: ErrType, Type: t}
	}
	if limit := c.limit(t); length > limit {
		return &Error{Kind: ErrTooLong, Type: t, Length: length, Limit: limit, Detail: "frame"}
	}
	return nil
}

// limit returns the largest payload of a frame of type t.
func (c Binary) limit(t Type) int {
	switch {
	case t == Ping || t == Pong:
		return PingPayloadMax
	case t == Goodbye:
		return goodbyePayloadMax
	case c.PayloadMax <= 0:
		return DefaultPayloadMax
	}
	return min(c.PayloadMax, PayloadLimit)
}

func wireType(t Type) bool { return Data <= t && t <= Ack }
