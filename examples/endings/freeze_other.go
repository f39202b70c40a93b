//go:build !unix

package main

import (
	"errors"
	"os"
	"runtime"
)

var errFreeze = errors.New("not available on " + runtime.GOOS + ": a process cannot be stopped there")

func freeze(*os.Process) error { return errFreeze }

func thaw(*os.Process) error { return errFreeze }
