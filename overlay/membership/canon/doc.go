// Package canon reads the binary encoding that certificates, tokens, lists and
// records have in common, in which each value has exactly one form, and signs and
// verifies what is written in it (detached signed envelopes).
//
// # Encoding
//
// Values are written back to back: bytes, unsigned varints in their shortest
// form, byte strings behind their length. There is one encoding of each
// value; Reader refuses any other (ErrNonCanonical), and the packages above
// encode again what they parsed and compare. So bytes may stand for the value
// in hashes, caches and comparisons.
//
// # Detached envelopes
//
// Every signature of ours is that of a libp2p signed envelope (libp2p RFC
// 0002, core/record): over the length-prefixed domain string, payload type
// and payload. What travels is only payload and signature. The public key is
// known to whoever verifies (it is the subject of the certificate before), the
// payload type is constant and the domain string never travels at all; leaving
// them out saves some 60 bytes a signature and leaves no protobuf whose
// encoding a forwarder could vary. Envelope puts the parts together again, and
// Verify hands exactly that to core/record.
//
//	file         specified in
//	reader.go    DESIGN §8, §14.1 (size, canonical form)
//	envelope.go  libp2p RFC 0002
//	memo.go      which signatures were good
package canon
