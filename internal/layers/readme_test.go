package layers

import (
	"fmt"
	"os"
	"path/filepath"
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

func file(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", name))
	require.NoError(t, err)
	return string(b)
}
