//go:build !linux

package sockstat

import "time"

// Supported tells whether this system answers TCP questions at all.
const Supported = false

// ReadTCPInfo is not known here.
func ReadTCPInfo(int) (TCPInfo, error) { return TCPInfo{}, ErrUnknown }

// Jiffy is not known here.
func Jiffy() time.Duration { return 0 }

// Unacknowledged is not known here.
func Unacknowledged(int) (int, error) { return 0, ErrUnknown }

// Apply is not known here; the server falls back to the net package's keepalive.
func Apply(int, Options) error { return ErrUnknown }

// Applied is not known here: no.
func Applied(int, Options) bool { return false }
