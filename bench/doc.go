// Package bench measures. Its benchmarks are run with go test -bench, as everywhere; what they print
// are figures of one machine at one moment: compare lines of one run with each other.
package bench
