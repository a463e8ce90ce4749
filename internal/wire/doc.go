// Package wire holds the byte layouts that two peers exchange in a pipe: the
// demux header of a datagram, what an offer and an answer say, the control
// frames and the fragment header. It appends and parses, nothing else: no
// keys, no clock, no I/O. What the fields mean, and in which state they may
// appear, is specified in internal/pipe.
//
// Integers are big endian. Every layout is canonical: what a parser accepts,
// the matching Append reproduces byte for byte; unknown types, impossible
// values and bytes left over are errors. Lengths are checked before anything
// is indexed. A parse returns slices that alias its input, unless it says
// that it copies.
//
// # Demux header (draft §4.3, the demux header with its IP header left out)
//
//	 0               1               2               3
//	+---------------+-----------------------------------------------+
//	|     type      |            receiver index (24 bit)            |
//	+---------------+-----------------------------------------------+
//	|                  packet counter (32 bit)                      |
//	+---------------------------------------------------------------+
//	|  AEAD ciphertext of the plaintext below, 16 byte tag included |
//
// The 8 clear bytes are the AEAD's associated data. Types are 0x80 DATA4,
// 0x81 DATA6, 0x82 CTRL, 0x83 FRAG, 0x84 RELAY. The plaintexts:
//
//	DATA4, DATA6  next header (1; 0x80 it is kept until it is acknowledged, 0x40
//	              it was sent before) | transport header and payload
//	CTRL          one or more frames, then zero or more zero bytes
//	FRAG          message ID (16 bit) | kind (2) offset (13) more (1) | piece
//	RELAY         from relay (1 bit) channel (15 bit) | a datagram of another
//	              pipe, sealed end to end, of any type but RELAY
//
// # Control frames
//
// A frame is its type (1) and what stands here behind it:
//
//	0x01 PING, 0x02 PONG            ID (8)
//	0x03 PATH_CHALLENGE             ID (8)
//	0x04 PATH_RESPONSE              ID (8)
//	0x05 MTU_PROBE, 0x06 MTU_ACK    ID (8) | size of the datagram (2)
//	0x07 CONFIRM                    0 asks, 1 answers (1)
//	0x08 REKEY_OFFER, 0x09 REKEY_ANSWER  number (4) | Noise message (2+n, ≤2048)
//	0x0a CLOSE                      reason (1; 0 none, 1 idle, 2 the process ends,
//	                                3 put out, 4 the process ends, all delivered;
//	                                another counts as 2)
//	0x0b RELAY_BIND                 peer ID (32) | session ID (16)
//	0x0c RELAY_CHANNEL              session ID (16) | status (1; 0 bound, 1
//	                                waiting, 2 refused; to the relay 2 lets
//	                                go) | channel (2; 0 unless bound)
//	0x0d CLOSED                     nothing
//	0x40 to 0xff                    extensions: 2+n bytes
//	0x40 REPAIR                     0 asks, 1 answers (1) | number (1)
//	0x41 ACK                        receiver index (3) | since the newest came, in
//	                                16 µs (2) | ranges (1) | each first counter (4)
//	                                and last (4), the newest first
//
// An answer (PONG, PATH_RESPONSE, MTU_ACK) repeats the ID, and the size, of what
// it answers. Another type below 0x40 makes what is left of the plaintext
// invalid. An extension that the receiver does not know is skipped.
//
// # Payload of a rekey (inside Noise)
//
//	 1  kind            1 offer, 2 answer
//	 4  number          counts the rekeys of a session from 1
//	 3  receiver index  for the new keys, not zero
//	2+n ML-KEM-768      encapsulation key (1184), ciphertext (1088), or empty
//
// # Versions
//
// This is version 1. It stands first in offer, answer and every prologue, and
// another is refused without an answer, for nothing of it can be verified. The
// streams that carry offers name their version as well (libp2p's protocol IDs end
// in "/1"), so an initiator that speaks several knows before its offer which one
// the other side takes. Within a version only extensions may be added.
//
// # Payload of offer and answer (inside Noise)
//
//	 1  kind              1 offer, 2 answer
//	16  session ID        chosen by the initiator
//	 8  timestamp         offer: µs, strictly rising; answer: that of the offer
//	 8  start number      names this run of the sender's process
//	 3  receiver index    not zero
//	 2  MTU               largest UDP payload the sender takes, 0 = 1200
//	 1  encapsulation     0 outer UDP, 1 null
//	 1  AEADs             offer: set bits 0x01 AES-256-GCM, 0x02
//	                      ChaCha20-Poly1305, 0x80 AES is in hardware;
//	                      answer: exactly one of 0x01, 0x02
//	1+n ufrag             16 ice-chars (RFC 8839 §5.4): the first 16 of
//	                      base64(SHA-256("idloc ICE ufrag " ‖ password)),
//	                      so that nobody chooses what is sent in clear to
//	                      addresses that are not proven
//	1+n password          32 ice-chars; both are empty if nothing is checked
//	 1  relays            ≤2, 32 bytes each (peer IDs)
//	 1  candidates        ≤16, as below
//	2+n ML-KEM-768        offer: encapsulation key (1184);
//	                      answer: ciphertext (1088)
//	2+n membership chain  opaque here, ≤1024 bytes
//	48  flow              with null encapsulation only: kind (1), protocol (1),
//	                      policy (1), flags (1; 1 IPv6 LSIs, 2 the peer's end
//	                      was taken, 4 the sender has ended its stream), flow
//	                      ID (16), epoch (4), opener's port (2), listener's
//	                      port (2), bytes taken (8), end (8), how much may
//	                      lie unread (4): see internal/null
//
// A refusal (kind 3, then a reason: 1 refused, 2 the peer's own offer stands)
// takes the place of an answer's payload.
//
// A candidate is: type (low 4 bits: RFC 8445, high 4 bits: 0 UDP, else the
// TCP type of RFC 6544) | priority (4) | foundation (1+n, ≤32) | address |
// related address. An address is: family (1; 4, 6, or 0 for none) | IP | port
// (2).
//
// # File table
//
//	header.go     demux header               draft §4.3, DESIGN §6
//	payload.go    offer and answer           draft §4.2, DESIGN §7
//	candidate.go  transport candidates       RFC 8445 §5.1
//	refusal.go    what takes an answer's place
//	credentials.go  ufrag and password         RFC 8445 §5.3, RFC 8839 §5.4
//	flow.go       flows with null encapsulation  draft §4.3, DESIGN §14.11
//	ctrl.go       control frames             RFC 8899 (probes), RFC 7675 (pings)
//	rekey.go      payloads of an in-pipe rekey
//	fragment.go   fragment header            DESIGN §14.3
//	cursor.go     bounds-checked reading
package wire
