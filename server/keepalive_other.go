//go:build !linux

package server

import "net"

// tcpKeepAlive derives keepalive from the policy by the net package's means; TCP_USER_TIMEOUT has no
// equivalent there.
func tcpKeepAlive(nc net.Conn, cfg Config) bool {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return true
	}
	o := kernelOptions(cfg.Policy, cfg.WriteTimeout, cfg.Tick)
	return tc.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: o.KeepIdle, Interval: o.KeepInterval, Count: int(o.UserTimeout/o.KeepInterval) + 1,
	}) == nil
}
