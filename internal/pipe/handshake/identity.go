package handshake

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
	"github.com/flynn/noise"
	"golang.org/x/crypto/curve25519"

	"github.com/idloc/idloc/internal/peerid"
)

// Identity is this peer's key in both forms: the Ed25519 peer ID that others
// know it by and the X25519 key that Noise works with. The joint use is
// argued in Thormarker, "On using the same key pair for Ed25519 and an X25519
// based KEM" (2021). It is not changed once made and may be used concurrently.
type Identity struct {
	ID     peerid.ID
	static noise.DHKey
}

var errKey = errors.New("pipe: not a usable Ed25519 key")

// NewIdentity maps key to Montgomery form: the private scalar is the one that
// Ed25519 itself derives from its seed (RFC 8032 §5.1.5), the public key the
// u coordinate of the same point. key is borrowed for the call.
func NewIdentity(key ed25519.PrivateKey) (Identity, error) {
	if len(key) != ed25519.PrivateKeySize {
		return Identity{}, fmt.Errorf("%w: %d bytes", errKey, len(key))
	}
	id, err := peerid.FromPublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		return Identity{}, err
	}
	h := sha512.Sum512(key.Seed())
	private := bytes.Clone(h[:32])
	clear(h[:])
	private[0] &= 248
	private[31] = private[31]&127 | 64
	public, err := montgomery(id)
	if err != nil {
		return Identity{}, err
	}
	// A key whose halves do not belong together would give handshakes that
	// fail on the other side only.
	if derived, err := curve25519.X25519(private, curve25519.Basepoint); err != nil || !bytes.Equal(derived, public) {
		return Identity{}, fmt.Errorf("%w: public and private halves differ", errKey)
	}
	return Identity{ID: id, static: noise.DHKey{Private: private, Public: public}}, nil
}

// montgomery returns the X25519 public key of a peer. It refuses encodings
// that are not canonical and points of small order, with which every private
// key agrees on the same secret.
//
// A point and its negative have one u coordinate: the holder of a key can
// also appear under the ID with the sign bit flipped. That ID is no other
// peer's, and it cannot sign a membership chain unless the same holder makes
// it.
func montgomery(id peerid.ID) ([]byte, error) {
	p, err := new(edwards25519.Point).SetBytes(id[:])
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errKey, err)
	}
	if !bytes.Equal(p.Bytes(), id[:]) {
		return nil, fmt.Errorf("%w: encoding is not canonical", errKey)
	}
	if new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, fmt.Errorf("%w: point of small order", errKey)
	}
	return p.BytesMontgomery(), nil
}
