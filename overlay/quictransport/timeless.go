package quictransport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// Timeless makes TLS certificates good at any time. They say which key is at the
// other end, which their signature by that key proves, and that has no date;
// libp2p's begin an hour before they are made, so that a host whose clock is
// wrong by more would hear "bad certificate" and nothing else. Who may be here
// when is judged by the membership, in the hello, where an error can say why.
func Timeless() libp2ptls.IdentityOption {
	var serial [8]byte
	rand.Read(serial[:])
	n := new(big.Int).SetBytes(serial[:])
	return libp2ptls.WithCertTemplate(&x509.Certificate{
		SerialNumber: n.Add(n, big.NewInt(1)),
		Subject:      pkix.Name{SerialNumber: n.String()}, // RFC 5280 §4.1.2.4: an issuer must have a name
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 §4.1.2.5: no end
	})
}

// NewIdentity is what TLS shows of the peer that has a key, at any time.
func NewIdentity(key ed25519.PrivateKey) (*libp2ptls.Identity, error) {
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("TLS identity: %w", err)
	}
	id, err := libp2ptls.NewIdentity(priv, Timeless())
	if err != nil {
		return nil, fmt.Errorf("TLS identity: %w", err)
	}
	return id, nil
}
