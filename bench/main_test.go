package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/codec"
)

// roles are what this test binary does when it is run as another process: see role.
var roles = map[string]func(args []string){}

// roleEnv names the role; the arguments follow on the command line.
const roleEnv = "PULSEWHEEL_BENCH_ROLE"

func TestMain(m *testing.M) {
	rig.Main()
	if f, ok := roles[os.Getenv(roleEnv)]; ok {
		f(os.Args[1:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// role is this test binary as another process in the given role.
func role(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	require.Contains(t, roles, name)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// frame encodes a frame.
func frame(typ codec.Type, payload []byte) []byte {
	b, err := codec.Binary{PayloadMax: codec.PayloadLimit}.AppendFrame(nil, codec.Frame{Type: typ, Payload: payload})
	if err != nil {
		panic(fmt.Sprintf("frame: %v", err))
	}
	return b
}

// readFrame reads one frame.
func readFrame(r *bufio.Reader) (codec.Frame, error) {
	var head [codec.HeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return codec.Frame{}, err
	}
	p := make([]byte, int(head[1])<<16|int(head[2])<<8|int(head[3]))
	_, err := io.ReadFull(r, p)
	return codec.Frame{Type: codec.Type(head[0]), Payload: p}, err
}
