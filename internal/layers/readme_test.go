package layers

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/server"
)

// The README's program is examples/minimal, so that it compiles, and is short.
func TestReadmeProgram(t *testing.T) {
	_, program, _ := strings.Cut(file(t, "examples/minimal/main.go"), "\n") // its doc comment
	var block string
	for _, doc := range []string{"README.zh-CN.md", "README.md"} {
		_, rest, ok := strings.Cut(file(t, doc), "```go\n")
		require.True(t, ok)
		block, _, _ = strings.Cut(rest, "```")
		assert.Equal(t, program, block, doc)
	}
	assert.LessOrEqual(t, strings.Count(block, "\n"), 20, "lines")
}

// Every reason is in the tables of README.md and PROTOCOL.md, by number and name, and nothing else is.
func TestReasonTables(t *testing.T) {
	for _, doc := range []string{"README.md", "README.zh-CN.md", "PROTOCOL.md"} {
		text := file(t, doc)
		for r := server.Reason(1); r < server.AppReason; r++ {
			row := fmt.Sprintf("| %d | ", uint16(r))
			if r.Known() {
				assert.Contains(t, text, row+r.String()+" |", doc)
			} else {
				assert.NotContains(t, text, row+"reason", doc)
			}
		}
	}
}

// Each test, benchmark and test flag that a document names is there; SECURITY.md has one behind every bound.
func TestDocumentsNameTests(t *testing.T) {
	tests, flags := map[string]bool{}, map[string]bool{}
	inTests := func(re *regexp.Regexp, found map[string]bool) {
		require.NoError(t, filepath.WalkDir(filepath.Join("..", ".."), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(name, "_test.go") {
				return err
			}
			b, err := os.ReadFile(name)
			for _, m := range re.FindAllStringSubmatch(string(b), -1) {
				found[m[1]] = true
			}
			return err
		}))
	}
	inTests(regexp.MustCompile(`(?m)^func ((?:Test|Benchmark)[A-Z]\w*)\(`), tests)
	inTests(regexp.MustCompile(`flag\.[A-Z]\w*\("([\w.]+)"`), flags)
	require.Greater(t, len(tests), 200)
	named := 0
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "bench/peers/README.md"} {
		text := file(t, doc)
		for _, name := range regexp.MustCompile(`\b(?:Test|Benchmark)[A-Z]\w*`).FindAllString(text, -1) {
			named++
			there := false
			for test := range tests { // -run TestWarning runs all that begin so
				there = there || strings.HasPrefix(test, name)
			}
			assert.True(t, there, "%s names %s", doc, name)
		}
		for _, command := range regexp.MustCompile("go test [^`\n]*").FindAllString(text, -1) {
			for _, m := range regexp.MustCompile(` -([a-z]+(?:\.[a-z]+)?) [0-9]`).FindAllStringSubmatch(command, -1) {
				assert.True(t, flags[m[1]] || m[1] == "timeout", "%s names -%s", doc, m[1])
			}
		}
	}
	assert.Greater(t, named, 50)
	rows := 0
	for row := range strings.Lines(file(t, "SECURITY.md")) {
		if cells := strings.Split(row, "|"); len(cells) == 6 && !strings.HasPrefix(row, "|---") && strings.TrimSpace(cells[1]) != "what" {
			rows++
			assert.Contains(t, cells[4], "Test", cells[1])
		}
	}
	assert.Greater(t, rows, 15)
}

func file(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", name))
	require.NoError(t, err)
	return string(b)
}
