//go:build race

package rig

// raceEnabled: the race detector keeps memory of its own for that of the program.
const raceEnabled = true
