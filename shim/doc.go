// Package shim translates between LSIs and pipes, packet by packet: it is the
// layer that the draft puts between IP and the real network (draft §4.3). A
// mapping says which pipe leads to the peer behind an LSI. A packet for an
// LSI without one is a miss: it is held, and the peer protocol is asked, once
// per peer, for a pipe.
//
//	             Output                          Upper.Deliver
//	               │                                   ▲
//	src, dst, next header checked          IP header rebuilt from the
//	               │                       session's LSIs, TCP runs merged
//	mapping? ──no──► hold, Connect                     │
//	   │yes              │      │           next header, lengths, offsets
//	   │◄──up: in order──┘      └─failed:   and quotes checked
//	   │                         ICMP up               │
//	TCP cut to MaxSegment,                             │
//	others whole or SendLarge               Pipe.Open, back to front
//	   │                                               │
//	pipe.Batch: sealed in place                 Handler.Data, Large
//	   ▼                                               │
//	─────────────────────────── internal/pipe ─────────────────────────
//
// The inner IP header is not sent (DESIGN §6): the receiver writes a new one
// with its own names for the two peers, so no peer can speak for another. It
// follows that transport checksums, whose pseudo-header holds the sender's
// LSIs, are not truth. The AEAD protects the segment; the stack above must
// take TCP and UDP as verified, or, if it is a kernel, compute checksums itself
// (PacketUpper); ICMP checksums are computed anew here, and those in fragments
// travel without the addresses.
// The TOS byte, IPv4 options and IPv6 extension headers other than the
// fragment header do not travel.
// The DSCP of an IP header that goes down is that of the pipe's datagram; it
// is not rebuilt at the other end.
//
// A mapping lives while its pipe does, or while one is being opened:
//
//	       miss                    Connect returned, Up
//	none ────────► connecting ───────────────────────────► up
//	  ▲               │ Connect failed, no Up                │
//	  ├───────────────┘ held packets answered                │
//	  └──────────────────────────────────────────────────────┘ Down
//	none ──────────────── Up (the peer opened it) ─────────► up
//
// While it exists the peer's LSIs are pinned in the table. Looking one up
// takes no lock and allocates nothing: a sharded map that is copied on write.
//
// TCP segments that a path reorders are put in order again before the stack
// sees them, within a window that follows what the path does (package pep): a
// flow without a gap is never held up.
//
// Who dials waits for the pipe by Open before the stack sends anything (open.go):
// any number share one Connect and all hear what became of it. Those who try
// again wait together, 100 ms at first and up to 2 s, or until the peer comes.
//
// The headers of a packet are read once, into an inner.Header, which goes with it:
// from here to the stack, from the stack to here.
//
// Limits: 64 packets and 256 KiB held per peer, the oldest dropped; one
// Connect per peer at a time; 64 answers waiting for the stack; all drops are
// counted by reason (Stats); 20 ms of waiting for a segment, twice that while
// nothing comes in, and 2048 segments or 4 MiB of a flow and 32 MiB of a peer meanwhile,
// 64 MiB of all peers, of which one leaves as much for others as it takes; 512 flows a
// peer.
//
// The package uses gVisor's buffer package, so that what a pipe opened goes
// to the stack without another copy. It does not import the stack: that is
// the Upper it delivers to.
//
// # File table
//
//	shim.go      life, pipe.Handler, counters
//	mapping.go   LSI and peer → mapping       draft §4.3, DESIGN §10
//	miss.go      miss, its queue, Connect      draft §6, DESIGN §12
//	open.go      Dials that wait for a pipe
//	output.go    packets down, segmentation   DESIGN §13
//	keep.go      segments that the pipe repairs  DESIGN §14.14
//	datagram.go  UDP without IP packets       DESIGN §6
//	bare.go      UDP with null encapsulation  draft §4.3
//	coalesce.go  small packets in quick succession
//	input.go     runs up, TCP merged          DESIGN §13
//	packetupper.go  packets up without a View
//	proxy.go     what works for TCP: package pep  RFC 3135
//	inner.go     IP headers                   RFC 791, RFC 8200
//	icmp.go      errors made and translated   RFC 792, RFC 4443
//	fragment.go  next header 44 ↔ IPv4        RFC 8200 §4.5, RFC 791 §3.2
//	drop.go      reasons
package shim
