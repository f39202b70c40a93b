package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pulsewheel/pulsewheel/internal/sockstat"
	"github.com/pulsewheel/pulsewheel/server"
)

// frozenReasons: TCP_INFO tells the frozen process from the dead path.
var frozenReasons = reasons{server.PeerFrozen}

// closedFirstStates are those in which the kernel has the client's FIN.
var closedFirstStates = []sockstat.TCPState{sockstat.CloseWait}

// timeWait counts the sockets in TIME_WAIT whose own address is addr, of IPv4.
func timeWait(addr string) (n int, err error) {
	own, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0, err
	}
	ip := own.Addr().As4()
	local := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), own.Port())
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(table)) {
		// sl local_address rem_address st ..., in hexadecimal; 06 is TIME_WAIT
		f := strings.Fields(line)
		if len(f) > 3 && f[3] == "06" && f[1] == local {
			n++
		}
	}
	return n, nil
}

// isFrozen returns nil if the process is stopped.
func isFrozen(pid int) error {
	state, _, err := stat(strconv.Itoa(pid))
	if err == nil && state != "T" {
		err = fmt.Errorf("process %d is in state %s, not stopped (T)", pid, state)
	}
	return err
}

// noneLeft returns an error if this process has a child, be it a zombie.
func noneLeft() error {
	pids, err := filepath.Glob("/proc/[0-9]*")
	for _, dir := range pids {
		if state, parent, gone := stat(filepath.Base(dir)); gone == nil && parent == strconv.Itoa(os.Getpid()) {
			err = errors.Join(err, fmt.Errorf("child process %s is left, in state %s (Z is a zombie)", filepath.Base(dir), state))
		}
	}
	return err
}

// stat returns a process's state and parent. Its name may contain anything, but ends with the last ")".
func stat(pid string) (state, parent string, err error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", "", err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 2 {
		return "", "", fmt.Errorf("/proc/%s/stat is %q", pid, b)
	}
	return f[0], f[1], nil
}
