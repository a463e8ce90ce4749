// Package repair has a pipe make good what its path loses, so that TCP above it sees
// a path without loss. It is pure: no clock, no goroutine, no keys, no sockets. Times
// are parameters, counted from any moment.
//
// # The sender
//
// Each packet is kept as plaintext until the peer has acknowledged it, and sent anew
// under another counter when it was lost:
//
//	Queue ──> flows, in turn ──Take──> on its way ──Sent──> in flight ──Acked──> gone
//	                             ^                              │ lost
//	                             └───────── again <─────────────┘
//
// Datagrams are in a queue of their own. They leave before all else, whatever window and
// pace say, while they take no more than half of the path's rate, 10 ms of it at once,
// and half a window more is in flight; beyond that where nothing else waits. They take
// turns as well, and are not sent again; what waits longer than 256 KiB, or 50 ms, is
// shed, of the flow that has most.
//
// What leaves late, since the host had no time, is made up for if it is late by no more
// than an eighth of a round trip, 4 to 16 ms; else it is the host that the rate is limited
// by, and not the path (congestion.Path.Limited).
//
// What is lost goes before what is new. Flows take turns by deficit round robin (RFC
// 8290 §4, new ones first, but once each; without its queue management: what waits here is bounded by what its
// writers may have unread). How much is in flight, and how fast it leaves, says
// package congestion.
//
// A packet is lost if
//
//   - three that were sent later have arrived, and it is late by more than the
//     reordering window,
//   - or one that was sent later has arrived and 9/8 of a round trip have passed
//     (RFC 9002 §6.1),
//   - or nothing was acknowledged for smoothed + 4 × variation + 6 ms, doubling each
//     time: then the two oldest are sent again (RFC 9002 §6.2). After 30 s without an
//     answer what is in flight is given up.
//
// The reordering window begins at nothing. One that was taken for lost and arrives
// all the same widens it to what would have spared that one, at most a quarter of a
// round trip; 64 losses without such a one halve it (RFC 8985 §6.2).
//
// # The receiver
//
// Seen is which counters have come, and what of them an acknowledgement says: the 32
// newest ranges.
//
// # Peers that lie
//
// An acknowledgement of what was never sent is refused, and so is one of a counter
// that was left out on purpose, one in about a thousand (RFC 9000 §21.4): Acked
// returns ErrLie, after which the peer is not believed any more. One costs as many steps
// as it passes over packets in flight that it does not acknowledge, and the 256 that were
// lost last; each packet that was sent pays for 256 steps, and when these are used up an
// acknowledgement is ignored. What is kept is bounded per
// pipe and, by Budget, per node, of which a pipe leaves as much for others; what is beyond is not taken.
//
// # File table
//
//	packet.go  Packet, lists, Budget, cutting TCP segments
//	queue.go   flows in turn                RFC 8290 §4.1
//	sender.go  Sender: flight, pace, probes RFC 9002 §6
//	acked.go   what acknowledgements say    RFC 9002 §6.1, RFC 8985 §6.2
//	seen.go    Seen: the receiver's ranges  RFC 9000 §13.2.3
package repair
