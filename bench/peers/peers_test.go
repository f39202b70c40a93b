//go:build linux

package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
)

func TestMain(m *testing.M) {
	register()
	rig.Main()
	os.Setenv("WARM_MS", "0") // the tests measure nothing
	os.Exit(m.Run())
}

// What is compared must do the same: echo whole frames, in order, however they are cut.
func TestEcho(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			if p.build != nil {
				t.Parallel() // a compiler takes its time
			}
			s, err := p.server(t.TempDir())
			if err != nil && p.build != nil {
				t.Skipf("it cannot be built: %v", err)
			}
			require.NoError(t, err)
			server, err := rig.Start(s)
			require.NoError(t, err)
			defer func() { require.NoError(t, server.Stop()) }()
			c, err := net.Dial("tcp", server.Addr())
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))

			// One message in three pieces, the first of which ends within the header.
			one := p.message([]byte("in three pieces"))
			for _, piece := range [][]byte{one[:2], one[2:11], one[11:]} {
				_, err := c.Write(piece)
				require.NoError(t, err)
				time.Sleep(20 * time.Millisecond)
			}
			require.Equal(t, one, reply(t, c, len(one)))

			// 50 messages of different lengths at once, and the start of one more.
			var many []byte
			for i := range 50 {
				many = append(many, p.message(bytes.Repeat([]byte{byte(i)}, i*7))...)
			}
			last := p.message([]byte("the last"))
			_, err = c.Write(append(bytes.Clone(many), last[:5]...))
			require.NoError(t, err)
			require.Equal(t, many, reply(t, c, len(many)))
			_, err = c.Write(last[5:])
			require.NoError(t, err)
			require.Equal(t, last, reply(t, c, len(last)))

			// Longer than any buffer for reading that a server begins with.
			long := p.message(bytes.Repeat([]byte("long"), 10_000))
			_, err = c.Write(long)
			require.NoError(t, err)
			require.Equal(t, long, reply(t, c, len(long)))
		})
	}
}

func reply(t *testing.T, c net.Conn, n int) []byte {
	b := make([]byte, n)
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	return b
}

// The command prints a row for each peer, and says who could not take part.
func TestCompare(t *testing.T) {
	var out strings.Builder
	require.NoError(t, compare(&out, []string{"-rounds", "1", "-only", "std", "-cells", "2x3,1x1"}))
	rows := map[string]int{}
	for line := range strings.Lines(out.String()) {
		if cells := strings.Split(line, " | "); len(cells) == 4 {
			rows[strings.Fields(cells[0])[1]] = len(cells)
		}
	}
	require.Equal(t, map[string]int{"server": 4, "pulsewheel": 4, "std": 4}, rows, out.String())
	require.NotContains(t, out.String(), "failed")
	require.Contains(t, out.String(), "1 = ")

	require.ErrorContains(t, compare(io.Discard, []string{"-only", "nobody"}), "nobody")
	require.ErrorContains(t, compare(io.Discard, []string{"-cells", "12"}), "12")
	require.ErrorContains(t, compare(io.Discard, []string{"surplus"}), "surplus")
}

func TestBook(t *testing.T) {
	row := func(name string, rates ...int) rig.Row {
		r := rig.Row{Candidate: rig.Candidate{Name: name}}
		for _, n := range rates {
			r.Rounds = append(r.Rounds, rig.Measure{
				Load: load.Result{Messages: n, Elapsed: time.Second}, Took: time.Second, CPU: time.Duration(n) * 5 * time.Millisecond,
			})
		}
		return r
	}
	b := newBook([]peer{{name: "base"}, {name: "slow"}, {name: "fast"}, {name: "broken"}, {name: "absent"}}, []cell{{1, 2}})
	b.skipped["absent"] = "no compiler"
	broken := row("broken")
	broken.Err = io.ErrUnexpectedEOF
	b.enter(0, &rig.Outcome{Rows: []rig.Row{row("base", 100, 200, 400), row("slow", 50, 100, 200), row("fast", 150, 300, 600), broken}})
	var out strings.Builder
	b.print(&out)
	for _, want := range []string{
		"| base | 1 = 200/s |", "| slow | 0.50 (0.50-0.50) |", "| fast | **1.50 (1.50-1.50)** |", "| broken | failed |",
		"absent: left out: no compiler", "at 1x2: slow 0.5.", "broken could not be measured at 1x2: unexpected EOF",
	} {
		require.Contains(t, out.String(), want)
	}
	require.NotContains(t, out.String(), "| absent |")
}
