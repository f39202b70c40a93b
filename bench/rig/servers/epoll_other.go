//go:build !linux

package servers

<<<<<<< HEAD
func serveEpoll(Options) { panic("servers: epoll is there on Linux only") }

func serveEpollMany(Options) { panic("servers: epoll is there on Linux only") }
=======
func serveEpoll(Options, bool) { panic("servers: epoll is there on Linux only") }
>>>>>>> idle
