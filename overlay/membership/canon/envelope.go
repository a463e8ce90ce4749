package canon

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/record"
)

// SignatureSize is the length of a signature in bytes.
const SignatureSize = ed25519.SignatureSize

// payloadType is the envelope's type hint, the same for all of ours: what
// separates one kind of statement from another is the domain string.
var payloadType = []byte("/idloc/1")

// statement is a payload with its domain string, as core/record wants it.
type statement struct {
	domain  string
	payload []byte
}

var _ record.Record = (*statement)(nil)

func (s *statement) Domain() string                 { return s.domain }
func (s *statement) Codec() []byte                  { return payloadType }
func (s *statement) MarshalRecord() ([]byte, error) { return s.payload, nil }
func (s *statement) UnmarshalRecord(b []byte) error { s.payload = b; return nil }

// Sign returns the signature of the envelope that key makes of payload under
// the domain string. payload is borrowed.
func Sign(key ed25519.PrivateKey, domain string, payload []byte) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("private key of %d bytes", len(key))
	}
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, err
	}
	env, err := record.Seal(&statement{domain, payload}, priv)
	if err != nil {
		return nil, err
	}
	whole, err := env.Marshal()
	if err != nil {
		return nil, err
	}
	// The signature is the envelope's last field.
	sig := bytes.Clone(whole[max(0, len(whole)-SignatureSize):])
	if pub := key.Public().(ed25519.PublicKey); !bytes.Equal(Envelope(pub, payload, sig), whole) {
		return nil, errors.New("libp2p's envelope has changed its encoding")
	}
	return sig, nil
}

// Verify returns nil if sig is pub's signature of payload under the domain
// string, else ErrSignature. All slices are borrowed.
func Verify(pub ed25519.PublicKey, domain string, payload, sig []byte) error {
	if len(pub) != ed25519.PublicKeySize || len(sig) != SignatureSize {
		return ErrSignature
	}
	id := digest(pub, domain, payload, sig)
	if good.has(id) {
		return nil
	}
	_, err := record.ConsumeTypedEnvelope(Envelope(pub, payload, sig), &statement{domain: domain})
	if err != nil {
		return ErrSignature
	}
	good.add(id)
	return nil
}

// VerifyAny returns the place of the key among keys whose signature sig is, as Verify would
// say, or ErrSignature.
func VerifyAny[K ~[ed25519.PublicKeySize]byte](keys []K, domain string, payload, sig []byte) (int, error) {
	for i, k := range keys {
		if len(sig) == SignatureSize && good.has(digest(k[:], domain, payload, sig)) {
			return i, nil
		}
	}
	for i, k := range keys {
		if Verify(k[:], domain, payload, sig) == nil {
			return i, nil
		}
	}
	return -1, ErrSignature
}

// Envelope returns the whole libp2p signed envelope of the parts, in protobuf
// form (libp2p RFC 0002 "Wire Format").
func Envelope(pub ed25519.PublicKey, payload, sig []byte) []byte {
	const field = 2 // wire type: bytes
	b := make([]byte, 0, 2+36+2+len(payloadType)+4+len(payload)+2+len(sig))
	b = append(b, 1<<3|field, byte(4+len(pub)), 0x08, 0x01, 0x12, byte(len(pub))) // PublicKey{Ed25519, data}
	b = append(b, pub...)
	b = append(b, 2<<3|field, byte(len(payloadType)))
	b = append(b, payloadType...)
	if len(payload) > 0 { // proto3 leaves empty fields out
		b = append(b, 3<<3|field)
		b = binary.AppendUvarint(b, uint64(len(payload)))
		b = append(b, payload...)
	}
	b = append(b, 5<<3|field, byte(len(sig)))
	return append(b, sig...)
}
