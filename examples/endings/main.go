// Endings shows every way a client goes away, and what the server says about it.
//
//	go run ./examples/endings
//
// It starts a server with short timeouts and, for each case, real client processes (this program
// again, see client.go). It ends each client in its own way and compares the reason that the server
// told in OnClose, and when, with what is expected. The exit status is 0 only if all of it was right.
//
// Where to read: handler.go is the application, as a game server would write it; cases.go is the list
// of endings; play.go has the words in which the cases are written; result.go judges.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/server"
)

// config has short timeouts, so that all the endings fit into a few seconds. The zero Config is the
// right one for a game.
var config = server.Config{
	Policy:           heartbeat.Policy{Interval: 500 * time.Millisecond, Timeout: 1500 * time.Millisecond},
	HandshakeTimeout: time.Second,
	FrameTimeout:     time.Second,
	WriteTimeout:     time.Second,
	CloseTimeout:     time.Second,
	Tick:             10 * time.Millisecond,
	BacklogMax:       16 << 20, // a client that does not read runs into WriteTimeout before that
	Logger:           slog.New(slog.DiscardHandler),
}

// wrongEnv makes an expectation wrong, as CASE=REASON, so that a test can see this program fail.
const wrongEnv = "PULSEWHEEL_ENDINGS_WRONG"

type options struct {
	json, markdown, list, log bool
	cases                     string
}

func main() {
	if os.Getenv(clientEnv) != "" {
		os.Exit(clientMain())
	}
	var o options
	flag.BoolVar(&o.json, "json", false, "print one JSON object a line, and nothing else, on standard output")
	flag.BoolVar(&o.markdown, "markdown", false, "print the table in Markdown, and nothing else, on standard output")
	flag.StringVar(&o.cases, "case", "", "run only these cases, as `name[,name]`")
	flag.BoolVar(&o.list, "list", false, "print the names of the cases and exit")
	flag.BoolVar(&o.log, "log", false, "show on standard error what the server logs (the stack of a panic, say)")
	flag.Parse()
	if flag.NArg() > 0 || o.json && o.markdown {
		fmt.Fprintln(os.Stderr, "endings: it takes no arguments, and only one of -json and -markdown")
		os.Exit(2)
	}
	chosen, err := choose(endings, o.cases)
	if err == nil {
		err = spoil(chosen, os.Getenv(wrongEnv))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "endings:", err)
		os.Exit(2)
	}
	if o.list {
		for _, e := range chosen {
			fmt.Printf("%-*s  %s\n", nameWidth, e.name, e.act)
		}
		return
	}
	if o.log {
		config.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	os.Exit(o.run(chosen))
}

// run runs the cases one after the other and returns the exit status.
func (o options) run(chosen []ending) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	begun := time.Now()
	h, err := open(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, "endings:", err)
		return 1
	}
	lines := io.Writer(os.Stdout) // one for each ending, as it happens
	if o.markdown {
		lines = os.Stderr
	}
	var results []result
	for _, e := range chosen {
		waiting := showProgress(e)
		r := e.run(ctx, h)
		waiting()
		if ctx.Err() != nil {
			break
		}
		results = append(results, r)
		if o.json {
			err = errors.Join(err, r.writeJSON(os.Stdout))
		} else {
			fmt.Fprintln(lines, r.line())
		}
	}
	err = errors.Join(err, h.close(), noneLeft())
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "endings: interrupted;", cmp.Or(err, errors.New("no client process is left")))
		return 130
	}
	right := len(slices.DeleteFunc(slices.Clone(results), func(r result) bool { return !r.OK }))
	summary := fmt.Sprintf("%d of %d as expected, in %.1f s, with %d client processes, all reaped.",
		right, len(results), time.Since(begun).Seconds(), started.Load())
	switch {
	case o.markdown:
		writeMarkdown(os.Stdout, results)
		fmt.Fprintln(os.Stderr, summary)
	case !o.json:
		fmt.Println()
		writeTable(os.Stdout, results)
		fmt.Printf("\nlimit: the deadline, if there is one, and two ticks of %v; and %v for a loaded machine, twice that where the\n"+
			"client has to react, and what the machine was seen to hold this process up. Told before its deadline is wrong too.\n\n%s\n",
			config.Tick, slack, summary)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "endings:", err)
	}
	if err != nil || right < len(results) {
		return 1
	}
	return 0
}

// choose returns the endings that names lists, in the order of the table.
func choose(all []ending, names string) ([]ending, error) {
	if names == "" {
		return slices.Clone(all), nil
	}
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(all, func(e ending) bool { return e.name == name }) {
			return nil, fmt.Errorf("-case: there is no %q; -list prints the names", name)
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(e ending) bool { return !slices.Contains(wanted, e.name) }), nil
}

// spoil replaces what is wanted of one case, for the test of this program.
func spoil(chosen []ending, wrong string) error {
	if wrong == "" {
		return nil
	}
	name, reason, _ := strings.Cut(wrong, "=")
	for i := range chosen {
		for n := range 1 << 10 {
			if r := server.Reason(n); chosen[i].name == name && r.Known() && r.String() == reason {
				chosen[i].want = []server.Reason{r}
				return nil
			}
		}
	}
	return fmt.Errorf("%s: %q is not CASE=REASON", wrongEnv, wrong)
}
