package server

import (
	"fmt"

	"github.com/pulsewheel/pulsewheel/codec"
)

// pingless says why the codec of cfg sends no Pings, or returns "". A codec that panics is told of
// when a connection needs it.
func pingless(cfg Config) (why string) {
	defer func() { _ = recover() }()
	b, err := cfg.NewCodec().AppendFrame(nil, codec.Frame{Type: codec.Ping, Payload: make([]byte, 8)})
	switch {
	case err != nil:
		return fmt.Sprintf("AppendFrame refuses a Ping: %v", err)
	case len(b) == 0:
		return "AppendFrame makes no bytes of a Ping"
	}
	return ""
}
