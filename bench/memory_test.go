package bench

import (
	"bufio"
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/busy"
	"github.com/pulsewheel/pulsewheel/server"
)

func init() { roles["memory"] = memoryRole }

// site is a line of code that allocates, and what of it is alive.
type site struct{ bytes, objects int64 }

// sites returns what is alive, by the line of this library, of gnet, or else of whoever allocated it.
func sites() map[string]site {
	for range 3 { // the profile is one cycle late, and what had a finalizer another
		runtime.GC()
	}
	records := make([]runtime.MemProfileRecord, 1<<14)
	n, ok := runtime.MemProfile(records, true)
	if !ok {
		panic(fmt.Sprintf("%d records of memory are more than %d", n, len(records)))
	}
	found := map[string]site{}
	for _, r := range records[:n] {
		frames := runtime.CallersFrames(r.Stack())
		name := ""
		for {
			f, more := frames.Next()
			if name == "" && !strings.HasPrefix(f.Function, "runtime.") && !strings.HasPrefix(f.Function, "internal/runtime/") {
				name = fmt.Sprintf("%s:%d", f.Function, f.Line)
			}
			if !more {
				break
			}
		}
		s := found[name]
		found[name] = site{s.bytes + r.InUseBytes(), s.objects + r.InUseObjects()}
	}
	return found
}

type memoryEcho struct{ server.Base }

func (memoryEcho) OnMessage(s *server.Session, p []byte) error { return s.Send(p) }

// memoryRole is an echo server that counts every allocation. When it is sent a line, it tells what its
// sessions take.
func memoryRole([]string) {
	srv, err := server.New(memoryEcho{}, server.Config{Loops: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	ln, err := server.Listen("127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = srv.Serve(ln) }()
	lines := bufio.NewScanner(os.Stdin)
	fmt.Println(ln.Addr())
	lines.Scan() // one client has come and gone: all that is there once is there
	before := sites()
	fmt.Println("ready")
	lines.Scan()
	sessions := int64(srv.Stats().Live)
	after := sites()
	for _, name := range slices.SortedFunc(maps.Keys(after), func(a, b string) int {
		return cmp.Compare(after[b].bytes-before[b].bytes, after[a].bytes-before[a].bytes)
	}) {
		if d := (after[name].bytes - before[name].bytes); d >= sessions { // a byte for each, or more
			fmt.Printf("%d %d %s\n", d/sessions, (after[name].objects-before[name].objects+sessions/2)/sessions, name)
		}
	}
	debug.FreeOSMemory()
	fmt.Println("end")
}

// TestMemory prints where every byte of an idle session's memory is: those that were allocated for it and
// are alive after a garbage collection, by who allocated them.
func TestMemory(t *testing.T) { busy.Try(t, testMemory) }

func testMemory(t *busy.T) {
	const clients = 2000
	const most = 1100 // bytes a session, gnet's included
	cmd := role(t, "memory")
	cmd.Env = append(cmd.Env, "GODEBUG=memprofilerate=1")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	next := func() string {
		require.True(t, lines.Scan(), "the server said no more")
		return lines.Text()
	}
	addr := next()
	hello := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		_, err = c.Write(frame(codec.Data, []byte("hello")))
		require.NoError(t, err)
		_, err = readFrame(bufio.NewReader(c))
		require.NoError(t, err)
		return c
	}
	require.NoError(t, hello().Close())
	_, err = fmt.Fprintln(in)
	require.NoError(t, err)
	require.Equal(t, "ready", next())
	for range clients {
		defer hello().Close()
	}
	_, err = fmt.Fprintln(in)
	require.NoError(t, err)
	sum := 0
	var table strings.Builder
	for line := next(); line != "end"; line = next() {
		words := strings.SplitN(line, " ", 3)
		bytes, err := strconv.Atoi(words[0])
		require.NoError(t, err, line)
		sum += bytes
		fmt.Fprintf(&table, "| %d | %s | `%s` |\n", bytes, words[1], words[2])
	}
	fmt.Printf("\n| bytes | objects | allocated by |\n|--:|--:|---|\n%s| %d | | in all, for one of %d idle sessions |\n\n", table.String(), sum, clients)
	assert.Less(t.IfQuiet(busy.Doze), sum, most) // a process that waits for the processor has more under way
}
