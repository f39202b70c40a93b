package codec

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// AppendGoodbye appends the payload of a Goodbye to b: the reason number and the text.
// A text above GoodbyeTextMax bytes or not in UTF-8 is an error, and b is
// returned unchanged; [CutGoodbyeText] makes any text fit. A Goodbye that gives no reason
// needs no payload at all.
func AppendGoodbye(b []byte, code uint16, text string) ([]byte, error) {
	if err := checkGoodbyeText(text); err != nil {
		return b, err
	}
	b = binary.BigEndian.AppendUint16(b, code)
	return append(b, text...), nil
}

// ParseGoodbye reads the payload of a Goodbye. An empty payload is code 0 without
// a text. One byte, a text above GoodbyeTextMax bytes and a text that is not
// UTF-8 are errors. The text is a copy; it is the peer's, so quote it in a log.
func ParseGoodbye(p []byte) (code uint16, text string, err error) {
	if len(p) == 0 {
		return 0, "", nil
	}
	if len(p) < goodbyeCodeSize {
		return 0, "", &Error{Kind: ErrGoodbye, Type: Goodbye, Length: len(p), Detail: "1 byte is too short for a reason number"}
	}
	if len(p) > goodbyePayloadMax { // before the text is copied
		return 0, "", goodbyeTextTooLong(len(p) - goodbyeCodeSize)
	}
	text = string(p[goodbyeCodeSize:])
	if err := checkGoodbyeText(text); err != nil {
		return 0, "", err
	}
	return binary.BigEndian.Uint16(p), text, nil
}

// CutGoodbyeText returns text as a Goodbye can carry it, and whether that changed
// it: each byte that is not UTF-8 is replaced by U+FFFD, and what goes beyond
// GoodbyeTextMax bytes is cut off, between two runes.
func CutGoodbyeText(text string) (string, bool) {
	if len(text) <= GoodbyeTextMax && utf8.ValidString(text) {
		return text, false
	}
	b := make([]byte, 0, GoodbyeTextMax)
	for _, r := range text { // an invalid byte comes out as U+FFFD
		if len(b)+utf8.RuneLen(r) > GoodbyeTextMax {
			break
		}
		b = utf8.AppendRune(b, r)
	}
	return string(b), true
}

func checkGoodbyeText(text string) error {
	if len(text) > GoodbyeTextMax {
		return goodbyeTextTooLong(len(text))
	}
	if !utf8.ValidString(text) {
		return &Error{
			Kind: ErrGoodbye, Type: Goodbye, Length: len(text),
			Detail: fmt.Sprintf("text %q is not UTF-8", text),
		}
	}
	return nil
}

func goodbyeTextTooLong(length int) error {
	return &Error{Kind: ErrTooLong, Type: Goodbye, Length: length, Limit: GoodbyeTextMax, Detail: "text"}
}
