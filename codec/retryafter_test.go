package codec_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pulsewheel/pulsewheel/codec"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ms         int
		rest, text string
	}{
		{0, "", "retry-after=0ms"},
		{250, "bye", "retry-after=250ms; bye"},
		{999999999, "a; b", "retry-after=999999999ms; a; b"},
	} {
		assert.Equal(t, c.text, codec.AddRetryAfter(c.ms, c.rest))
		ms, rest, ok := codec.CutRetryAfter(c.text)
		assert.True(t, ok, c.text)
		assert.Equal(t, c.ms, ms, c.text)
		assert.Equal(t, c.rest, rest, c.text)
	}
	for _, text := range []string{
		"", "bye", "retry-after", "retry-after=", "retry-after=ms", "retry-after=5", "retry-after=5s", "retry-after=-5ms",
		"retry-after=+5ms", "retry-after= 5ms", "retry-after=5ms;", "retry-after=5ms; ", "retry-after=5ms;bye", "retry-after=5ms bye",
		"retry-after=1000000000ms", "retry-after=99999999999999999999ms", "retry-after=1e3ms", "Retry-After=5ms",
		" retry-after=5ms", "bye retry-after=5ms", "retry-after=٣ms",
	} {
		ms, rest, ok := codec.CutRetryAfter(text)
		assert.False(t, ok, text)
		assert.Zero(t, ms, text)
		assert.Equal(t, text, rest)
	}
	assert.Panics(t, func() { codec.AddRetryAfter(-1, "") })
	assert.Panics(t, func() { codec.AddRetryAfter(1000000000, "") })
}

// A stranger's text: whatever is taken off was well formed.
func FuzzCutRetryAfter(f *testing.F) {
	f.Add("retry-after=250ms; bye")
	f.Add("retry-after=007ms")
	f.Add("bye")
	f.Fuzz(func(t *testing.T, text string) {
		ms, rest, ok := codec.CutRetryAfter(text)
		if !ok {
			assert.Equal(t, text, rest)
			return
		}
		again := codec.AddRetryAfter(ms, rest)
		head, _, _ := strings.Cut(text, "ms")
		assert.LessOrEqual(t, len(again), len(text))
		if !strings.HasPrefix(head, "retry-after=0") { // leading zeros are lawful, and go
			assert.Equal(t, text, again)
		}
	})
}

// A client that is sent away knows when to come back.
func ExampleCutRetryAfter() {
	ms, rest, ok := codec.CutRetryAfter("retry-after=250ms; the server is shutting down")
	fmt.Println(ms, rest, ok)
	// Output: 250 the server is shutting down true
}
