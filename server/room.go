package server

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

const (
	spareDescriptors = 16 // are left to the rest of the process: files, a database
	countShare       = 10 // one part in so many of the time may go into counting: where they have to be listed, thousands take milliseconds
)

// room tells whether there are descriptors for the connection that has just been accepted, for all others that are on their
// way in, and to spare: gnet needs a second one for each, for a moment, and loses a connection for which there is none. They are
// counted when half of those that were free last time have been taken.
func (s *Server) room() error {
	if s.unchecked.Add(-1) >= 0 {
		return nil
	}
	// Who is on the way has been counted twice for a moment, unless his loop is held up.
	for begun := s.elapsed(); s.entering.Load() > 0 && s.elapsed()-begun < patience; {
		time.Sleep(patience / 100)
	}
	select { // who comes and goes at the limit must not have them counted all the time
	case <-time.After(time.Duration(s.countAgain.Load()) - s.elapsed()):
	case <-s.stopping:
	}
	begun := s.elapsed()
	used, err := descriptorsUsed()
	now := s.elapsed()
	s.countAgain.Store(int64(now + countShare*(now-begun)))
	if err != nil {
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			return err
		}
		s.unchecked.Store(1 << 40) // not known here: accept will tell
		return nil
	}
	free := int64(s.descriptors-used) - int64(s.entering.Load()) - spareDescriptors
	if free <= 0 {
		return fmt.Errorf("%d of %d descriptors are in use: %w", used, s.descriptors, syscall.EMFILE)
	}
	s.unchecked.Store(free / 2)
	return nil
}
