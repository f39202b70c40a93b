//go:build unix

package server

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The process's descriptors are counted, however many there are. It is not parallel: others open some.
func TestDescriptorsUsed(t *testing.T) {
	before, err := descriptorsUsed()
	if err != nil {
		t.Skip("this system does not tell: ", err)
	}
	const n = 200
	for range n {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		defer f.Close()
	}
	after, err := descriptorsUsed()
	require.NoError(t, err)
	assert.InDelta(t, n, after-before, 10)
	assert.Greater(t, descriptorLimit(), after)
}

// Counting takes a tenth of the time at most.
func TestDescriptorsAreNotCountedAllTheTime(t *testing.T) {
	s, err := New(Base{}, Config{})
	require.NoError(t, err)
	s.descriptors = descriptorLimit()
	for range 50 {
		s.unchecked.Store(0)
		require.NoError(t, s.room())
		again := time.Duration(s.countAgain.Load())
		s.unchecked.Store(0)
		require.NoError(t, s.room())
		assert.GreaterOrEqual(t, s.elapsed(), again)
	}
	s.countAgain.Store(int64(s.elapsed() + time.Hour))
	s.unchecked.Store(0)
	close(s.stopping)
	require.NoError(t, s.room(), "it does not hold up the end")
}

// A loop whose turns are short is not held up, however late the ticker comes: turns that begin in the same tick cannot be told apart.
func TestWatchdogOfShortTurns(t *testing.T) {
	s, err := New(Base{}, Config{Tick: 200 * time.Millisecond, BlockWarning: 600 * time.Millisecond})
	require.NoError(t, err)
	l := newLoop(s, 0)
	s.loops, s.watches = []*loop{l}, make([]watch, 1)
	for tick := uint32(10); tick < 30; tick += 2 { // the ticker is late by a tick each time
		before := s.now.Load()
		s.now.Store(tick)
		l.enter()
		s.watchLoops(2*s.cfg.Tick, before)
		l.exit()
		l.enter()
		s.watchLoops(2*s.cfg.Tick, tick)
		l.exit()
	}
	assert.Zero(t, s.Stats().Blocks)
	s.now.Store(30)
	l.enter()
	for tick := uint32(30); tick < 40; tick += 2 { // and one that is not
		before := s.now.Load()
		s.now.Store(tick)
		s.watchLoops(2*s.cfg.Tick, before)
	}
	s.reports.Wait()
	assert.EqualValues(t, 1, s.Stats().Blocks)
	l.exit()
	s.watchLoops(s.cfg.Tick, 38)
	s.reports.Wait()
	assert.Zero(t, s.Stats().Blocked)
}
