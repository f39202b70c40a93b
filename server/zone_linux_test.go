package server_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/internal/netlab"
	"github.com/pulsewheel/pulsewheel/server"
)

func init() { roles["zoned"] = zonedRole }

// zonedRole serves at fe80::a%d0, is dialled from fe80::b%d1, and says as which address it knows
// its client, and as which it remembers it.
func zonedRole([]string) {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "zoned:", err)
			os.Exit(1)
		}
	}
	h := newRecorder()
	srv, err := server.New(h, calm())
	must(err)
	ln, err := net.Listen("tcp6", "[fe80::a%d0]:0")
	must(err)
	go func() { _ = srv.Serve(ln) }()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("fe80::b"), Zone: "d1"}}
	nc, err := d.Dial("tcp6", fmt.Sprintf("[fe80::a%%d1]:%d", ln.Addr().(*net.TCPAddr).Port))
	must(err)
	c := &client{nc, bufio.NewReader(nc)}
	_, err = c.Write(frame(codec.Data, []byte("hello")))
	must(err)
	s := <-h.opens
	fmt.Println(s.RemoteAddr().Addr())
	must(nc.Close())
	<-h.closes
	fmt.Println(s.RemoteAddr().Addr())
	for _, e := range srv.Recent() {
		fmt.Println(e.RemoteAddr.Addr())
	}
	must(srv.Close())
}

// A link-local address says nothing without its zone.
func TestRemoteAddrKeepsItsZone(t *testing.T) {
	t.Parallel()
	lab, err := netlab.New(0)
	if err != nil {
		t.Skipf("no network to break: %v", err)
	}
	defer func() { require.NoError(t, lab.Close()) }()
	ip := lab.ServerCommand("ip", "-batch", "-")
	ip.Stdin = strings.NewReader(`link add d0 type veth peer name d1
address add fe80::a/64 dev d0 nodad
address add fe80::b/64 dev d1 nodad
link set d0 up
link set d1 up
`)
	if out, err := ip.CombinedOutput(); err != nil {
		t.Skipf("no IPv6 here: %s", out)
	}
	as := role(t, "zoned")
	cmd := lab.ServerCommand(as.Path, as.Args[1:]...)
	cmd.Env = as.Env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, []string{"fe80::b%d0", "fe80::b%d0", "fe80::b%d0"}, strings.Fields(string(out)))
}
