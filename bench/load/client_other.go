//go:build !linux

package load

import "errors"

var errLinux = errors.New("load: works on Linux only (epoll)")

// ErrClosed is what Run returns after Close.
var ErrClosed = errors.New("load: the client is closed")

// A Client holds connections to a server. Here there is none: Dial fails.
type Client struct{}

// Dial fails: there is no epoll.
func Dial(Options) (*Client, error) { return nil, errLinux }

// Run fails.
func (*Client) Run(Round) (Result, error) { return Result{}, errLinux }

// Pings returns zero.
func (*Client) Pings() int { return 0 }

// Close does nothing.
func (*Client) Close() error { return nil }

// Storm fails: there is no epoll.
func Storm(StormOptions) (StormResult, error) { return StormResult{}, errLinux }
