//go:build !linux

package main

import (
	"github.com/pulsewheel/pulsewheel/internal/sockstat"
	"github.com/pulsewheel/pulsewheel/server"
)

// What is not available here: the kernel's view (TCP_INFO), and so what tells the frozen process from
// the dead path and who closed first; sockets in TIME_WAIT and children left are not looked for.

var frozenReasons = reasons{server.HeartbeatLost}

var closedFirstStates = []sockstat.TCPState{0} // not known

func timeWait(string) (int, error) { return 0, nil }

func isFrozen(int) error { return nil }

func noneLeft() error { return nil }
