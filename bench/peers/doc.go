// Command peers puts the same echo load on this library and on other frameworks, each with its own way of
// telling that a peer is gone, and prints the ratios of their throughput. README.md says how.
package main
