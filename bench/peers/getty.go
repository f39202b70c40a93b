//go:build linux

package main

import (
	"fmt"
	"net"
	"time"

	getty "github.com/apache/dubbo-getty"
)

var gettyPeer = peer{
	name: "getty", module: "github.com/apache/dubbo-getty", serve: serveGetty,
	liveness: "OnCron every 5 s looks at GetActive; it sets a read deadline and a write deadline each time",
	remark:   "all whole frames that are there are one package, answered with one WriteBytes; a goroutine for each connection",
}

type gettyEcho struct{}

// Read makes one package of all whole frames.
func (gettyEcho) Read(_ getty.Session, data []byte) (any, int, error) {
	n := whole(data)
	if n == 0 {
		return nil, 0, nil
	}
	return data[:n], n, nil
}

func (gettyEcho) Write(_ getty.Session, pkg any) ([]byte, error) { return pkg.([]byte), nil }

func (gettyEcho) OnOpen(getty.Session) error   { return nil }
func (gettyEcho) OnClose(getty.Session)        {}
func (gettyEcho) OnError(getty.Session, error) {}

func (gettyEcho) OnMessage(s getty.Session, pkg any) { _, _ = s.WriteBytes(pkg.([]byte)) }

func (gettyEcho) OnCron(s getty.Session) {
	if time.Since(s.GetActive()) > idleMax {
		s.Close()
	}
}

func serveGetty() (string, error) {
	if err := getty.SetLoggerLevel(getty.LoggerLevelFatal); err != nil {
		return "", err
	}
	s := getty.NewTCPServer(getty.WithLocalAddress("127.0.0.1:0"))
	s.RunEventLoop(func(ss getty.Session) error {
		ss.SetPkgHandler(gettyEcho{})
		ss.SetEventListener(gettyEcho{})
		ss.SetMaxMsgLen(128 << 10)
		ss.SetReadTimeout(idleMax) // when it is over, getty reads again: see OnCron
		ss.SetWriteTimeout(5 * time.Second)
		ss.SetCronPeriod(5000)
		return nil
	})
	ln, ok := s.(interface{ Listener() net.Listener })
	if !ok {
		return "", fmt.Errorf("getty does not tell its listener")
	}
	return ln.Listener().Addr().String(), nil
}
