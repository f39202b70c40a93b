//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "peers: works on Linux only: the load is an epoll client, and the processes are bound to CPUs")
	os.Exit(1)
}
