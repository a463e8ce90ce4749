package membership

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// Overlay is what is public about an overlay. It is comparable and immutable.
type Overlay struct {
	ID     [32]byte
	Root   Key
	Domain string
}

// NewOverlay returns the overlay that root founded for the domain.
func NewOverlay(domain string, root Key) (Overlay, error) {
	d, err := CleanDomain(domain)
	if err != nil {
		return Overlay{}, err
	}
	if err := root.check(); err != nil {
		return Overlay{}, fmt.Errorf("root: %w", err)
	}
	h := sha256.New()
	h.Write([]byte("idloc overlay 1\x00"))
	h.Write(canon.AppendShort(nil, d))
	h.Write(root[:])
	return Overlay{ID: [32]byte(h.Sum(nil)), Root: root, Domain: d}, nil
}

// FullName is a label under the overlay's domain; "" for none, and for one that leaves
// the choice.
func (o Overlay) FullName(label string) string {
	if label == "" || label == AnyLabel {
		return ""
	}
	return label + "." + o.Domain
}

// domain returns the domain string of the envelopes of one kind of statement
// in this overlay. The overlay ID in it binds each signature to the overlay
// without carrying it.
func (o Overlay) domain(statement string) string { return StatementDomain(statement, o.ID) }

// StatementDomain returns the libp2p envelope domain string under which the
// members of the overlay sign statements of one kind, such as "name".
func StatementDomain(statement string, overlay [32]byte) string {
	return fmt.Sprintf("idloc-%s/1 %x", statement, overlay)
}

// Root is the founder's secret. It is immutable and may be used concurrently.
type Root struct {
	overlay Overlay
	key     ed25519.PrivateKey
}

// NewRoot founds an overlay for the domain with a fresh key.
func NewRoot(domain string) (*Root, error) {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return newRoot(domain, seed)
}

func newRoot(domain string, seed []byte) (*Root, error) {
	key := ed25519.NewKeyFromSeed(seed)
	pub, err := publicKey(key)
	if err != nil {
		return nil, err
	}
	o, err := NewOverlay(domain, pub)
	if err != nil {
		return nil, err
	}
	return &Root{overlay: o, key: key}, nil
}

const rootVersion = 1

// Marshal returns the secret in the form that ParseRoot reads: version,
// domain, seed.
func (r *Root) Marshal() []byte {
	b := canon.AppendShort([]byte{rootVersion}, r.overlay.Domain)
	return append(b, r.key.Seed()...)
}

// ParseRoot reads what Marshal wrote.
func ParseRoot(b []byte) (*Root, error) {
	rd := canon.NewReader(b)
	if v := rd.Byte(); rd.Err() == nil && v != rootVersion {
		return nil, fmt.Errorf("root key: %w (version %d)", ErrVersion, v)
	}
	domain, seed := rd.Short(), rd.Bytes(ed25519.SeedSize)
	if err := rd.End(); err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	r, err := newRoot(string(domain), seed)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	if r.overlay.Domain != string(domain) {
		return nil, fmt.Errorf("root key: %w", ErrNonCanonical)
	}
	return r, nil
}

// Overlay returns what is public.
func (r *Root) Overlay() Overlay { return r.overlay }

// OverlayID returns the overlay's ID: SHA-256 over a domain string, the DNS
// domain and the root public key.
func (r *Root) OverlayID() [32]byte { return r.overlay.ID }

// String keeps the secret out of logs.
func (r *Root) String() string { return fmt.Sprintf("root of %s", r.overlay.Domain) }

// GoString keeps the secret out of %#v.
func (r *Root) GoString() string { return r.String() }

// The times of DESIGN §8 and §14.1.
const (
	// Tolerance is how far two clocks may differ. DESIGN §8 has ±5 min, for
	// one clock against the truth: where what one peer wrote is judged by
	// another's clock the errors of both add up, and a record that is fresh by
	// a clock 4 min ahead lies 8 min in the future for one 4 min behind.
	Tolerance = 10 * time.Minute
	// EntryTolerance is how long after its end an invitation lets somebody in, for
	// clocks that differ.
	EntryTolerance = 30 * time.Second
	// backdate is how long before its issue a certificate begins.
	backdate = 5 * time.Minute
	// MaxMember bounds a member certificate's life.
	MaxMember = 30 * 24 * time.Hour
	// Grace is how long a provisional certificate may outlast its invitation.
	Grace = 7 * 24 * time.Hour
	// LongestLife is when the last certificate has ended that says anything of a
	// key and that somebody could have made by what he was given before: a
	// delegate's, an invitation's, and what was entered by that. The rest is for
	// clocks.
	LongestLife = MaxInvitation + Grace + 24*time.Hour
	// RenewFor is how long after its end the certificate of a confirmed member can be
	// renewed: one that comes back within that needs no new token.
	RenewFor = 400 * 24 * time.Hour
	// RevokedFor is how long an entry of the revocation list stays at least that ends
	// what was confirmed: nothing that it hits can be used any more then, not even to be
	// renewed.
	RevokedFor = LongestLife + RenewFor
	// MaxInvitation bounds the life of invitations and delegates.
	MaxInvitation = 366 * 24 * time.Hour
	// MaxUses bounds how many members an invitation for a number of them can make.
	MaxUses = 64
	// DefaultInvitation is the life of an invitation that does not say.
	DefaultInvitation = 24 * time.Hour
)
