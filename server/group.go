package server

import (
	"fmt"
	"slices"
	"sync"

	"github.com/pulsewheel/pulsewheel/codec"
)

// A Group is a set of sessions that are sent to together: a room, a guild, all who see a place. The
// zero Group is empty and ready; it must not be copied. Any goroutine may call its methods at any
// time, also a method of the Handler.
//
// A session may be in many groups. It leaves them all just before OnClose is called; one that has been
// closed, and waits for its peer, is still counted, but gets nothing more.
type Group struct {
	mu    sync.Mutex
	rows  []*row // one for each loop that has had a member
	index map[*Session]seat
}

// row are the members on one loop.
type row struct {
	loop     *loop
	sessions []*Session
	first    []*conn // of those, during a Broadcast, who had no flush due
}

// seat says where a member is.
type seat struct {
	row *row
	at  int
}

// Join makes s a member. Joining once more changes nothing. After the session's end it returns an
// *EndedError.
func (g *Group) Join(s *Session) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, is := g.index[s]; is {
		return s.c.ended()
	}
	if !s.enter(g) {
		return s.c.ended()
	}
	r := g.rowOf(s.c.loop)
	if g.index == nil {
		g.index = map[*Session]seat{}
	}
	g.index[s] = seat{r, len(r.sessions)}
	r.sessions = append(r.sessions, s)
	return nil
}

// rowOf returns the row of l. It is called with mu held.
func (g *Group) rowOf(l *loop) *row {
	for _, r := range g.rows {
		if r.loop == l {
			return r
		}
	}
	r := &row{loop: l}
	g.rows = append(g.rows, r)
	return r
}

// Leave takes s out of the group, if it is a member.
func (g *Group) Leave(s *Session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.exit(g)
	g.drop(s)
}

// drop is called with mu held.
func (g *Group) drop(s *Session) {
	at, is := g.index[s]
	if !is {
		return
	}
	delete(g.index, s)
	sessions := at.row.sessions
	last := len(sessions) - 1
	if other := sessions[last]; other != s {
		sessions[at.at] = other
		g.index[other] = at
	}
	sessions[last] = nil
	at.row.sessions = sessions[:last]
	if last == 0 { // so that the group holds no loop of a server that has gone
		g.rows = slices.DeleteFunc(g.rows, func(r *row) bool { return r == at.row })
	}
}

// Len returns the number of members.
func (g *Group) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.index)
}

// Broadcast queues p to every member as one Data frame, as Session.Send does; it is copied, p remains
// the caller's. Members whose codecs are equal (==) share one encoding, if no other codec comes between
// them, and each loop is woken once at most. All members get the broadcasts of a group in the same order, and in order with what the
// same goroutine sends to them by Send.
//
// Members that have ended are passed over. If the codec refuses p, or some members' backlogs are full
// (ErrBacklogFull), the error says how many did not get it and why the last of them did not; all
// others did. A method of the Handler should not return it: it would end the session of who spoke.
func (g *Group) Broadcast(p []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := broadcast{frame: codec.Frame{Type: codec.Data, Payload: p}}
	for _, r := range g.rows {
		b.to(r)
	}
	if b.missed > 0 {
		return fmt.Errorf("server: Broadcast: %d of %d members did not get it: %w", b.missed, len(g.index), b.err)
	}
	return nil
}

// broadcast is one on its way to all members.
type broadcast struct {
	frame   codec.Frame
	codec   codec.Codec // for which encoded is
	encoded *output
	missed  int
	err     error // of the last who missed it
}

// to queues the frame for all of a row, and then has their loop flush it. A codec that panics leaves
// nobody behind with something queued and no flush due.
func (b *broadcast) to(r *row) {
	defer func() {
		r.loop.markDirty(r.first)
		clear(r.first)
		r.first = r.first[:0]
	}()
	for _, s := range r.sessions {
		first, err := b.enqueue(s.c)
		if first {
			r.first = append(r.first, s.c)
		}
		if err != nil {
			b.missed, b.err = b.missed+1, err
		}
	}
}

// enqueue is conn.enqueue for a frame that others get as well: a session with nothing queued takes
// the encoded bytes themselves, which nobody writes to again.
func (b *broadcast) enqueue(c *conn) (first bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		return false, nil
	}
	if !c.comparable {
		return c.encode(b.frame, c.srv.cfg.BacklogMax)
	}
	if b.codec != c.codec {
		encoded, err := c.codec.AppendFrame(nil, b.frame)
		if err != nil {
			return false, err
		}
		b.codec, b.encoded = c.codec, &output{b: encoded, shared: true}
	}
	queued := 0
	if c.out != nil {
		queued = len(c.out.b)
	}
	if more := len(b.encoded.b); queued+more > c.srv.cfg.BacklogMax {
		return false, backlogFull(queued, b.frame.Type, more, c.srv.cfg.BacklogMax)
	}
	if c.out == nil {
		c.out = b.encoded
	} else {
		out := c.output()
		out.b = append(out.b, b.encoded.b...)
	}
	return c.queued(b.frame.Type), nil
}

// enter notes that s is in g; it reports false if s has ended.
func (s *Session) enter(g *Group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left || s.c.sealed.Load() {
		return false
	}
	m := s.extra()
	m.groups = append(m.groups, g)
	return true
}

// exit notes that s is in g no more.
func (s *Session) exit(g *Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.more; m != nil {
		if i := slices.Index(m.groups, g); i >= 0 {
			m.groups = slices.Delete(m.groups, i, i+1)
		}
	}
}

// leaveGroups takes a session that has ended out of all its groups.
func (s *Session) leaveGroups() {
	var groups []*Group
	s.mu.Lock()
	s.left = true
	if s.more != nil {
		groups, s.more.groups = s.more.groups, nil
	}
	s.mu.Unlock()
	for _, g := range groups {
		g.mu.Lock()
		g.drop(s)
		g.mu.Unlock()
	}
}
