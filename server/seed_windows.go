package server

import "net"

// seedPair returns two connected sockets, by way of a listener on the loopback address.
func seedPair() (near, far net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if far, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	for {
		if near, err = ln.Accept(); err != nil {
			_ = far.Close()
			return nil, nil, err
		}
		if near.RemoteAddr().String() == far.LocalAddr().String() {
			return near, far, nil
		}
		_ = near.Close() // a stranger
	}
}
