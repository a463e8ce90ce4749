package membership

import (
	"crypto/ed25519"
	"fmt"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	rotationStatement = "rotation"

	// RotationSize is the size of a rotation in bytes.
	RotationSize = 2 * (32 + canon.SignatureSize)
)

// Rotation returns the wish of a peer to be another key from now on. Both keys sign it:
// nobody gives up another's key, or takes one that it does not hold.
//
//	old key 32 | new key 32 | signature of the old key 64 | of the new key 64
func Rotation(o Overlay, old, next ed25519.PrivateKey) ([]byte, error) {
	from, err := publicKey(old)
	if err != nil {
		return nil, err
	}
	to, err := publicKey(next)
	if err != nil {
		return nil, err
	}
	body := append(append([]byte(nil), from[:]...), to[:]...)
	b := body
	for _, key := range []ed25519.PrivateKey{old, next} {
		sig, err := canon.Sign(key, o.domain(rotationStatement), body)
		if err != nil {
			return nil, err
		}
		b = append(b, sig...)
	}
	return b, nil
}

// OpenRotation returns what a rotation says. b is borrowed.
func OpenRotation(b []byte, o Overlay) (old, next Key, err error) {
	r := canon.NewReader(b)
	old, next = r.Key(), r.Key()
	first, second := r.Bytes(canon.SignatureSize), r.Bytes(canon.SignatureSize)
	if err := r.End(); err != nil {
		return Key{}, Key{}, fmt.Errorf("rotation: %w", err)
	}
	body := b[:2*len(old)]
	if err := canon.Verify(old[:], o.domain(rotationStatement), body, first); err != nil {
		return Key{}, Key{}, fmt.Errorf("rotation: %w", err)
	}
	if err := canon.Verify(next[:], o.domain(rotationStatement), body, second); err != nil {
		return Key{}, Key{}, fmt.Errorf("rotation: %w: %w", ErrPossession, err)
	}
	if old == next {
		return Key{}, Key{}, fmt.Errorf("rotation: %w: it is the same one", ErrKey)
	}
	return old, next, nil
}
