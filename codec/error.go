package codec

import (
	"errors"
	"fmt"
)

// The kinds of [Error], for errors.Is.
var (
	// ErrType is a type that the wire format does not have.
	ErrType = errors.New("codec: not a frame type")
	// ErrTooLong is a frame, or the text of a Goodbye, above its limit.
	ErrTooLong = errors.New("codec: too long")
	// ErrGoodbye is the payload of a Goodbye that is neither empty nor a number and a text.
	ErrGoodbye = errors.New("codec: malformed goodbye")
)

// Error says what is wrong with a frame. Errors of this package are of type *Error.
type Error struct {
	Kind   error  // ErrType, ErrTooLong or ErrGoodbye
	Type   Type   // of the frame
	Length int    // bytes that the payload (or the text) has or announces; 0 in an ErrType
	Limit  int    // bytes that it may have; only in an ErrTooLong
	Detail string // what is wrong, in an ErrGoodbye; what is too long ("frame" or "text"), in an ErrTooLong
}

// Error returns a sentence that names the type and, where they matter, length and limit.
func (e *Error) Error() string {
	switch e.Kind {
	case ErrType:
		return fmt.Sprintf("codec: type %d (%s) is not a frame type of the wire", uint8(e.Type), e.Type)
	case ErrTooLong:
		return fmt.Sprintf("codec: %s %s of %d bytes is longer than the limit of %d", e.Type, e.Detail, e.Length, e.Limit)
	case ErrGoodbye:
		return "codec: malformed goodbye: " + e.Detail
	}
	return fmt.Sprintf("codec: %s frame: %v", e.Type, e.Kind)
}

// Unwrap returns e.Kind.
func (e *Error) Unwrap() error { return e.Kind }
