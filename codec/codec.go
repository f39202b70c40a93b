// Package codec turns bytes into frames and frames into bytes.
//
// It is pure: no sockets, no clock, no goroutines. [Binary] is the wire format
// that PROTOCOL.md defines; any other format is a [Codec] of its own.
package codec

import "strconv"

// Type says what a frame is for.
type Type uint8

const (
	// Invalid is no frame: a run of zero bytes must never parse.
	Invalid Type = 0
	// Data carries the application's bytes.
	Data Type = 1
	// Ping asks for a Pong with the same payload.
	Ping Type = 2
	// Pong answers a Ping and echoes its payload.
	Pong Type = 3
	// Goodbye is the last frame of its sender: a reason and a text, see [ParseGoodbye].
	Goodbye Type = 4
	// Hello, Welcome and Ack are reserved for sessions that can be resumed.
	// Binary decodes them as frames; whether one is allowed is not for a codec to say.
	Hello   Type = 5
	Welcome Type = 6
	Ack     Type = 7
	// Raw never appears on the wire. The Decode of a stateful codec returns a
	// frame of this type to say "send these payload bytes back to the peer as
	// they are": a WebSocket upgrade, a handshake of its own. With an empty
	// payload it says that the bytes are consumed and nothing is to be sent.
	Raw Type = 255
)

var typeNames = [...]string{"invalid", "data", "ping", "pong", "goodbye", "hello", "welcome", "ack"}

// String returns the name of t in lower case, or "type(9)" for one without a name.
func (t Type) String() string {
	switch {
	case int(t) < len(typeNames):
		return typeNames[t]
	case t == Raw:
		return "raw"
	}
	return "type(" + strconv.Itoa(int(t)) + ")"
}

// Frame is one message on the wire.
type Frame struct {
	Type Type
	// Payload, in a frame that Decode returned, aliases the bytes given to
	// Decode and is valid until those are reused. The payload of a Raw frame
	// may be the codec's own memory, valid until the next call of Decode.
	Payload []byte
}

// Codec is a wire format.
//
// One connection's calls of Decode come one after the other, and so do its calls of
// AppendFrame, but a call of the one may run while a call of the other does.
// A codec with state is one value per connection and guards what both touch.
type Codec interface {
	// Decode reads the frame at the start of b. It returns
	//   - n == 0, err == nil: b is the beginning of a frame, more bytes are needed;
	//   - n > 0: f occupies b[:n];
	//   - err != nil: b is no frame, and the connection is beyond repair.
	// It must not keep or change b.
	Decode(b []byte) (f Frame, n int, err error)

	// AppendFrame appends the encoded f to b and returns the extended slice,
	// as append does. On an error it returns b unchanged. It keeps neither b
	// nor f.Payload.
	AppendFrame(b []byte, f Frame) ([]byte, error)
}

// Needer is an optional interface of a [Codec]. With it, a large frame that arrives
// in many pieces is not looked at again for each of them.
type Needer interface {
	// Need returns how many bytes, counted from the start of b, must be there
	// before Decode can tell more than "need more bytes". Up to len(b) means that
	// Decode is to be asked now or, if it has been, with the next bytes. A number
	// too low costs a call of Decode; one too high would hold a frame back.
	Need(b []byte) int
}
