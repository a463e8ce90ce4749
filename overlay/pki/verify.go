package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// ErrOther: a certificate is good, and of another member than the one that shows it.
var ErrOther = errors.New("pki: the certificate of another member")

// Want is what a chain is to be good for.
type Want struct {
	Peer   peerid.ID // who shows it; zero: anybody
	Name   string    // "mars.example.com"; "": any
	Client bool      // it is shown by a client
}

// Verify says whose certificate a chain is, of which the member's comes first (RFC 5280 §6):
// signed below the root of who is an authority now, with nobody in it who was revoked. The
// chain is borrowed.
func (k *Keeper) Verify(chain []*x509.Certificate, w Want) (peerid.ID, error) {
	if len(chain) == 0 {
		return peerid.ID{}, ErrNoCertificate
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range k.standing() {
		roots.AddCert(r.cert)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: w.Name, CurrentTime: k.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if w.Client {
		opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	found, err := chain[0].Verify(opts)
	if err != nil {
		return peerid.ID{}, err
	}
	found = slices.DeleteFunc(found, k.revoked)
	p, ok := subjectPeer(chain[0])
	switch {
	case len(found) == 0:
		return p, fmt.Errorf("pki: the certificate: %w", membership.ErrRevoked)
	case !ok:
		return p, errors.New("pki: the certificate says of no member that it is its own")
	case !w.Peer.IsZero() && w.Peer != p:
		return p, fmt.Errorf("%w: of %v, and %v shows it", ErrOther, p, w.Peer)
	}
	return p, nil
}

// revoked says whether somebody in a chain was revoked, or may not sign any more.
func (k *Keeper) revoked(chain []*x509.Certificate) bool {
	list := k.roster.Revocations()
	return slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		p, ok := subjectPeer(c)
		delegation := membership.Revocation{Kind: membership.RevokeDelegate, Key: membership.KeyOf(p), Before: c.NotBefore.Add(early)}
		return !ok || k.roster.Revoked(p) || c.IsCA && list.Covers(delegation)
	})
}

// Issued says whether a chain is one that an overlay's authority would sign: below a root that
// is known, good or not.
func (k *Keeper) Issued(chain []*x509.Certificate) bool {
	for _, root := range k.Known() {
		for _, c := range chain {
			if bytes.Equal(c.RawIssuer, root.RawSubject) {
				return true
			}
		}
	}
	return false
}
