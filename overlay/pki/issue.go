package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// How long certificates last, at most.
const (
	RootLife     = 10 * 365 * 24 * time.Hour
	DelegateLife = 30 * 24 * time.Hour
	MemberLife   = 7 * 24 * time.Hour
	// early is how much before now they begin, for clocks that are late.
	early = 10 * time.Minute
)

// subject is who a certificate is of. Its serialNumber (RFC 4519 §2.31) is the peer ID.
func subject(common string, p peerid.ID) pkix.Name {
	return pkix.Name{CommonName: common, SerialNumber: p.String()}
}

// subjectPeer is the peer that a certificate is of; false: none.
func subjectPeer(c *x509.Certificate) (peerid.ID, bool) {
	p, err := peerid.Parse(c.Subject.SerialNumber)
	return p, err == nil
}

// narrow makes a certificate one that signs for names of the overlay and nothing else.
func narrow(c *x509.Certificate, domain string, below int) {
	c.IsCA, c.BasicConstraintsValid = true, true
	c.MaxPathLen, c.MaxPathLenZero = below, below == 0
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	c.PermittedDNSDomainsCritical = true
	c.PermittedDNSDomains = []string{domain}
	c.PermittedEmailAddresses = []string{domain}
	c.PermittedURIDomains = []string{domain}
	for _, all := range []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
		c.ExcludedIPRanges = append(c.ExcludedIPRanges, &net.IPNet{IP: all.Addr().AsSlice(), Mask: net.CIDRMask(0, all.Addr().BitLen())})
	}
}

// newRoot is an authority's own certificate.
func newRoot(key *ecdsa.PrivateKey, o membership.Overlay, authority peerid.ID, now time.Time) (*x509.Certificate, error) {
	c := &x509.Certificate{
		// Two roots of one domain differ by name, as programs find them by that.
		Subject:   subject(o.Domain+" (idloc overlay)", authority),
		NotBefore: now.Add(-early), NotAfter: now.Add(RootLife),
	}
	narrow(c, o.Domain, 1)
	return sign(c, c, key.Public(), key)
}

// issuer signs for others.
type issuer struct {
	cert *x509.Certificate   // its own: a root's, or a delegate's
	key  *ecdsa.PrivateKey   // of cert
	more []*x509.Certificate // what its chain has above cert, but for the root
}

// delegate signs the certificate by which a delegate signs.
func (i issuer) delegate(o membership.Overlay, m *membership.Member, key crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	c := &x509.Certificate{
		Subject:   subject(o.FullName(m.Label)+" (delegate)", m.Peer),
		NotBefore: now.Add(-early), NotAfter: soonest(now.Add(DelegateLife), m.NotAfter, i.cert.NotAfter),
	}
	narrow(c, o.Domain, 0)
	return sign(c, i.cert, key, i.key)
}

// member signs a member's certificate, for servers and clients.
func (i issuer) member(o membership.Overlay, m *membership.Member, key crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	name := o.FullName(m.Label)
	return sign(&x509.Certificate{
		Subject: subject(name, m.Peer), DNSNames: []string{name},
		NotBefore: now.Add(-early), NotAfter: soonest(now.Add(MemberLife), m.NotAfter, i.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, i.cert, key, i.key)
}

// sign has a certificate signed, with a number of its own and the identifiers of the keys
// (RFC 5280 §4.1.2.2, §4.2.1.1, §4.2.1.2; RFC 7093 §2).
func sign(c, parent *x509.Certificate, of crypto.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] = serial[0]&0x7f | 0x40 // positive, and of one length
	c.SerialNumber = new(big.Int).SetBytes(serial)
	spki, err := x509.MarshalPKIXPublicKey(of)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	sum := sha256.Sum256(spki)
	c.SubjectKeyId = sum[:20]
	der, err := x509.CreateCertificate(rand.Reader, c, parent, of, key)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return x509.ParseCertificate(der)
}

// readKey reads the public key of a question: one on P-256, nothing else.
func readKey(b []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("pki: a key that is not on P-256")
	}
	return key, nil
}

func soonest(t time.Time, others ...time.Time) time.Time {
	for _, u := range others {
		if u.Before(t) {
			t = u
		}
	}
	return t
}
