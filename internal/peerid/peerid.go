// Package peerid is the identity of a peer: its Ed25519 public key, in the
// two texts that people and programs meet.
//
//   - String is the libp2p text form, base58 of the identity multihash of the
//     protobuf-encoded key ("12D3KooW…").
//   - Label is the same bytes as a CIDv1 (codec libp2p-key) in base36 with
//     its multibase prefix ("k51…"): 62 lower-case characters, so that it
//     fits a DNS label (RFC 1035 §2.3.4) and survives case folding.
//
// The draft's "peer ID" (draft §2, §4.2) is this value. It is a leaf: only
// the two base encodings are imported.
package peerid

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"github.com/mr-tron/base58"
	"github.com/multiformats/go-base36"
)

// Size is the length of an ID in bytes.
const Size = ed25519.PublicKeySize

// ID is a peer's Ed25519 public key. It is comparable; the zero ID is no
// peer. Values are immutable and may be used concurrently.
type ID [Size]byte

// The identity multihash (code 0, length 36) of a libp2p PublicKey message:
// field 1 (Type) = 1 (Ed25519), field 2 (Data) = 32 bytes.
var multihashPrefix = []byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}

// CIDv1 with the codec libp2p-key (0x72).
var cidPrefix = []byte{0x01, 0x72}

// ErrInvalid is wrapped by the errors of Parse and FromMultihash.
var ErrInvalid = errors.New("invalid peer ID")

// FromPublicKey returns the ID of an Ed25519 public key.
func FromPublicKey(pub ed25519.PublicKey) (ID, error) {
	var id ID
	if len(pub) != Size {
		return id, fmt.Errorf("%w: public key of %d bytes", ErrInvalid, len(pub))
	}
	copy(id[:], pub)
	return id, nil
}

// FromMultihash returns the ID in the binary form that libp2p uses (peer.ID's
// bytes). Only identity multihashes of Ed25519 keys are accepted.
func FromMultihash(b []byte) (ID, error) {
	var id ID
	if len(b) != len(multihashPrefix)+Size || !bytes.HasPrefix(b, multihashPrefix) {
		return id, fmt.Errorf("%w: not an Ed25519 identity multihash", ErrInvalid)
	}
	copy(id[:], b[len(multihashPrefix):])
	return id, nil
}

// Parse reads either text form. Labels are case-insensitive, as DNS is.
func Parse(s string) (ID, error) {
	if strings.HasPrefix(s, "k") || strings.HasPrefix(s, "K") {
		return ParseLabel(s)
	}
	b, err := base58.Decode(s)
	if err != nil {
		return ID{}, fmt.Errorf("%w: %q: %v", ErrInvalid, s, err)
	}
	return FromMultihash(b)
}

// ParseLabel reads the DNS label form.
func ParseLabel(s string) (ID, error) {
	if len(s) < 2 || (s[0] != 'k' && s[0] != 'K') {
		return ID{}, fmt.Errorf("%w: %q is not a base36 label", ErrInvalid, s)
	}
	b, err := base36.DecodeString(strings.ToLower(s[1:]))
	if err != nil {
		return ID{}, fmt.Errorf("%w: %q: %v", ErrInvalid, s, err)
	}
	if !bytes.HasPrefix(b, cidPrefix) {
		return ID{}, fmt.Errorf("%w: %q is not a libp2p-key CID", ErrInvalid, s)
	}
	return FromMultihash(b[len(cidPrefix):])
}

// IsZero says whether id names no peer.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs by their bytes: the order in which the smaller of two
// peers stays initiator when offers cross.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// PublicKey returns a fresh copy of the key.
func (id ID) PublicKey() ed25519.PublicKey { return ed25519.PublicKey(bytes.Clone(id[:])) }

// Multihash returns the binary form that libp2p uses, in a fresh slice.
func (id ID) Multihash() []byte {
	b := make([]byte, 0, len(multihashPrefix)+Size)
	return append(append(b, multihashPrefix...), id[:]...)
}

// String returns the libp2p text form, "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return base58.Encode(id.Multihash())
}

// Label returns the ID as one DNS label of 62 characters, "" for the zero ID.
func (id ID) Label() string {
	if id.IsZero() {
		return ""
	}
	return "k" + base36.EncodeToStringLc(append(bytes.Clone(cidPrefix), id.Multihash()...))
}

// MarshalText implements encoding.TextMarshaler with String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero ID.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ID{}
		return nil
	}
	v, err := Parse(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}
