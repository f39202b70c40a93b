//go:build linux

package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed c/epoll.c
var cSource []byte

//go:embed asio/echo.cpp
var asioSource []byte

//go:embed netty/Echo.java
var nettySource []byte

// nettyWarm is for how many milliseconds the server on Netty puts load on itself before it says its address,
// unless WARM_MS says something else.
const nettyWarm = "3000"

var cPeer = peer{
	name: "c-epoll", build: buildC,
	liveness: "none",
	remark:   "raw epoll, recv and send in C, no session and nothing that a server needs besides; all whole frames of a recv answered with one send",
}

var asioPeer = peer{
	name: "asio", build: buildAsio,
	liveness: "a steady_timer for each connection, read of the clock for each read",
	remark:   "Boost.Asio, io_context without locks; all whole frames of a read answered with one async_write",
}

var nettyPeer = peer{
	name: "netty", build: buildNetty,
	liveness: "IdleStateHandler",
	remark: "Netty on one NioEventLoop (Debian's package has no native transport); all whole frames of a read answered with one write; " +
		"it puts load on itself for " + nettyWarm + " ms first, to be compiled",
}

func buildC(folder string) ([]string, error) {
	source, program, err := write(folder, "epoll.c", cSource)
	if err != nil {
		return nil, err
	}
	return []string{program}, run("gcc", "-O2", "-o", program, source)
}

func buildAsio(folder string) ([]string, error) {
	source, program, err := write(folder, "echo.cpp", asioSource)
	if err != nil {
		return nil, err
	}
	if err := run("g++", "-std=c++17", "-O2", "-pthread", "-o", program, source); err != nil {
		return nil, fmt.Errorf("%w (it needs g++ and libboost-dev)", err)
	}
	return []string{program}, nil
}

func buildNetty(folder string) ([]string, error) {
	source, _, err := write(folder, "Echo.java", nettySource)
	if err != nil {
		return nil, err
	}
	jars := cmp.Or(os.Getenv("NETTY_JARS"), "/usr/share/java")
	path := []string{folder}
	for _, name := range []string{"common", "buffer", "transport", "resolver", "codec", "handler"} {
		jar := filepath.Join(jars, "netty-"+name+".jar")
		if _, err := os.Stat(jar); err != nil {
			return nil, fmt.Errorf("%w (it needs a JDK and libnetty-java, or NETTY_JARS=folder)", err)
		}
		path = append(path, jar)
	}
	class := strings.Join(path, ":")
	if err := run("javac", "-d", folder, "-cp", class, source); err != nil {
		return nil, fmt.Errorf("%w (it needs a JDK)", err)
	}
	return []string{"java", "-XX:+UseSerialGC", "-Xms256m", "-Xmx256m", "-Dio.netty.leakDetection.level=disabled", "-cp", class, "Echo", cmp.Or(os.Getenv("WARM_MS"), nettyWarm)}, nil
}

// write writes a source file, and returns its name and one for the program.
func write(folder, name string, text []byte) (source, program string, err error) {
	source = filepath.Join(folder, name)
	program = strings.TrimSuffix(source, filepath.Ext(source))
	return source, program, os.WriteFile(source, text, 0o600)
}

// run runs a compiler; the error has the first lines of what it says.
func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err == nil {
		return nil
	}
	lines := bytes.SplitN(bytes.TrimSpace(out), []byte("\n"), 4)
	said := bytes.Join(lines[:min(len(lines), 3)], []byte("; "))
	if len(said) == 0 {
		return err // there is no such program
	}
	return fmt.Errorf("%s: %w: %s", name, err, said)
}
