package membership

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"

	"filippo.io/edwards25519"

	"github.com/idloc/idloc/internal/peerid"
)

// Key is an Ed25519 public key: of the root, a delegate, an invitation or a
// member. It is comparable; the zero Key is none.
type Key [ed25519.PublicKeySize]byte

// KeyOf returns the Key of a peer.
func KeyOf(id peerid.ID) Key { return Key(id) }

// Peer returns the peer whose key this is.
func (k Key) Peer() peerid.ID { return peerid.ID(k) }

// IsZero says whether k is none.
func (k Key) IsZero() bool { return k == Key{} }

// String returns the key in hex; "" for none.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return hex.EncodeToString(k[:])
}

// MarshalText implements encoding.TextMarshaler with String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is no key.
func (k *Key) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*k = Key{}
		return nil
	}
	var v Key
	if n, err := hex.Decode(v[:], b[:min(len(b), 2*len(v))]); err != nil || n != len(v) || len(b) != 2*len(v) {
		return fmt.Errorf("%w: %q", ErrKey, b)
	}
	*k = v
	return nil
}

func publicKey(priv ed25519.PrivateKey) (k Key, err error) {
	if len(priv) != ed25519.PrivateKeySize {
		return k, fmt.Errorf("%w: private key of %d bytes", ErrKey, len(priv))
	}
	copy(k[:], priv[ed25519.SeedSize:])
	return k, k.check()
}

// check refuses what ed25519.Verify takes but nobody should be: a point that
// has two encodings (two peer IDs for one key), and a point of small order,
// under which one signature may verify for many messages (RFC 8032 §5.1.3,
// Chalkias et al. 2020 §2). crypto/ed25519 refuses neither.
func (k Key) check() error {
	p, err := new(edwards25519.Point).SetBytes(k[:])
	if err != nil {
		return fmt.Errorf("%w: %v", ErrKey, err)
	}
	if Key(p.Bytes()) != k {
		return fmt.Errorf("%w: encoding of the point is not the canonical one", ErrKey)
	}
	if new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return fmt.Errorf("%w: point of small order", ErrKey)
	}
	return nil
}
