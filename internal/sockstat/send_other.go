//go:build !(linux && (amd64 || arm64 || riscv64 || loong64 || ppc64 || ppc64le || mips64 || mips64le))

package sockstat

// Send has no direct way here: the caller writes by its ordinary means.
func Send(int, []byte) (int, error) { return 0, ErrUnknown }
