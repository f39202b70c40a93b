//go:build !linux

package bench

import "testing"

// TestMatrix needs Linux: see matrix_test.go.
func TestMatrix(t *testing.T) {
	t.Skip("no network to pull a cable in: it needs Linux, with network namespaces and TCP_INFO")
}
