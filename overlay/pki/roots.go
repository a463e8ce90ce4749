package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// MaxRoots bounds the authorities of which roots are told and kept.
const MaxRoots = 16

// root is an authority's own certificate, and its word that it is.
type root struct {
	Authority membership.Key `json:"authority"`
	DER       []byte         `json:"der"`
	Signature []byte         `json:"signature"` // membership.Signer.SignRoot
	cert      *x509.Certificate
}

var errRoot = errors.New("pki: not the root of an authority")

// check reads a root that somebody has told, and verifies it but for whether it is an
// authority's whose name it bears.
func (r *root) check(o membership.Overlay, now time.Time) error {
	if err := o.CheckRoot(r.Authority, r.DER, r.Signature); err != nil {
		return fmt.Errorf("%w: %w", errRoot, err)
	}
	c, err := x509.ParseCertificate(r.DER)
	if err != nil {
		return fmt.Errorf("%w: %w", errRoot, err)
	}
	p, ok := subjectPeer(c)
	switch {
	case !ok || p != r.Authority.Peer(), !c.IsCA, !bytes.Equal(c.RawIssuer, c.RawSubject):
		return fmt.Errorf("%w: another's, or none", errRoot)
	case !slices.Equal(c.PermittedDNSDomains, []string{o.Domain}) || !c.PermittedDNSDomainsCritical:
		return fmt.Errorf("%w: not for names of %s alone", errRoot, o.Domain)
	case now.After(c.NotAfter):
		return fmt.Errorf("%w: it has ended", errRoot)
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return fmt.Errorf("%w: %w", errRoot, err)
	}
	r.cert = c
	return nil
}

// takeRoots keeps those that are authorities', of each the one that ends last. It is called
// without mu.
func (k *Keeper) takeRoots(told []root) {
	o, now := k.roster.Overlay(), k.now()
	changed := false
	for _, r := range told {
		if !k.isAuthority(r.Authority) || r.check(o, now) != nil {
			continue
		}
		k.mu.Lock()
		if old, ok := k.roots[r.Authority]; (!ok || old.cert.NotAfter.Before(r.cert.NotAfter)) && (ok || len(k.roots) < MaxRoots) {
			k.roots[r.Authority], changed = r, true
		}
		k.mu.Unlock()
	}
	if changed {
		k.save()
	}
}

// standing are the roots of those who are authorities now, in the order of their IDs.
func (k *Keeper) standing() (out []root) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for p, r := range k.roots {
		switch {
		case !k.isAuthority(p) || now.After(r.cert.NotAfter):
			delete(k.roots, p) // told again if it becomes one again
		default:
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b root) int { return bytes.Compare(a.Authority[:], b.Authority[:]) })
	return out
}

func (k *Keeper) isAuthority(key membership.Key) bool {
	return k.roster.Revocations().IsAuthority(k.roster.Overlay(), key)
}
