//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package sockstat

// Waiting is not known here.
func Waiting(int) (int, error) { return 0, ErrUnknown }

// Receive is not done here.
func Receive(int, []byte) (int, error) { return 0, ErrUnknown }

// Writable is not known here: false.
func Writable(int) bool { return false }

// PendingError is not known here: nil, none seen.
func PendingError(int) error { return nil }

// ResetOnClose is not known by descriptor here.
func ResetOnClose(int) error { return ErrUnknown }
