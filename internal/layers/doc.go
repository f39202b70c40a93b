// Package layers holds no code, only the test that keeps every package to what it may import.
package layers
