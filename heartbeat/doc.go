// Package heartbeat finds sessions that have gone silent: a timing wheel that holds a million of
// them at a few nanoseconds per message, and a policy that says what a silence means.
//
// The package is pure. It reads no clock, starts no goroutine and opens no socket: time is an
// argument, so a day of heartbeats is tested in a millisecond.
//
// # The wheel
//
// A [Wheel] belongs to one event loop, and so to one goroutine. It knows sessions by small dense
// numbers and keeps some 12 bytes for each, without a pointer. What arrives on a session moves
// nothing in the wheel: [Wheel.Touch] stores a tick, and no more. When the tick comes at which a
// session was to be looked at, [Wheel.Advance] asks its owner, who sees when it was last heard of
// and answers when to look again. So a session costs one look per timeout, however much it sends.
//
// The owner keeps what the wheel does not: the deadline itself, which may be later than the next
// look, and whose number it is, for numbers are given out again.
//
// # Never early
//
// A tick is coarse. Something stamped with tick t happened at t or up to one tick later, so who
// wants to wait at least d rounds d up to whole ticks and adds one. The wheel adds nothing: asked
// to look at tick t it looks when it is advanced to t or beyond, not before.
package heartbeat
