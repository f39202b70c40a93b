// Package bench measures. Its benchmarks are run with go test -bench, as everywhere; what they print
// are figures of one machine at one moment: compare lines of one run with each other.
//
//	go test ./bench -run '^$' -bench .       benchmarks
//	go run ./bench/compare                   the library next to what it is built upon
//	go run ./bench/compare -against v1.2.0   next to itself as it was at another revision, too
//	go test ./bench -run TestDeadlines -v    by how much deadlines are late under load, and what they may be
//	go run ./bench/plots                     drawings over the number of connections and loops
//	cd bench/peers && go run .               next to other frameworks; go run ./timers for timers
package bench
