package sockstat

import (
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkTCPInfo is the price of one sample: of a socket that is in the caches, and of one of many in
// turn, as a loop meets them.
func BenchmarkTCPInfo(b *testing.B) {
	for _, sockets := range []int{1, 4000} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			fds := benchSockets(b, sockets)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if ti, err := ReadTCPInfo(fds[i]); err != nil || ti.State != Established {
					b.Fatal(ti.State, err)
				}
				if i++; i == len(fds) {
					i = 0
				}
			}
		})
	}
}

// benchSockets returns the descriptors of our ends of n TCP connections.
func benchSockets(b *testing.B, n int) []int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	fds := make([]int, n)
	for i := range fds {
		far, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(b, err)
		near, err := ln.Accept()
		require.NoError(b, err)
		b.Cleanup(func() { near.Close(); far.Close() })
		raw, err := near.(*net.TCPConn).SyscallConn()
		require.NoError(b, err)
		require.NoError(b, raw.Control(func(fd uintptr) { fds[i] = int(fd) }))
	}
	return fds
}
