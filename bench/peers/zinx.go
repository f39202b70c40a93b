//go:build linux

package main

import (
	"context"
	"time"

	"github.com/aceld/zinx/zconf"
	"github.com/aceld/zinx/ziface"
	"github.com/aceld/zinx/zlog"
	"github.com/aceld/zinx/znet"
)

var zinxPeer = peer{
	name: "zinx", module: "github.com/aceld/zinx", serve: serveZinx, tlv: true,
	liveness: "HeartbeatChecker every 5 s: a goroutine and a ticker for each connection, a stamp for each read; its beat is left out, which the load would not expect",
	remark:   "its own framing (4 bytes of id, 4 of length); SendMsg for each message, which is a write for each; its other way, SendBuffMsg, writes every 10 ms; a goroutine for each connection, one worker",
}

// zinxEcho is the id of the messages.
const zinxEcho = 1

type zinxRouter struct{ znet.BaseRouter }

func (*zinxRouter) Handle(r ziface.IRequest) {
	_ = r.GetConnection().SendMsg(r.GetMsgID(), r.GetData())
}

// serveZinx serves with what conf/zinx.json says: without that file zinx complains in every process, and
// the limit for silence can be set nowhere else.
func serveZinx() (string, error) {
	zlog.SetLogger(muteZinx{})
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	zconf.GlobalObject.TCPPort = addr.Port
	zconf.GlobalObject.HeartbeatMax = int(idleMax / time.Second)
	s := znet.NewServer()
	s.AddRouter(zinxEcho, &zinxRouter{})
	s.SetOnConnStart(func(c ziface.IConnection) {
		h := znet.NewHeartbeatChecker(5 * time.Second)
		h.SetHeartbeatFunc(func(ziface.IConnection) error { return nil })
		h.BindConn(c)
	})
	s.Start()
	return addr.String(), await(addr.String())
}

type muteZinx struct{}

func (muteZinx) InfoF(string, ...any)                    {}
func (muteZinx) ErrorF(string, ...any)                   {}
func (muteZinx) DebugF(string, ...any)                   {}
func (muteZinx) InfoFX(context.Context, string, ...any)  {}
func (muteZinx) ErrorFX(context.Context, string, ...any) {}
func (muteZinx) DebugFX(context.Context, string, ...any) {}
