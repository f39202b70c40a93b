package codec

import (
	"strconv"
	"strings"
)

const (
	retryPrefix = "retry-after="
	retrySuffix = "ms"
	retryDigits = 9 // at most: eleven days, and no int is too small for it
)

// AddRetryAfter puts a wait of so many milliseconds before the text of a Goodbye, as PROTOCOL.md has it
// in 2.4: "retry-after=250ms; " and the text. A wait that is negative, or has more than nine digits, panics.
func AddRetryAfter(ms int, text string) string {
	digits := strconv.Itoa(ms)
	if ms < 0 || len(digits) > retryDigits {
		panic("codec: AddRetryAfter: " + digits + " is not between 0 and 999999999")
	}
	if text != "" {
		text = "; " + text
	}
	return retryPrefix + digits + retrySuffix + text
}

// CutRetryAfter takes the wait, in milliseconds, off the text of a Goodbye. Of a text that does not begin
// with one, well formed, it returns all, and false.
func CutRetryAfter(text string) (ms int, rest string, ok bool) {
	after, ok := strings.CutPrefix(text, retryPrefix)
	if !ok {
		return 0, text, false
	}
	head, rest, more := strings.Cut(after, "; ")
	digits, ok := strings.CutSuffix(head, retrySuffix)
	if !ok || digits == "" || len(digits) > retryDigits || more && rest == "" {
		return 0, text, false
	}
	n := 0
	for _, d := range []byte(digits) {
		if d < '0' || d > '9' {
			return 0, text, false
		}
		n = 10*n + int(d-'0')
	}
	return n, rest, true
}
