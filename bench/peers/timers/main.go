// Command timers holds the same timers in the library's timing wheel and in what others use for silences and
// time-outs, and prints what one costs as a ratio to ours. Each is measured in processes of its own.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"

	"github.com/pulsewheel/pulsewheel/bench/rig"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "timers: %v\n", err)
		os.Exit(1)
	}
}

func run(w io.Writer, args []string) error {
	flags := flag.NewFlagSet("timers", flag.ContinueOnError)
	n := flags.Int("n", 1_000_000, "timers")
	rounds := flags.Int("rounds", 3, "how often each contender is measured")
	measure := flags.String("measure", "", "measure one contender in this process, costs or storm, and print the finding as JSON; used by this command itself")
	name := flags.String("of", "", "the contender, with -measure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *n < 1 || *rounds < 1 {
		return fmt.Errorf("-n and -rounds must be positive")
	}
	if *measure == "" {
		return compare(w, *n, *rounds)
	}
	f := measures[*measure]
	i := slices.IndexFunc(contenders, func(c contender) bool { return c.name == *name })
	if f == nil || i < 0 {
		return fmt.Errorf("there is no %s of %q", *measure, *name)
	}
	found, err := f(contenders[i], *n)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(found)
}

// compare measures all contenders and prints the table.
func compare(w io.Writer, n, rounds int) error {
	fmt.Fprintf(w, "%s timers, rounds: %d. A round of a million takes about half a minute.\n", rig.Count(float64(n)), rounds)
	found := make([][]finding, len(contenders))
	var failed error
	seed := rig.Match{Rounds: rounds}.Interleave(len(contenders), func(_, i int) {
		if failed != nil {
			return
		}
		var f finding
		for _, measure := range []string{"costs", "storm"} {
			if err := inProcess(measure, contenders[i].name, n, &f); err != nil {
				failed = fmt.Errorf("%s of %s: %w", measure, contenders[i].name, err)
				return
			}
		}
		found[i] = append(found[i], f)
	})
	if failed != nil {
		return failed
	}
	fmt.Fprintf(w, "Seed of the orders: %d.\n\n", seed)
	printTable(w, found)
	return nil
}

// inProcess adds to f what another process finds.
func inProcess(measure, name string, n int, f *finding) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-measure", measure, "-of", name, "-n", strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var one finding
	if err := json.Unmarshal(out, &one); err != nil {
		return err
	}
	if measure == "costs" {
		*f = one
		return nil
	}
	f.First, f.Last, f.Peak, f.Missing = one.First, one.Last, one.Peak, one.Missing
	return nil
}
