package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Widths of the table's columns: 120 in all.
const (
	nameWidth = 18
	actWidth  = 31
)

// mark is "ok", or says loudly that it is not.
func (r result) mark() string {
	if r.OK {
		return "ok"
	}
	return "NO"
}

// line tells an ending as it happens.
func (r result) line() string {
	s := fmt.Sprintf("%s  %-*s  %s after %s", r.mark(), nameWidth, r.Case, cmp.Or(r.Got, "nothing was told"), duration(r.AfterMS))
	if r.Got == "" {
		s = fmt.Sprintf("%s  %-*s  nothing was told", r.mark(), nameWidth, r.Case)
	}
	for _, more := range []struct{ before, text string }{
		{": ", r.Problem}, {": ", r.Detail}, {", ", r.Errno}, {"; the client heard ", r.heardNumber()}, {"; ", r.Note}} {
		if more.text != "" {
			s += more.before + more.text
		}
	}
	if r.SuspectMS > 0 {
		s += "; suspect after " + duration(r.SuspectMS)
	}
	if r.HeldUpMS > 0 {
		s += "; the machine held this process up for " + duration(r.HeldUpMS)
	}
	return s
}

func duration(ms float64) string {
	decimals := 0
	if ms < 10 {
		decimals = 2
	}
	return fmt.Sprintf("%.*f ms", decimals, ms)
}

// heardNumber is the number of the Goodbye that the client received.
func (r result) heardNumber() string {
	number, _, _ := strings.Cut(r.Heard, " ")
	return number
}

// writeTable prints the closing table for a terminal.
func writeTable(w io.Writer, results []result) {
	row := func(mark, name, act, told, after, limit, view string) {
		s := fmt.Sprintf("%-2s  %-*s  %-*s  %-18s  %7s  %7s  %s", mark, nameWidth, name, actWidth, act, told, after, limit, view)
		fmt.Fprintln(w, strings.TrimRight(s, " "))
	}
	row("", "case", "the client ...", "the server told", "after", "limit", "kernel's view")
	rule := func(n int) string { return strings.Repeat("-", n) }
	row("--", rule(nameWidth), rule(actWidth), rule(18), rule(7), rule(7), rule(23))
	for _, r := range results {
		view := r.view()
		row(r.mark(), r.Case, r.Act, cmp.Or(r.Got, "-"), duration(r.AfterMS), duration(r.LimitMS), strings.Join(view[:min(2, len(view))], ", "))
		if r.Problem != "" {
			fmt.Fprintf(w, "    %s\n", r.Problem)
		}
	}
}

// writeMarkdown prints the closing table for a README.
func writeMarkdown(w io.Writer, results []result) {
	fmt.Fprintln(w, "| case | the client ... | the server told | after | limit | the client heard | kernel's view |")
	fmt.Fprintln(w, "|---|---|---|--:|--:|---|---|")
	for _, r := range results {
		told := "`" + r.Got + "`"
		if !r.OK {
			told += " **(not as expected: " + r.Problem + ")**"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s | %s | %s |\n", r.Case, r.Act, strings.ReplaceAll(told, "|", "\\|"),
			duration(r.AfterMS), duration(r.LimitMS), r.heardNumber(), strings.Join(r.view(), ", "))
	}
}

// showProgress counts the seconds on standard error while a case runs; the function that it returns
// ends that.
func showProgress(e ending) (stop func()) {
	every, format, wipe := time.Second, "%s: %.0f s, at most %.1f s\n", ""
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		every, format, wipe = 100*time.Millisecond, "\r... %s: %.1f s, at most %.1f s\x1b[K", "\r\x1b[K"
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		begun, ticks := time.Now(), time.NewTicker(every)
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
				fmt.Fprintf(os.Stderr, format, e.name, time.Since(begun).Seconds(), e.limit().Seconds())
			case <-quit:
				fmt.Fprint(os.Stderr, wipe)
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}
