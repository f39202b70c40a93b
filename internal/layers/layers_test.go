package layers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

const (
	module   = "github.com/pulsewheel/pulsewheel"
	gnet     = "github.com/panjf2000/gnet"
	testify  = "github.com/stretchr/testify"
	linesMax = 500
)

// required is what the library's go.mod may require directly. What needs more is a nested module.
var required = []string{gnet + "/v2", testify, "go.uber.org/atomic", "golang.org/x/sys"}

// pure lists, for each package without sockets, clock and goroutines, what it may import. A folder
// stands for all below it too, except math, where math/rand lives.
var pure = map[string][]string{
	"codec":     {"bytes", "cmp", "encoding", "errors", "fmt", "hash", "iter", "maps", "slices", "strconv", "strings", "unicode"},
	"heartbeat": {"bytes", "cmp", "encoding", "errors", "fmt", "hash", "iter", "maps", "slices", "strconv", "strings", "time"},
}

// above lists, for each folder, those of the repository that it must not import.
var above = map[string][]string{
	"codec":     {"heartbeat", "server", "client", "examples", "bench"},
	"heartbeat": {"codec", "server", "client", "examples", "bench"},
	"internal":  {"server", "client", "examples", "bench"},
	"server":    {"client", "examples", "bench"},
	"client":    {"server", "examples", "bench"},
}

// clocks are the functions of package time that read the clock or wait for it.
var clocks = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}

// A source is one Go file of the repository, whatever its build tags.
type source struct {
	name   string // from the repository's root, with slashes
	top    string // first element of name: the package's layer
	test   bool
	nested bool // of a module below the root's
	lines  int
	file   *ast.File
	fset   *token.FileSet
}

// A rule reports what is wrong with a source.
type rule func(s source, report func(at ast.Node, format string, args ...any))

var rules = map[string]rule{
	"pure":      checkPure,
	"above":     checkAbove,
	"clock":     checkClock,
	"goroutine": checkGoroutine,
	"gnet":      checkGnet,
	"testify":   checkTestify,
	"required":  checkRequired,
	"length":    checkLength,
}

func checkPure(s source, report func(ast.Node, string, ...any)) {
	allowed, isPure := pure[s.top]
	if !isPure || s.test {
		return
	}
	for _, spec := range s.file.Imports {
		p := imported(spec)
		ok := p == "math" || p == "math/bits" || within(p, module+"/"+s.top) ||
			slices.ContainsFunc(allowed, func(a string) bool { return within(p, a) })
		if !ok {
			report(spec, "%s is pure and must not import %s", s.top, p)
		}
	}
}

func checkAbove(s source, report func(ast.Node, string, ...any)) {
	if s.test && pure[s.top] == nil {
		return // a test of the server may dial with the client, and the other way round
	}
	for _, spec := range s.file.Imports {
		for _, top := range above[s.top] {
			if p := imported(spec); within(p, module+"/"+top) {
				report(spec, "%s must not import %s", s.top, p)
			}
		}
	}
}

func checkClock(s source, report func(ast.Node, string, ...any)) {
	if pure[s.top] == nil || s.test {
		return
	}
	local := ""
	for _, spec := range s.file.Imports {
		if imported(spec) != "time" {
			continue
		}
		local = "time"
		if spec.Name != nil {
			local = spec.Name.Name
		}
		if local == "." {
			report(spec, "%s must not import time as a dot: its clock could not be seen", s.top)
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			x, isIdent := sel.X.(*ast.Ident)
			if isIdent && x.Name == local && slices.Contains(clocks, sel.Sel.Name) {
				report(sel, "%s must not use time.%s: time is an argument", s.top, sel.Sel.Name)
			}
		}
		return true
	})
}

func checkGoroutine(s source, report func(ast.Node, string, ...any)) {
	if pure[s.top] == nil || s.test {
		return
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if _, ok := n.(*ast.GoStmt); ok {
			report(n, "%s must not start a goroutine", s.top)
		}
		return true
	})
}

func checkGnet(s source, report func(ast.Node, string, ...any)) {
	if s.top == "bench" || isEngine(s) {
		return
	}
	for _, spec := range s.file.Imports {
		if p := imported(spec); within(p, gnet) {
			report(spec, "only server/engine.go (and engine_*.go) and bench may import %s", p)
		}
	}
}

func checkTestify(s source, report func(ast.Node, string, ...any)) {
	if s.test || s.top == "bench" {
		return
	}
	for _, spec := range s.file.Imports {
		if p := imported(spec); within(p, testify) {
			report(spec, "only tests may import %s", p)
		}
	}
}

func checkRequired(s source, report func(ast.Node, string, ...any)) {
	if s.nested {
		return
	}
	for _, spec := range s.file.Imports {
		p := imported(spec)
		first, _, _ := strings.Cut(p, "/")
		if !strings.Contains(first, ".") || within(p, module) {
			continue // the standard library has no dot in its first element
		}
		if !slices.ContainsFunc(required, func(m string) bool { return within(p, m) }) {
			report(spec, "the library must not import %s: use a nested module", p)
		}
	}
}

func checkLength(s source, report func(ast.Node, string, ...any)) {
	if !s.test && s.lines > linesMax {
		report(s.file, "%d lines, more than %d", s.lines, linesMax)
	}
}

// checkMod reports what the library's go.mod asks for and should not.
func checkMod(text string) (wrong []string) {
	block := ""
	for _, line := range strings.Split(text, "\n") {
		code, comment, _ := strings.Cut(line, "//")
		words := strings.Fields(strings.ReplaceAll(code, "(", " ( "))
		switch {
		case len(words) == 0:
			continue
		case words[0] == ")":
			block = ""
			continue
		case len(words) == 2 && words[1] == "(":
			block = words[0]
			continue
		case block != "":
			words = append([]string{block}, words...)
		}
		indirect := strings.HasPrefix(strings.TrimSpace(comment), "indirect")
		switch words[0] {
		case "replace", "exclude", "tool":
			wrong = append(wrong, "go.mod: "+words[0]+" has no place in a library's go.mod")
		case "require":
			if m := strings.Trim(words[1], `"`); !indirect && !slices.Contains(required, m) {
				wrong = append(wrong, "go.mod: must not require "+m+": use a nested module")
			}
		}
	}
	return wrong
}

func imported(spec *ast.ImportSpec) string { return strings.Trim(spec.Path.Value, "\"`") }

// within tells whether import path p is folder or below it.
func within(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

func isEngine(s source) bool {
	engine := s.name == "server/engine.go"
	if ok, _ := path.Match("server/engine_*.go", s.name); ok {
		engine = true
	}
	return engine && !s.test
}

// check reads all Go files of a repository, and what each rule finds wrong with them. A file that
// cannot be parsed is wrong too, so that none can hide.
func check(repo fs.FS) (sources []source, wrong []string, err error) {
	mod, err := fs.ReadFile(repo, "go.mod")
	if err != nil {
		return nil, nil, err
	}
	wrong = checkMod(string(mod))
	nested := ""
	err = fs.WalkDir(repo, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := path.Base(name)
			if name != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || base == "vendor") {
				return fs.SkipDir // as the go command does
			}
			if _, err := fs.Stat(repo, path.Join(name, "go.mod")); err == nil && name != "." {
				nested = name
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(repo, name)
		if err != nil {
			return err
		}
		s := source{name: name, test: strings.HasSuffix(name, "_test.go"), fset: token.NewFileSet()}
		s.top, _, _ = strings.Cut(name, "/")
		s.nested = nested != "" && strings.HasPrefix(name, nested+"/")
		s.lines = strings.Count(string(text), "\n")
		s.file, err = parser.ParseFile(s.fset, name, text, parser.SkipObjectResolution)
		if err != nil {
			wrong = append(wrong, err.Error())
			return nil
		}
		sources = append(sources, s)
		return nil
	})
	for _, s := range sources {
		for id, rule := range rules {
			rule(s, func(at ast.Node, format string, args ...any) {
				line := s.fset.Position(at.Pos()).Line
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s [%s]", s.name, line, fmt.Sprintf(format, args...), id))
			})
		}
	}
	slices.Sort(wrong)
	return sources, wrong, err
}

func TestLayers(t *testing.T) {
	sources, wrong, err := check(os.DirFS("../.."))
	require.NoError(t, err)
	for _, line := range wrong {
		t.Error(line)
	}
	// What follows fails if the rules were kept only because nothing was looked at.
	files := map[string]int{}
	engines := 0
	for _, s := range sources {
		if !s.test {
			files[s.top]++
		}
		if isEngine(s) && slices.ContainsFunc(s.file.Imports, func(i *ast.ImportSpec) bool { return within(imported(i), gnet) }) {
			engines++
		}
	}
	for _, top := range []string{"codec", "heartbeat", "server", "internal"} {
		require.NotZero(t, files[top], "no Go file found in %s", top)
	}
	require.NotZero(t, engines, "no file found that imports gnet")
}

// good is a small repository that keeps every rule, and goes up to the edge of most.
var good = map[string]string{
	"go.mod": "module " + module + "\n\ngo 1.25.0\n\nrequire (\n\t" + gnet + "/v2 v2.10.0\n\t" + testify + " v1.11.1\n)\n\n" +
		"require gopkg.in/yaml.v3 v3.0.1 // indirect\n",
	"codec/a.go":              `package codec; import ("encoding/binary"; "errors"; "unicode/utf8"); var time struct{ Now int }; var _ = time.Now`,
	"codec/a_test.go":         `package codec; import ("os"; "time"; "` + testify + `/require"); func f() { go f(); time.Now() }`,
	"heartbeat/a.go":          `package heartbeat; import ("math"; "math/bits"; "time"); const D = 5 * time.Second`,
	"heartbeat/a_test.go":     `package heartbeat; import "time"; func f() { go f(); time.Sleep(1) }`,
	"server/engine.go":        `package server; import ("net"; "` + gnet + `/v2"; "` + module + `/codec")`,
	"server/engine_linux.go":  `package server; import "` + gnet + `/v2/pkg/logging"`,
	"server/a.go":             `package server; import ("sync"; "go.uber.org/atomic"; "golang.org/x/sys/unix"); func f() { go f() }`,
	"server/a_test.go":        `package server; import "` + module + `/client"`,
	"server/long_test.go":     "package server\n" + strings.Repeat("\n", linesMax),
	"server/full.go":          "package server\n" + strings.Repeat("\n", linesMax-1),
	"server/testdata/bad.go":  `not Go at all`,
	"bench/a_test.go":         `package bench; import "` + gnet + `/v2"`,
	"bench/peers/go.mod":      "module " + module + "/bench/peers\n\nrequire example.com/peer v1.0.0\n",
	"bench/peers/a.go":        `package peers; import ("example.com/peer"; "` + gnet + `/v2")`,
	"examples/echo/main.go":   `package main; import "` + module + `/server"`,
	"internal/sockstat/a.go":  `package sockstat; import ("time"; "golang.org/x/sys/unix")`,
	"client/client.go":        `package client; import ("net"; "` + module + `/codec")`,
	"client/a_test.go":        `package client; import "` + module + `/server"`,
	"benchmark/notes/text.md": `time.Now`,
}

func TestCheckerPassesGood(t *testing.T) {
	sources, wrong, err := check(repository("", ""))
	require.NoError(t, err)
	require.Empty(t, wrong)
	require.Len(t, sources, 16)
}

// Each row puts one file into the good repository and names the one thing that is wrong with it.
func TestCheckerFindsBad(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"codec/x.go", `package codec; import "net"`, "must not import net [pure]"},
		{"codec/x.go", `package codec; import "net/netip"`, "must not import net/netip [pure]"},
		{"codec/x.go", `package codec; import "time"`, "must not import time [pure]"},
		{"codec/x.go", `package codec; import "sync"`, "must not import sync [pure]"},
		{"codec/x.go", `package codec; import "sync/atomic"`, "must not import sync/atomic [pure]"},
		{"codec/x.go", `package codec; import _ "os"`, "must not import os [pure]"},
		{"codec/x.go", "package codec; import `net`", "must not import net [pure]"},
		{"codec/deep/x.go", `package deep; import "net"`, "must not import net [pure]"},
		{"codec/x_windows.go", "//go:build windows\n\npackage codec; import \"net\"", "x_windows.go:3: codec is pure and must not import net [pure]"},
		{"codec/x.go", `package codec; import "go.uber.org/atomic"`, "must not import go.uber.org/atomic [pure]"},
		{"codec/x.go", `package codec; import "` + module + `/internal/sockstat"`, "internal/sockstat [pure]"},
		{"codec/x_test.go", `package codec_test; import "` + module + `/heartbeat"`, "pulsewheel/heartbeat [above]"},
		{"codec/x_test.go", `package codec_test; import "` + module + `/server"`, "pulsewheel/server [above]"},
		{"codec/x.go", `package codec; func f() { go f() }`, "must not start a goroutine [goroutine]"},
		{"codec/x.go", `package codec; var f = func() { for { go func() {}() } }`, "must not start a goroutine [goroutine]"},
		{"heartbeat/x.go", `package heartbeat; import "net"`, "must not import net [pure]"},
		{"heartbeat/x.go", `package heartbeat; import "os"`, "must not import os [pure]"},
		{"heartbeat/x.go", `package heartbeat; import "sync"`, "must not import sync [pure]"},
		{"heartbeat/x.go", `package heartbeat; import "context"`, "must not import context [pure]"},
		{"heartbeat/x.go", `package heartbeat; import "math/rand/v2"`, "must not import math/rand/v2 [pure]"},
		{"heartbeat/x_test.go", `package heartbeat; import "` + module + `/codec"`, "pulsewheel/codec [above]"},
		{"heartbeat/x.go", `package heartbeat; func f() { go f() }`, "must not start a goroutine [goroutine]"},
		{"heartbeat/x.go", `package heartbeat; import . "time"; var D Duration`, "as a dot: its clock could not be seen [clock]"},
		{"heartbeat/x.go", `package heartbeat; import t "time"; var now = t.Now`, "must not use time.Now: time is an argument [clock]"},
		{"server/x.go", `package server; import "` + gnet + `/v2"`, "gnet/v2 [gnet]"},
		{"server/engine_test.go", `package server; import "` + gnet + `/v2"`, "gnet/v2 [gnet]"},
		{"server/engines.go", `package server; import "` + gnet + `/v2"`, "gnet/v2 [gnet]"},
		{"server/sub/engine.go", `package sub; import "` + gnet + `/v2"`, "gnet/v2 [gnet]"},
		{"examples/x/engine.go", `package main; import "` + gnet + `/v2/pkg/errors"`, "gnet/v2/pkg/errors [gnet]"},
		{"server/x.go", `package server; import "` + module + `/examples/echo"`, "examples/echo [above]"},
		{"server/x.go", `package server; import "` + module + `/client"`, "pulsewheel/client [above]"},
		{"client/x.go", `package client; import "` + module + `/server"`, "pulsewheel/server [above]"},
		{"internal/x/x.go", `package x; import "` + module + `/server"`, "pulsewheel/server [above]"},
		{"server/x.go", `package server; import "` + testify + `/assert"`, "testify/assert [testify]"},
		{"internal/x/x.go", `package x; import "` + testify + `/require"`, "testify/require [testify]"},
		{"server/x_test.go", `package server; import "go.uber.org/goleak"`, "go.uber.org/goleak: use a nested module [required]"},
		{"server/x.go", `package server; import "github.com/pulsewheel/pulsewheels"`, "pulsewheels: use a nested module [required]"},
		{"server/x.go", "package server\n" + strings.Repeat("\n", linesMax), "501 lines, more than 500 [length]"},
		{"examples/x/main.go", "package main\n" + strings.Repeat("\n", linesMax), "501 lines, more than 500 [length]"},
		{"server/x.go", `package server; func {`, "expected 'IDENT'"},
		{"go.mod", "module x\n\nrequire example.com/y v1.0.0\n", "must not require example.com/y"},
		{"go.mod", "module x\n\nrequire (\n\t\"example.com/y\" v1.0.0 // why\n)\n", "must not require example.com/y"},
		{"go.mod", "module x\n\nrequire(\n\texample.com/y v1.0.0\n)\n", "must not require example.com/y"},
		{"go.mod", "module x\n\nreplace " + gnet + "/v2 => ../gnet\n", "replace has no place"},
		{"go.mod", "module x\n\ntool (\n\texample.com/y\n)\n", "tool has no place"},
	}
	for _, clock := range clocks {
		tests = append(tests, struct{ name, text, want string }{"heartbeat/x.go",
			`package heartbeat; import "time"; func f() { time.` + clock + `() }`, "must not use time." + clock + ": time is an argument [clock]"})
	}
	found := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.name+" "+tt.want, func(t *testing.T) {
			_, wrong, err := check(repository(tt.name, tt.text))
			require.NoError(t, err)
			require.Len(t, wrong, 1, "%q", wrong)
			require.Contains(t, wrong[0], tt.want)
			require.True(t, strings.HasPrefix(wrong[0], tt.name+":"), wrong[0])
		})
		if _, id, ok := strings.Cut(tt.want, "["); ok {
			found[strings.TrimSuffix(id, "]")] = true
		}
	}
	for id := range rules {
		require.True(t, found[id], "no row proves that rule %q can fail", id)
	}
}

func TestCheckerNeedsRepository(t *testing.T) {
	_, _, err := check(fstest.MapFS{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// repository returns good with one file more, or with another content.
func repository(name, text string) fs.FS {
	repo := fstest.MapFS{}
	for n, s := range good {
		repo[n] = &fstest.MapFile{Data: []byte(s)}
	}
	if name != "" {
		repo[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return repo
}
