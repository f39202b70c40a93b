package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

// A chart is drawn as lines over one horizontal axis. The vertical one begins at zero, unless something is below it.
type chart struct {
	title, x, y string
	log         bool     // the horizontal axis is logarithmic
	desc        []string // how it was made
	lines       []line
}

type line struct {
	name   string
	points []point
}

// point is a median and its quartiles.
type point struct {
	x float64
	rig.Spread
}

// The drawing's size, and the frame's within it, in pixels.
const (
	width, height           = 720, 400
	left, right, above, low = 90, 24, 48, 84
)

var colours = []string{"#1f5fa8", "#c0562b", "#4b8b3b", "#7a4fa0"}

// svg draws the chart.
func (c chart) svg(w io.Writer) error {
	var b strings.Builder
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
	}
	rule := func(x1, y1, x2, y2 float64, colour string) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, colour)
	}
	xs, bottom, top := c.extent()
	first, last := c.scale(xs[0]), c.scale(xs[len(xs)-1])
	px := func(x float64) float64 {
		if first == last {
			return left + (width-left-right)/2
		}
		return left + 20 + (c.scale(x)-first)/(last-first)*(width-left-right-40)
	}
	py := func(y float64) float64 {
		return height - low - (y-bottom)/(top-bottom)*(height-above-low)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n<desc>%s</desc>\n", html.EscapeString(c.title), html.EscapeString(strings.Join(c.desc, "\n")))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	text(left, 26, "start", c.title)
	for y := bottom; y <= top*1.0001; y += step(top - bottom) {
		rule(left, py(y), width-right, py(y), "#ddd")
		text(left-8, py(y)+4, "end", rig.Count(y))
	}
	for _, x := range xs {
		rule(px(x), height-low, px(x), height-low+5, "#555")
		text(px(x), height-low+20, "middle", rig.Count(x))
	}
	rule(left, py(max(bottom, 0)), width-right, py(max(bottom, 0)), "#555")
	text((left+width-right)/2, height-low+40, "middle", c.x)
	fmt.Fprintf(&b, `<text transform="translate(18 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (above+height-low)/2, html.EscapeString(c.y))
	for i, l := range c.lines {
		colour := colours[i%len(colours)]
		var path []string
		for _, p := range l.points {
			rule(px(p.x), py(p.Low), px(p.x), py(p.High), colour)
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`+"\n", px(p.x), py(p.Median), colour)
			path = append(path, fmt.Sprintf("%.1f,%.1f", px(p.x), py(p.Median)))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(path, " "), colour)
		x := float64(left + i*(width-left-right)/len(c.lines))
		rule(x, height-20, x+22, height-20, colour)
		text(x+28, height-16, "start", l.name)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (c chart) scale(x float64) float64 {
	if c.log {
		return math.Log(x)
	}
	return x
}

// extent returns the places of the horizontal axis, and the ends of the vertical one, on steps.
func (c chart) extent() (xs []float64, bottom, top float64) {
	for i, l := range c.lines {
		for _, p := range l.points {
			if i == 0 {
				xs = append(xs, p.x)
			}
			bottom, top = min(bottom, p.Low, p.Median), max(top, p.High, p.Median)
		}
	}
	if top == bottom {
		top = bottom + 1
	}
	s := step(top - bottom)
	return xs, math.Floor(bottom/s) * s, math.Ceil(top/s) * s
}

// step is a round number, of which four to ten are a span.
func step(span float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(span)))
	switch n := span / unit; {
	case n < 2:
		return unit / 5
	case n < 5:
		return unit / 2
	}
	return unit
}
