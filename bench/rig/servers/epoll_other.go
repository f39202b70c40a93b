//go:build !linux

package servers

func serveEpoll(Options, bool) { panic("servers: epoll is there on Linux only") }

func serveEpollMany(Options) { panic("servers: epoll is there on Linux only") }
