package rig

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// roleEnv names the role of a process; its arguments follow on the command line.
const roleEnv = "PULSEWHEEL_RIG_ROLE"

// mark is before each line that a role has for the rig: a framework that prints something of its own on
// standard output does no harm.
const mark = "rig: "

// lineMax is the longest line between the rig and a role, in bytes.
const lineMax = 16 << 20

var roles = map[string]func(args []string){}

// Role says what this program does as another process. A name may be given once, before Main.
func Role(name string, f func(args []string)) {
	if roles[name] != nil {
		panic("rig: Role: " + name + " is there already")
	}
	roles[name] = f
}

// Main is to be called first in main, or in TestMain, after all calls of Role. If this process has a role
// it is played, and the process ends; otherwise Main returns.
func Main() {
	name := os.Getenv(roleEnv)
	if name == "" {
		return
	}
	f := roles[name]
	if f == nil {
		fmt.Fprintf(os.Stderr, "rig: no role %q\n", name)
		os.Exit(2)
	}
	os.Unsetenv(roleEnv)
	f(os.Args[1:])
	os.Exit(0)
}

// Serving is what a server in a role calls when it can be connected to. It says the address, does what the
// rig asks for, and returns when the rig has had enough: then the server should end. A question that is not one of
// the rig's own ("gc", "mallocs", "goroutines") goes to answers, by its first word; the rest of the line is the argument. Answers are one line.
func Serving(addr string, answers map[string]func(arg string) string) {
	say(addr)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, lineMax)
	for in.Scan() {
		word, arg, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "gc":
			runtime.GC()
			debug.FreeOSMemory()
			say("ok")
		case "mallocs":
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			say(fmt.Sprint(m.Mallocs, " ", m.TotalAlloc))
		case "goroutines":
			say(strconv.Itoa(runtime.NumGoroutine()))
		default:
			if f := answers[word]; f != nil {
				say(f(arg))
			} else {
				say("no answer to " + word)
			}
		}
	}
}

// say writes a line to the rig.
func say(line string) { fmt.Println(mark + line) }

// command is the server's program, by default this one, in a role. Which roles another program has is
// not known: it ends at once if it does not have this one.
func command(s Server) (*exec.Cmd, error) {
	program := s.Program
	if program == "" {
		if roles[s.Role] == nil {
			return nil, fmt.Errorf("rig: no role %q", s.Role)
		}
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("rig: %w", err)
		}
		program = self
	}
	cmd := exec.Command(program, s.Args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+s.Role)
	return cmd, nil
}
