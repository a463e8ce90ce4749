package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"math/big"
)

// What keys are derived for.
const (
	forSigning = "idloc-x509-issuer/1" // of an authority or delegate
	forTLS     = "idloc-x509-member/1" // of a member's own certificate
)

// derive returns the P-256 key of an identity in an overlay for a use. It is always the same;
// neither it nor the identity tells of the other.
func derive(identity ed25519.PrivateKey, overlay [32]byte, use string) (*ecdsa.PrivateKey, error) {
	// 16 bytes more than the order has, so that the remainder is as good as even.
	b, err := hkdf.Key(sha256.New, identity.Seed(), overlay[:], use, 48)
	if err != nil {
		return nil, fmt.Errorf("pki: deriving a key: %w", err)
	}
	one := big.NewInt(1)
	d := new(big.Int).SetBytes(b)
	d.Mod(d, new(big.Int).Sub(elliptic.P256().Params().N, one)).Add(d, one)
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d.FillBytes(make([]byte, 32)))
	if err != nil {
		return nil, fmt.Errorf("pki: deriving a key: %w", err)
	}
	return key, nil
}
