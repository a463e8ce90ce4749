// Package null is TCP with null encapsulation (draft §4.3): a stream whose
// bytes travel bare on a real TCP connection, and which outlives that
// connection. New makes a Stream of a first connection; Install gives it
// another. How connections come about, offer, answer and checks, is the
// business of package overlay; nothing here knows peers or addresses.
//
// # The open issue, and the answer
//
// With null encapsulation each 5-tuple of LSIs has real addresses of its own,
// and shim and network see the application's own segments. The draft has, in
// §4.3:
//
//	OPEN ISSUE: For TCP, this doesn't work, since generating the new 5-tuple
//	requires a new TCP handshake. This seems to imply that the TCP layer has to
//	be aware of the change in address. So what do we do? Do we just say "don't
//	use null encapsulation for TCP if you want mobility to work"? Or do we
//	figure out how to make this work?
//
// The answer here is that it can be made to work without a byte on the wire and
// without a change to TCP: resumption out of band. The new 5-tuple needs an
// offer and an answer in any case, which are routed through the overlay, not
// through the connection. Both carry how many bytes of the other's stream their
// sender has taken off its connections so far. Each side keeps what it has sent
// until it knows that the other has taken it, and goes on at the count that it
// is told, on a new TCP connection whose sequence numbers are of no interest.
// The application sees one net.Conn that stands still for a moment.
//
// The TBD of the same section, whether the pseudo-header has LSIs or real
// addresses, does not arise: the kernel's TCP computes checksums, over what is
// in the packet.
//
// # What is exchanged
//
//	A                                                    B
//	stop: leave the old socket, take what its system
//	has received, reset it; the count stands still
//	── offer: flow, epoch, taken(A), end(A) ──────────▶  stop
//	◀─ answer: flow, epoch, taken(B), end(B) ─────────
//	◀═ new TCP connection, checked by framed STUN, then bare ═▶
//	bytes from taken(B) on ─────────────────────────▶  ◀─── bytes from taken(A) on
//
// Offer and answer are sealed and authenticated by the same Noise handshake
// that makes pipes (internal/pipe), so that who asks for bytes, and who says
// that a flow is no more, is known even where the bytes themselves are plain.
//
// # Why no byte is lost or doubled
//
// Number the bytes that A's application writes from 0; let B be the other side.
// For each connection c let b(c) be the number of A's first byte on it, and
// let taken be how many bytes B has taken in all.
//
//  1. On one connection TCP delivers a prefix of what was written to it, in
//     order, without gap or repetition. (TCP's own promise; a FIN counts as
//     the last byte.)
//  2. While no connection is installed, taken does not change: stop waits for
//     whoever is inside the old socket, and the old socket is read no more
//     after it. Hence the count in B's report is what B has taken when the next
//     connection is installed. A connection for which another report was made
//     than the stream's present one is refused (ErrStale): between the two the
//     stream has had another connection.
//  3. A begins connection c at b(c) = the count that B reported for c; what a
//     report and a connection have in common is the secret credentials of the
//     checks, which are new each time. By 2, b(c) = taken. By 1, taken then
//     rises by the bytes b(c), b(c)+1, … in order. So by induction over the
//     connections B takes every byte once, in order: none is doubled, and none
//     is left out as long as A can begin at b(c).
//  4. A can, if it keeps all bytes from b(c) on. Of what it has written to the
//     present connection, A's system says how much is unacknowledged; the rest
//     is in B's system, of which B has taken all but what lies unread, at most
//     the receive buffer that B has announced. So everything before
//     (sent - unacknowledged - B's buffer) was taken by B, and every later count
//     of B's is at least that, since counts never fall. Only that is forgotten.
//  5. The end of a stream is a byte like any other: a FIN is taken, and
//     reported, like a byte, and sent again if it was not. Where a report has
//     told where the stream ends, a FIN at another place is taken for the loss
//     of the path.
//
// A count outside of what is kept, or one that contradicts an earlier one, can
// only come from a peer that lies or that has lost its state; the stream is
// then reset (ErrCount) rather than continued at a guess.
//
// What the sketch does not give: a peer that dies takes what it has not
// handed to its application with it, as with TCP. And like TCP's, "written"
// means that a system has it, not that the peer's application has read it.
//
// # Lost paths, ends, resets
//
// An error of the real connection, a reset included, means only that the
// connection is gone: a NAT that forgot a mapping sends resets, too. What became
// of the stream the peer says itself: it resumes, or it answers that it has no
// such flow (any more). Then, and only then, Read and Write return ECONNRESET.
// If nobody can be asked for Config.Patience, they return ETIMEDOUT. Reading
// what had been taken goes on in both cases, up to the end if that was taken.
//
// Nobody tells of a path that swallows everything. On Linux the kernel is asked
// twice a second how often it has repeated itself without an answer (Check);
// keep-alives, which are no payload, find it where a side only receives.
//
// # Close
//
// Close returns at once. The stream stays known for Config.Linger: until both
// systems have everything including both ends, so that a path that is lost
// meanwhile can still be replaced and the rest sent.
//
// # Bounds
//
//	kept by a sender            what is unacknowledged + the peer's announced
//	                            buffer + a piece: ≤ 5.4 MiB between two of these
//	taken off old sockets       ≤ 6 MiB, until the application reads it
//	a peer's announced buffer   ≤ 8 MiB, else no flow
//	without a connection        60 s, then ETIMEDOUT
//	Close in the background     30 s
//	offers                      those of the peer's pipe: 20 a second, 5 at once
//
// Writing beyond what may be kept blocks. Socket buffers are fixed at 1 MiB
// each way (Linux accounts for twice that): a sender has to know how much may
// lie unread at the other end. Over long fat networks that bounds the rate of
// one stream, at about 1 MiB for each round trip.
//
// What the application writes is copied once, into the store, in the call that
// gives it to the kernel; what it reads comes from the kernel directly.
//
// # Policy
//
// Nothing here encrypts. The stricter policy of the two peers counts: refuse,
// TLS 1.3 between application and Stream with the peers' own identities, or
// plain. A side that refuses shows no address of its own; so does one whose own
// policy forbids it, by making no offer.
//
// # File table
//
//	stream.go  net.Conn: Read, Write, deadlines   draft §4.3
//	switch.go  stop, report, install              DESIGN §14.11
//	close.go   ends, Close in the background      RFC 9293 §3.6
//	store.go   what the peer may still ask for
//	conn.go    the real connection
//	options.go what else a conn has               RFC 2474, tcp(7)
//	reuse_*.go  sockets that share a port         tcp(7)
//	tcp_*.go   what the systems tell of one       RFC 9293, tcp(7)
package null
