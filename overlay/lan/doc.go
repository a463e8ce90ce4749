// Package lan finds members on the local network by multicast DNS (RFC 6762, 6763),
// where there is no internet, or the addresses that are known of others are stale.
//
//	peer ── question ──► 224.0.0.251:5353, [ff02::fb]:5353 ──► members there
//	peer ◄── announcement ── each of them, at most enough (3) of them
//
// A peer that has been let in announces itself when it starts and when its addresses
// change, and answers questions for its overlay. It asks while it knows too few members,
// when its addresses change, and less and less often. What it finds goes to Config.Met, a
// few at once: where a whole office starts, most of those around are on their way in
// themselves, and a member that is reached by a token needs none of them.
//
// # What others see
//
// The service is called _idloc-<tag>._udp.local; the tag is a hash of the overlay ID,
// which members and tokens have and nobody else. Peer ID and addresses stand in the TXT
// record, sealed under another hash of it: nonce 24 | XChaCha20-Poly1305 of peer ID 32 |
// (address 16, port 2)* with the service's name as additional data, in base64. The name of the
// instance is random and new with each start. So a bystander learns that a node is here, at the
// source address of its packets, the port that SRV names, and which nodes are of one overlay:
// what its traffic shows as well. One who has the overlay ID can make members dial
// addresses of his choice; the gate for hearsay bounds that. Announcements can be replayed: the
// peer is where they say or is not found there, and one that comes again silences nobody.
//
// Sockets are opened on interfaces that lead to a network others may be on, and to which one
// of the node's sockets is bound. They share port 5353 with whatever responder the host has.
// Where that is refused, or nothing can be multicast, there is no LAN, and nothing else
// changes.
//
//	askFirst    250 ms  until the question is asked again, doubling: a reader who starts with us
//	askMost     1 min   the most of it
//	askSpread   120 ms  by which questions are apart at random; who hears one in it leaves
//	                    out its own (RFC 6762 §5.2, §7.3)
//	answerMost  120 ms  until an answer, at random: RFC 6762 §6 has others answer first
//	answerEvery 1 s     between two announcements on one interface (RFC 6762 §6)
//	enough      3       others announced after a question make our announcement needless
//	meetEvery   15 s    between two members met because of one source address, after the
//	                    first four: one host that makes members up takes no other's turn
//
//	file           what it is
//	lan.go         LAN: when what is said
//	message.go     questions and announcements      RFC 6762 §18, RFC 6763
//	seal.go        what only members read
//	multicast.go   sockets                          RFC 6762 §11
package lan
