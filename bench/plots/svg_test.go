package main

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// A drawing is well-formed, says how it was made, and has all points within its frame.
func TestSVG(t *testing.T) {
	c := chart{title: "a & b <", x: "x", y: "y", log: true, desc: []string{"Made by: me"}, lines: []line{
		{"one", []point{{100, rig.SpreadOf([]float64{-5})}, {15000, rig.SpreadOf([]float64{1, 2, 3})}}},
		{"two", []point{{100, rig.SpreadOf([]float64{7})}, {15000, rig.SpreadOf([]float64{1234})}}},
	}}
	var b strings.Builder
	require.NoError(t, c.svg(&b))
	assert.Contains(t, b.String(), "<desc>Made by: me</desc>")
	circles := 0
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	assert.Equal(t, 4, circles)
	xs, bottom, top := c.extent()
	assert.Equal(t, []float64{100, 15000}, xs)
	assert.LessOrEqual(t, bottom, -5.0)
	assert.GreaterOrEqual(t, top, 1234.0)
	require.NoError(t, chart{lines: []line{{"none", []point{{1, rig.Spread{}}}}}}.svg(io.Discard))
}

func TestStep(t *testing.T) {
	for _, span := range []float64{0.03, 1, 7, 19, 20, 49, 50, 100, 1.7e6} {
		n := span / step(span)
		assert.True(t, n > 3.9 && n <= 10.1, "%v: %v steps", span, n)
	}
}
