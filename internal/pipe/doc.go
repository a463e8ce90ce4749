// Package pipe is the one UDP association that two peers have (draft §2,
// §4.3): the handshake in offer and answer, the keys, the sealed datagrams,
// and the paths they take. This text specifies the protocol; the layouts of
// the single messages are in internal/wire. Numbers in parentheses are in
// bytes, integers are big endian, ‖ is concatenation.
//
// An Endpoint holds all pipes of a peer. The initiator calls NewOffer, has
// Offer.Bytes carried to the responder by whatever means, and reads the
// answer with Offer.Finish; the responder calls ReadOffer and Incoming.Accept.
// Both give the Session to Endpoint.Up when a path is known. Nothing of the
// handshake comes over the UDP port, and there is no parser for it there.
//
// # Identity
//
// A peer is its Ed25519 public key, the peer ID (32). Its X25519 key is the
// same key in Montgomery form: private scalar SHA-512(seed)[0..31], clamped
// (RFC 8032 §5.1.5, RFC 7748 §5); public key u = (1+y)/(1-y). IDs that are
// not canonical encodings or are points of small order are refused. The
// IDs of a point and its negative have one u, and clamping makes a point agree
// with its sums with points of small order; all these are one holder's, and
// the prologue tells them apart.
//
// # Handshake
//
// Noise_IK_25519_ChaChaPoly_SHA256 (Noise rev. 34), with the prologue
//
//	version (1) = 1 ‖ overlay ID (32) ‖ initiator ID (32) ‖ responder ID (32)
//
//	offer  = version (1) ‖ initiator ID (32) ‖ Noise message 1
//	answer = version (1) ‖ Noise message 2
//	Noise message 1 = e (32) ‖ sealed s (48) ‖ sealed payload
//	Noise message 2 = e (32) ‖ sealed payload
//
// The responder needs the initiator's ID for the prologue, so it stands in
// the clear; the prologue binds it, and the static key in message 1 must be
// its Montgomery form. Payloads are wire.Payload, offer and answer at most
// 4096 bytes each.
//
// The offer's payload carries a fresh ML-KEM-768 encapsulation key, the
// answer's the ciphertext (FIPS 203). The offer lists the data AEADs and
// whether AES is in hardware; the answer chooses: AES-256-GCM if both have
// it in hardware, else ChaCha20-Poly1305, else AES-256-GCM if nothing else is
// common. The choice must have been offered. The answer repeats session ID
// and timestamp.
//
// The timestamp is max(now, last used + 1) in µs; the initiator keeps the
// last across restarts. The start number names the run of the sender's
// process.
//
// # Key schedule
//
// With h the final Noise hash and k1, k2 the outputs of Split():
//
//	handshake              ikm = ss_mlkem (32) ‖ k1 (32) ‖ k2 (32)
//	rekey                  ikm = chaining key (32) ‖ k1 ‖ k2
//	rekey with ML-KEM-768  ikm = chaining key ‖ ss_mlkem ‖ k1 ‖ k2
//
//	prk   = HKDF-Extract(SHA-256, salt = h, ikm)
//	key_x = HKDF-Expand(prk, "idloc pipe 1 " ‖ kind ‖ " " ‖ AEAD ‖ " " ‖ x, 32)
//
//	kind  "handshake", "rekey" or "rekey ML-KEM-768"
//	AEAD  "AES-256-GCM" or "ChaCha20-Poly1305"
//	x     "initiator to responder", "responder to initiator" (of this
//	      exchange), "chaining key" (for the next rekey)
//
// Test vectors are in testdata/golden.
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
// CLOSE ends the pipe. One under a session that was taken over ends that
// session only, as does one that a session begun after the confirmation of
// the closed one has overtaken on its way.
//
// # Rekey
//
// The initiator of the session begins a rekey when its keys are 120 s old,
// the responder at 135 s if it did not, either after 2^27 packets sent. Keys
// 180 s old or used for 2^28 packets neither seal nor open. Age counts from
// the offer at the initiator of the exchange, from the answer at the
// responder.
//
// The exchange is Noise_IK again, in CTRL frames REKEY_OFFER and
// REKEY_ANSWER under the present keys, without a membership chain; payloads
// are wire.Rekey, the prologue is that of the handshake, with the roles of
// this exchange, ‖ "rekey" ‖ number (4). The number is one more than that of
// the present keys (the handshake's is 0). Every 8th number takes ML-KEM
// along; the others inherit it by the chaining key.
//
// The responder of the exchange opens with the new keys once it has answered
// and seals with them once it has opened a packet under them; the initiator
// seals with them at once and confirms as above. Old keys open until they
// expire, so no order of arrival loses a packet. The same offer draws the
// same answer; an unanswered offer is repeated. Different offers are answered
// at the rate of those outside of the pipe. If offers cross, the smaller peer
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
// nothing; once answered, data moves there if the old path has been silent
// since; so it does when the peer is heard on a path that checks have just
// found. Else data stays on its path until that fails or a validated one is
// faster by 30 % and 5 ms. A path that took data has also failed when for
// max(150 ms, 2 RTT) the peer was heard on another path only; it is pinged
// then as one not heard. Until it is heard again, or all others are dead, it
// takes no data. At most 8 paths are kept.
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
// 1452, 1472 (on loopback also 8972, 16332, 65472) are probed in turn, up to the MTU
// the peer named (RFC 8899): MTU_PROBE padded to the size, 3 tries. While
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
// each one's pipe. A binding that one side has not asked for in 60 s ends. A
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
// account; 64 bindings for each. What is beyond is dropped and counted.
//
// # Limits of the responder
//
// 20 offers a second per initiator, burst 5, counted after authentication
// and only if new; 4 half open per initiator, of which the oldest gives way;
// 256 in all, of which none does; 45 s until confirmed. An offer must have a
// higher timestamp than any before from its initiator (4096 initiators are
// remembered; those that never had a session give way first). The same bytes
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
//   - A replayed offer draws at most an answer that nobody can use.
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
//     needs that other's key.
//   - Keys are wiped as far as Go lets: raw keys are overwritten, the
//     expanded ones inside cipher.AEAD and noise are left to the collector.
//
// # Concurrency
//
// The data path (Batch, Open, Receive of DATA on a known path) takes no lock
// but the replay window's and allocates nothing. An Endpoint has one
// goroutine, for the timers of all pipes; a pipe has none.
//
// # File table
//
//	config.go     Config and the seams to socket and shim
//	endpoint.go   all pipes of a peer            DESIGN §6
//	identity.go   Ed25519 to X25519              RFC 7748 §4.1
//	handshake.go  Noise_IK and ML-KEM            DESIGN §7, §14.7
//	schedule.go   key schedule                   DESIGN §7
//	suite.go      data AEADs                     DESIGN §7
//	offer.go      initiator                      draft §4.2
//	incoming.go   responder and its limits       draft §4.2
//	session.go    what a handshake gave
//	keypair.go    one key each way, its window   RFC 6479
//	table.go      receiver index to keys
//	pipe.go       state, sessions, takeover      DESIGN §9
//	receive.go    the way in                     DESIGN §6, §13
//	batch.go      the way out                    DESIGN §6, §13
//	again.go      what was sent into silence
//	early.go      what waits for a path to be validated
//	fragment.go   pieces                         DESIGN §14.3
//	ctrl.go       control frames, ping
//	rekey.go      new keys in the pipe           DESIGN §7, §14.3
//	path.go       paths, challenges, choice      DESIGN §9
//	pathrelay.go  paths through relays           DESIGN §14.4
//	pathturn.go   paths through TURN servers     DESIGN §8, RFC 8656
//	relay.go      relaying for others            DESIGN §8, §14.4
//	mtu.go        sizes                          RFC 8899
//	tick.go       what time brings               DESIGN §14.8, RFC 7675
//	timers.go     the one goroutine
//	drop.go, status.go  counters and snapshots
package pipe
