// Package handshake is the key exchange of a pipe: it proves to each of two
// peers who the other is and gives both the same keys, first in offer and answer,
// then in every rekey. It knows no sockets, no time and no sessions: package pipe
// does. This text specifies it; the layouts of the payloads are in internal/wire.
// Numbers in parentheses are in bytes, integers are big endian, ‖ is
// concatenation.
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
// # Offer and answer
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
// 4096 bytes each. A peer that does not accept says so by a wire.Refusal in the
// place of the answer's payload: nobody on the way can say it for it.
//
// The offer's payload carries a fresh ML-KEM-768 encapsulation key, the
// answer's the ciphertext (FIPS 203). The offer lists the data AEADs and
// whether AES is in hardware; the answer chooses: AES-256-GCM if both have
// it in hardware, else ChaCha20-Poly1305, else AES-256-GCM if nothing else is
// common.
//
// # Rekey
//
// The same exchange in frames of the pipe, without the headers of offer and
// answer. Payloads are wire.Rekey, the prologue is that above, with the roles of
// this exchange, ‖ "rekey" ‖ number (4).
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
// # File table
//
//	identity.go  Ed25519 to X25519       RFC 7748 §4.1
//	exchange.go  Noise_IK and ML-KEM     DESIGN §7, §14.7
//	message.go   offers and answers
//	schedule.go  key schedule            DESIGN §7
//	suite.go     data AEADs              DESIGN §7
package handshake
