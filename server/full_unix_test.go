//go:build unix

package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/server"
)

func init() { roles["full"] = full }

// full is a server in a process of its own that may have 256 descriptors, and so many connections. At the end of its
// standard input it says what its counters are.
func full(args []string) {
	ok := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	most, err := strconv.Atoi(args[0])
	ok(err)
	var r syscall.Rlimit
	ok(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r))
	r.Cur = 256
	ok(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r))
	srv, err := server.New(server.Base{}, server.Config{Loops: 1, ConnsMax: most})
	ok(err)
	ln, err := server.Listen("127.0.0.1:0")
	ok(err)
	fmt.Println(ln.Addr())
	go func() { _ = srv.Serve(ln) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	st := srv.Stats()
	fmt.Println(st.Opened, st.Refused, st.Failed, st.AcceptErrors)
}

// Near the limit on descriptors, who is one too many for ConnsMax does not wait for room: he is told, or
// at least reset.
func TestFullNearTheLimitOnDescriptors(t *testing.T) {
	t.Parallel()
	const tooMany = 200
	for _, most := range []int{150, 220} {
		cmd := role(t, "full", strconv.Itoa(most))
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		r := bufio.NewReader(out)
		addr, err := r.ReadString('\n')
		require.NoError(t, err)
		for range most {
			nc, err := net.Dial("tcp", strings.TrimSpace(addr))
			require.NoError(t, err)
			defer nc.Close()
		}
		told, reset := 0, 0
		var late []*client
		for range tooMany {
			nc, err := net.Dial("tcp", strings.TrimSpace(addr))
			if err != nil {
				reset++
				continue
			}
			late = append(late, wrap(t, nc))
		}
		for _, cl := range late {
			require.NoError(t, cl.SetReadDeadline(time.Now().Add(30*time.Second)))
			if _, err := cl.read(); err == nil {
				told++
			} else if assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it hangs") {
				reset++
			}
			cl.Close()
		}
		require.NoError(t, in.Close())
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
		var opened, refused, failed, failures int
		_, err = fmt.Sscan(string(rest), &opened, &refused, &failed, &failures)
		require.NoError(t, err)
		t.Logf("ConnsMax %d of 256 descriptors: %d of %d too many were told, %d met only the reset; accept failed %d times", most, told, tooMany, reset, failures)
		assert.Equal(t, most, opened)
		assert.Equal(t, tooMany, refused)
		assert.Zero(t, failed)
		assert.Positive(t, told)
		if most+100 <= 256 {
			assert.Zero(t, failures, "there is room for those that wait to be reset")
		}
	}
}
