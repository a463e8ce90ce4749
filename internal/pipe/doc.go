// Package pipe is the one UDP association that two peers have (draft §2,
// §4.3): offer and answer, the keys, the sealed datagrams, and the paths they
// take. This text specifies the protocol, package handshake below it the key
// exchange; the layouts of the single messages are in internal/wire. Numbers in parentheses are in
// bytes, integers are big endian, ‖ is concatenation.
//
// An Endpoint holds all pipes of a peer. The initiator calls NewOffer, has
// Offer.Bytes carried to the responder by whatever means, and reads the
// answer with Offer.Finish; the responder calls ReadOffer and Incoming.Accept.
// Both give the Session to Endpoint.Up when a path is known. Nothing of the
// handshake comes over the UDP port, and there is no parser for it there.
//
// # Handshake
//
// Identities, the two messages and the key schedule, of handshake and rekey, are
// specified in package handshake. The data AEAD that the answer chooses must have
// been offered. The answer repeats session ID and timestamp.
//
// The timestamp is max(now, last used + 1) in µs; the initiator keeps the
// last across restarts, but for one more than 10 min ahead of its clock. The start number names the run of the sender's
// process.
//
// # Datagrams
//
// A datagram is header (8) ‖ AEAD(plaintext), tag (16) included; the header
// is the associated data; the nonce (12) is 64 zero bits ‖ counter (32). DATA,
// CTRL and FRAG of one key share the counter, which starts at 0 and never
// wraps. A receiver
//
//  1. drops what is no header of a known type, and what has no keys under
//     its receiver index;
//  2. opens the AEAD; after 2^36 failures under a key the pipe is closed;
//  3. only then asks the replay window (8128 packets), and drops counters
//     seen, too old, or at 2^28 and above;
//  4. acts. Nothing is ever sent because of a datagram that failed a step,
//     but the CLOSE of a pipe that ends by step 2.
//
// A plaintext longer than a datagram takes is split (FRAG): pieces of a
// multiple of 8 bytes, no overlaps, at most 4 messages waiting per pipe and
// 1 s each. A CTRL plaintext may be split likewise. It draws at most 16
// datagrams; frames beyond are not read.
//
// # Repair
//
// Two peers that both can make good what a path of some length loses. What one of
// them sends as DATA with 0x80 set in the next header it keeps, and sends anew until
// the other acknowledges it; 0x40 beside that says that it was sent before. Only TCP
// segments are kept, and of those that only acknowledge just the last one before a
// pause. UDP has 0x80 too, to be counted and paced with the rest, but is sent once: it
// goes before all else as long as it takes no more than half of the path's rate. What
// only acknowledges, and all else, is sent at once and once.
//
// REPAIR asks (0) whether the peer acknowledges, with a number, and is answered (1)
// with that number; both have a third byte with what their sender can beside that: 1,
// acknowledge UDP with 0x80; 2, tell and be told of marks (below). Who has not said so
// is sent neither. It asks twice at once when a pipe comes up, unless its path is within the
// host, again after 20 ms twice, then at 200 ms or 2 RTT and doubling, 8 times in all.
// Whoever does not know it skips it. A packet with 0x80 set is an answer as well. The
// answer holds for the session, and for later ones with the same start number. Nothing
// is kept on the way to a relay over a carrier, on a path that takes datagrams of more than 1504, on one that is known to take less than 2 ms there and back, nor, once
// something is, when it takes less than 1.5 ms and what waits has left.
//
// ACK says which counters of one key have come: those of all datagrams that opened
// since the first with 0x80, in at most 32 ranges, the newest first, and how long ago
// the newest came. It is sent when 16 packets with 0x80 have come, when a counter was
// passed over, or an eighth of the RTT after the first that it is for, between 1 and 5
// ms, but never of a part of what one read of a socket has brought. It is no question and draws no answer, and a lost one is made good by the next.
//
// What is lost leaves under a new counter, so neither the replay window nor a round
// trip is in doubt, and under whatever keys, path and size there are then: what has
// become too long is cut. When it is lost, and how much is in flight, is the sender's
// business: packages repair and congestion say how this one does it, and what that is
// worth where the peer lies. One counter in about a thousand is left out on purpose,
// and a peer that acknowledges it, or one not used yet, is kept nothing for any more.
//
// Between two that can, DATA with 0x80 leaves with ECT(0) in its outer header on a
// direct path, and ACK says last how many DATA datagrams have come with CE under the
// key (RFC 3168), which the congestion control takes for losses by congestion. A path
// on which nothing is acknowledged, and two probes neither, may eat what has ECT: from
// then on the pipe's leave without.
//
// The receiver hands on what opens as it comes; the shim has the stack see segments
// in order (shim/pep). Bounds: 64 MiB kept by all pipes together
// (Config.RepairBudget), by one at most 32 MiB and not more than it leaves for the
// others, 2 KiB a packet; what is beyond is not taken, and TCP sends it again. A receiver waits 5 RTT and 150 ms for what is missing, 3 s
// at most, with no more than 32 MiB of one peer's behind it.
//
// # States
//
//	              Up by the initiator, or first authenticated
//	              packet at the responder
//	opening ───────────────────────────────────────> up <────┐
//	   │                                              │      │ authenticated
//	   │ keys expire                  silence, no path│      │ packet, or
//	   v                                              v      │ new session
//	closed <──────────────────────────────────────  silent ──┘
//	          CLOSE, idle, keys expire, integrity limit; also from up
//
// Data is sent in "up" only. The initiator may send as soon as it has the
// answer and a path. It sends CONFIRM(0), at 200 ms or 2 RTT and doubling,
// until it hears from the peer under the new keys. The responder sends
// nothing before one authenticated packet under the new keys came in. It
// answers CONFIRM(0) by CONFIRM(1).
//
// A new session with the same peer goes into the same pipe and takes over
// when it is confirmed: what seals changes then, not before. The old
// session's keys go on opening until nothing came under them for 10 s, 8 old
// keys at most, or end at once if the peer's start number changed. If two sessions crossed (each was begun before the other
// was confirmed), the one initiated by the smaller peer ID seals, whichever
// was confirmed later; the other opens until its keys expire. Each side goes
// by its own clock in this, so they may differ: one whose rekey is unanswered
// when its keys are 150 s old goes on with the other session.
//
// CLOSE ends the pipe; its reason is 0, 1 (idle), 2 (the sender's process ends), 3
// (the receiver is put out) or 4 (the sender's process ends, and the receiver has
// all that was written to it); a higher one means what 2 does. From 2 on all that
// was open over the pipe is over (Handler.Gone), after 4 as if the end of each
// stream had come, and the receiver must learn it: CLOSE is repeated under a
// new counter, after max(50 ms, 1.25 RTT) and half as long again each time, until
// CLOSED comes or min(max(1 s, 3 RTT), 3 s) have passed, and is answered by CLOSED whenever
// it comes within that time, also if the pipe has been silent for less than 10 s. It goes the
// pipe's other ways too, and from all local ends that there are by then. Endpoint.Close
// waits for it. The same is over when the
// peer's start number changes, in a session or by its hello in the overlay
// (Endpoint.PeerStarted). One under a session that was taken over ends that
// session only, as does one that a session begun after the confirmation of
// the closed one has overtaken on its way; but after 2, 4 and what is not known all
// sessions with the same start number are over, also newer ones, of which the sender may
// have known nothing yet.
//
// # Rekey
//
// The initiator of the session begins a rekey when its keys are 120 s old,
// the responder at 135 s if it did not, either after 2^27 packets sent. Keys
// 180 s old or used for 2^28 packets neither seal nor open. Age counts from
// the offer at the initiator of the exchange, from the answer at the
// responder.
//
// The exchange is that of the handshake again, in CTRL frames REKEY_OFFER and
// REKEY_ANSWER under the present keys, without a membership chain. Its number is
// one more than that of the present keys (the handshake's is 0). Every 8th number takes ML-KEM
// along; the others inherit it by the chaining key.
//
// The responder of the exchange opens with the new keys once it has answered
// and seals with them once it has opened a packet under them; the initiator
// seals with them at once and confirms as above. Old keys open until they
// expire or the next but one rekey has ended, so no order of arrival loses a
// packet: both sides have sealed with the keys between since before that rekey
// began. The same offer draws the same answer; an unanswered offer is repeated. Different offers, and answers
// that do not open, are worked on at the rate of offers outside of the pipe: each
// costs key agreements. What is beyond is dropped and counted. If offers cross, the smaller peer
// ID ignores the other's; the larger gives up its own.
//
// # Paths
//
// A path is a local address and a remote one. It is validated when ICE found
// it (Up) or when the peer answered PATH_CHALLENGE (8 random bytes) sent
// there; before, at most 3 bytes are sent for each authenticated byte from
// there (those of an ICE check that only the peer can have sent count: Try), and
// the challenges to one that this side tries of itself. An
// authenticated packet with a higher counter than all before from an unknown
// address starts a challenge, at most 3 at a time, 5 tries each, and switches
// nothing; once answered, and 1.25 RTT after that packet, data moves there if the
// old path has been silent since; so it does when the peer is heard on a path that
// checks have just found. Else data stays on its path until that fails or a
// validated one is faster by 30 % and 5 ms, but never because an address known
// only from a packet's source (a stranger) is faster. A path that took data has
// also failed when for max(150 ms, 2 RTT) the peer was heard on another path only,
// and, if that is a stranger's, a ping on the old one stayed without an answer for
// 1.25 RTT; it is pinged then as one not heard. Until it is heard again, or all others are dead, it
// takes no data. At most 8 paths are kept.
//
// Somebody beside the way who sees all packets and delivers copies of them, sooner
// than they come, from an address of its own, would be heard first and the way
// itself never. So a packet that opens but has come before proves that the path it
// came on lives, if its counter is higher than all that had come when that path was
// last heard; it counts for nothing else. A PING from a stranger is answered on the
// path that takes data as well, and a PONG says how long a path takes only if it
// came on that.
//
// Consent (RFC 7675): data goes only to an address from which an
// authenticated packet came in the last 30 s. A path not heard or not used
// for 15 s is pinged, every 3 s until it answers. That happens while the pipe
// is open; a pipe without data for 5 min (Config.IdleTimeout) sends CLOSE(1)
// and closes, so nothing is kept alive without traffic.
//
// Dead peers: if data, a CONFIRM(0) or a PING that somebody waits for was sent
// and nothing authenticated came for max(500 ms, 3 RTT), all paths are pinged,
// three times in the following max(500 ms, 2 RTT); then the pipe is silent:
// Handler.Down, no data, a ping a second until consent ends. The validated path
// heard first brings it up again. A pipe that was quiet for long needs no ping
// before its first packet: consent is never older than 30 s while it is up.
// After a change of the local network (Endpoint.Doubt) all paths are pinged at
// once, and the pipe is silent after max(150 ms, 2 RTT). The last 8 datagrams
// sent while an answer was overdue are sent once more when the peer is heard
// again. A flow of the peer's, 16 packets at least, that pauses for 300 ms draws
// one PING: a receiver whose NAT has forgotten it is found again by that.
//
// Sizes: 1200 bytes of UDP payload are assumed, then 1280, 1352, 1392, 1420,
// 1452, 1472 are probed in turn, and where the interface takes more 8848, 8972,
// 16332, 65472 and what fills its frames, up to the MTU the peer named
// (RFC 8899): MTU_PROBE padded to the size, 3 tries. While
// datagrams above 1200 are sent the size is probed again every 2.5 s, and at
// once when a peer that was looked for answers; if that fails the path falls
// back to 1200 and searches anew.
//
// # Relays
//
// Two peers that both have a pipe to a third may have it relay for them
// (DESIGN §14.4). Each sends it RELAY_BIND(other, session ID), repeated from
// 100 ms on, doubling to 400 ms, until it is answered, and every 20 s after. The relay
// answers RELAY_CHANNEL(session ID, status, channel): refused, waiting (for
// the other side), or, to both when both have asked, bound, with a channel of
// each one's pipe. A binding that one side has not asked for in 60 s ends, and one
// that a side lets go, by RELAY_CHANNEL(session ID, refused, 0): its pipe has been
// closed for 4 s, no path has used the channel, or nobody waits for it any more. A
// peer whose channel ended on the relay's side, by a restart, gets another
// one by its next RELAY_BIND; the path stays.
//
//	RELAY = channel (2) ‖ datagram of the two ends' own pipe
//
// The channel's top bit is set by the relay, so that two peers may relay for
// each other. The datagram inside is sealed by the ends: the relay has no keys
// for it, and changes are found out as on any path. A RELAY inside a RELAY is
// dropped, and a pipe whose own way is relayed takes no RELAY: no relay in a
// relay. What is relayed counts as data for the idle time of both hops.
//
// A channel makes a path like any other, with challenges, RTT, consent and
// sizes, of 1174 bytes at first (1200 less 26) and up to 26 less than the hop
// takes. It takes data only while there is no direct path, or the direct one
// failed and was not heard since; it ends when a direct path has stood for
// 10 s, and its channel when no path has used it for 45 s.
//
// The relay forwards for a member 8 MiB a second (Config.RelayRate), a quarter
// of a second's worth at once, and four times that for all members of an
// invitation; 64 bindings for each, 512 for those of an invitation; twice that
// for those of a delegate (package account). What is beyond is dropped and counted. Of
// 4096 bindings the newest of those who have most gives way to one of others.
//
// # Limits of the responder
//
// 20 offers a second per initiator, burst 5, counted after authentication
// and only if new; 4 half open per initiator, of which the oldest gives way;
// 256 in all of peers that are not known to be members, of which none does; 256 of
// members, of which 64 are of an invitation and 128 of a delegate at most, and where
// there are 256 the newest of those who have most gives way to one of an account that
// has fewer (Config.Account, Incoming.Charge, package account); 45 s until confirmed. An
// offer's timestamp must be within 10 min of this side's clock, and higher than that of any offer which
// its initiator has confirmed (4096 initiators are remembered; those that never
// had a session give way first); its last 16 offers are known again. The same bytes
// again within the 45 s get the same answer while they are half open, and
// after that as long as there is room (1024).
//
// # What is defended
//
//   - Whoever forwards or records offers and answers learns the two IDs, the
//     sizes and the times. Whoever sees datagrams learns index, counter, size.
//   - Data keys need both X25519 and ML-KEM-768 to be broken, and are
//     forward secret against a later theft of the peer keys.
//   - A datagram that is forged, replayed or changed is dropped, makes no
//     state and draws no reply; a captured one repeated from elsewhere draws
//     challenges within the 3× bound there.
//   - A relay learns what any router on the way does: who talks when, and how
//     much.
//   - A replayed offer draws nothing, also from a process that was started since:
//     what was read, and which timestamps are old, is kept for as long as the
//     clock would let an offer through, on the disk before the answer leaves.
//
// # What is not
//
//   - The payload of message 1 (chain, ICE password, candidates) and the
//     initiator's static key are protected by X25519 alone: not against a
//     quantum computer, and not against a later theft of the responder's key.
//     The answer's payload likewise rests on X25519. Neither holds data keys.
//   - Authentication rests on X25519 and Ed25519, not on a post-quantum
//     signature: it holds as long as they do at the time of the handshake.
//   - Somebody on the way can drop, delay, and see who talks when.
//   - Whoever steals a peer's key can be mistaken for it from then on. To the
//     peer itself the thief can make offers in anybody's name; as with every
//     IK pattern these draw an answer, but no session, since confirming it
//     needs that other's key; nor do they make that other's own offers look old,
//     since a timestamp counts from the confirmation on.
//   - Keys are wiped as far as Go lets: raw keys are overwritten. Of the
//     expanded ones inside cipher.AEAD, noise and ML-KEM all pointers are
//     dropped, those of an exchange when it ends, those of a keypair when it
//     expires, at the latest one rekey after it was taken over from; the rest is
//     left to the collector.
//
// # Concurrency
//
// The data path (Batch, Open, Receive of DATA on a known path) takes no lock
// but the replay window's and allocates nothing; Keep and what it sends also take
// their pipe's own. An Endpoint has one goroutine, for the timers of all pipes, and
// from the first pipe that repairs on another one, which sends what had to wait for
// its turn; a pipe has none.
//
// # File table
//
//	config.go     Config and the seams to socket and shim
//	endpoint.go   all pipes of a peer            DESIGN §6
//	offer.go      initiator                      draft §4.2
//	journal.go    what it knows after a restart
//	incoming.go   responder and its limits       draft §4.2
//	session.go    what a handshake gave
//	keypair.go    one key each way, its window   RFC 6479
//	table.go      receiver index to keys
//	pipe.go       the pipe and its state         DESIGN §9
//	outbox.go     what is done without its lock
//	keyring.go    sessions, takeover             DESIGN §14.7
//	receive.go    the way in                     DESIGN §6, §13
//	batch.go      the way out                    DESIGN §6, §13
//	again.go      what was sent into silence
//	early.go      what waits for a path to be validated
//	repairing.go  whether a pipe repairs, and its pacer  RFC 9002
//	repairsend.go  what leaves when the path takes it
//	repairkept.go what shim gives to be kept
//	repairack.go  what is acknowledged, both ways  RFC 9000 §13.2, §21.4
//	fragment.go   pieces                         DESIGN §14.3
//	ctrl.go       control frames, ping
//	farewell.go   ends that the peer must learn
//	process.go    one process of a peer after another
//	rekey.go      new keys in the pipe           DESIGN §7, §14.3
//	path.go       paths, challenges, choice      DESIGN §9
//	pathrelay.go  paths through relays           DESIGN §14.4
//	pathcarried.go  paths over carriers
//	pathturn.go   paths through TURN servers     DESIGN §8, RFC 8656
//	relay.go      relaying for others            DESIGN §8, §14.4
//	mtu.go        sizes                          RFC 8899
//	tick.go       what time brings               DESIGN §14.8, RFC 7675
//	timers.go     the one goroutine
//	drop.go, status.go  counters and snapshots
//	totals.go           what all pipes to a peer have counted, those that have ended too
package pipe
