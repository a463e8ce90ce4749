package membership

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	chainVersion = 1
	maxLinks     = 3 // delegate, invitation, member

	// MaxChain bounds a chain's size in bytes, as offers do in which chains ride.
	MaxChain = wire.MaxChain

	certificateStatement = "certificate"
	possessionStatement  = "possession"
)

// link is a certificate with its issuer's signature.
type link struct {
	cert    *Certificate
	payload []byte // cert's encoding
	sig     []byte
}

// chain is the way from the root (not included) to a subject.
//
//	version 1 | overlay ID 32 | links 1 | { payload length 2 | payload | signature 64 } ...
type chain struct {
	overlay   [32]byte
	links     []link
	authority Key // who has signed the first link, once that is verified
}

func (ch *chain) append(b []byte) []byte {
	b = append(b, chainVersion)
	b = append(b, ch.overlay[:]...)
	b = append(b, byte(len(ch.links)))
	for _, l := range ch.links {
		b = canon.AppendLong(b, l.payload)
		b = append(b, l.sig...)
	}
	return b
}

// leaf returns the last certificate.
func (ch *chain) leaf() *Certificate { return ch.links[len(ch.links)-1].cert }

// with returns a chain one link longer.
func (ch *chain) with(l link) *chain {
	return &chain{overlay: ch.overlay, links: append(ch.links[:len(ch.links):len(ch.links)], l), authority: ch.authority}
}

// parseChain reads the form only. b is aliased.
func parseChain(b []byte) (*chain, error) {
	if len(b) > MaxChain {
		return nil, fmt.Errorf("chain: %w: %d bytes", ErrTooLarge, len(b))
	}
	r := canon.NewReader(b)
	if v := r.Byte(); r.Err() == nil && v != chainVersion {
		return nil, fmt.Errorf("chain: %w (version %d)", ErrVersion, v)
	}
	ch := &chain{overlay: r.Key()}
	n := int(r.Byte())
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrIncomplete)
	}
	if n > maxLinks {
		return nil, fmt.Errorf("%w: %d certificates", ErrTooDeep, n)
	}
	for range n {
		l := link{payload: r.Long(), sig: r.Bytes(canon.SignatureSize)}
		if err := r.Err(); err != nil {
			return nil, fmt.Errorf("chain: %w", err)
		}
		var err error
		if l.cert, err = ParseCertificate(l.payload); err != nil {
			return nil, err
		}
		ch.links = append(ch.links, l)
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	return ch, nil
}

// Certificates returns what a chain claims, from the root's side to the leaf,
// without verifying anything: for display and for errors.
func Certificates(chain []byte) ([]*Certificate, error) {
	ch, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	var certs []*Certificate
	for _, l := range ch.links {
		certs = append(certs, l.cert)
	}
	return certs, nil
}

// Claimed returns the member that a chain claims to make, without verifying anything.
func Claimed(chain []byte) (*Member, error) {
	ch, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	if ch.leaf().Kind != KindMember {
		return nil, fmt.Errorf("%w: it ends in a %v", ErrIncomplete, ch.leaf().Kind)
	}
	return ch.member(), nil
}

// verify checks that the chain grants what its leaf claims: what each kind may
// stand on, narrowing, times, revocation, and then, because they cost most,
// the signatures.
func (ch *chain) verify(o Overlay, now time.Time, rev *RevocationList) error {
	if o.Root.IsZero() || ch.overlay != o.ID {
		return fmt.Errorf("chain: %w", ErrWrongOverlay)
	}
	if rev != nil && (!rev.verified || rev.charter.overlay != o) {
		return ErrListUnverified
	}
	above := rootGrant
	for _, l := range ch.links {
		next, err := above.allows(l.cert)
		if err != nil {
			return fmt.Errorf("%s: %w", l.cert.what(), err)
		}
		above = next
	}
	for _, l := range ch.links {
		end := l.cert.NotAfter
		if l.cert.Kind == KindInvitation && ch.leaf().Kind == KindMember {
			end = end.Add(Grace) // what was entered in time outlasts the invitation (DESIGN §14.1)
		}
		late := Tolerance
		if l.cert == ch.leaf() && l.cert.Kind == KindInvitation {
			late = EntryTolerance
		}
		if err := checkWithin(l.cert.what(), l.cert.NotBefore, end, now, late); err != nil {
			return err
		}
		if err := rev.check(l.cert); err != nil {
			return err
		}
	}
	signer, err := ch.verifySignatures(o, rev.rulesOf(o).signers(now))
	if err != nil {
		return err
	}
	if err := rev.rules().granted(signer, ch.links[0].cert.NotBefore); err != nil {
		return fmt.Errorf("%s: %w", ch.links[0].cert.what(), err)
	}
	ch.authority = signer
	return nil
}

// verifySignatures returns which of the keys has signed the first link.
func (ch *chain) verifySignatures(o Overlay, authorities []Key) (signer Key, err error) {
	domain := o.domain(certificateStatement)
	issuers := authorities
	for n, l := range ch.links {
		i, err := canon.VerifyAny(issuers, domain, l.payload, l.sig)
		if err != nil {
			return signer, fmt.Errorf("%s: %w", l.cert.what(), err)
		}
		issuer := issuers[i]
		if n == 0 {
			signer = issuer
		}
		if l.cert.Proof != nil {
			err := canon.Verify(l.cert.Subject[:], o.domain(possessionStatement), l.cert.possession(issuer), l.cert.Proof)
			if err != nil {
				return signer, fmt.Errorf("%s: %w: %w", l.cert.what(), ErrPossession, err)
			}
		}
		issuers = []Key{l.cert.Subject}
	}
	return signer, nil
}

// possession is what a member key signs to show that it takes part: the
// certificate's body under the invitation that will sign it.
func (c *Certificate) possession(issuer Key) []byte { return c.appendBody(issuer[:]) }

// grant is what the subject of a link may hand on to the next.
type grant struct {
	root  bool
	kind  Kind
	roles Roles
	tags  Tags
	label string
	end   time.Time // certificates below end by then; zero: no bound
	grace time.Time // invitations: the same for members; zero: no bound
	since uint64    // delegates: the lowest serial that one can have given
}

// rootGrant is what the root may hand on.
var rootGrant = grant{root: true, roles: allRoles, label: AnyLabel}

// allows says whether the subject of g may issue c, and returns what c's
// subject may issue in turn.
func (g grant) allows(c *Certificate) (grant, error) {
	if g.kind == KindMember || g.kind == c.Kind {
		return grant{}, fmt.Errorf("%w: below a %v", ErrTooDeep, g.kind)
	}
	next := grant{kind: c.Kind, roles: c.Roles, tags: c.Tags, label: c.Label, end: c.NotAfter}
	end := g.end
	switch c.Kind {
	case KindDelegate:
		if !g.root {
			return grant{}, fmt.Errorf("%w: below a %v", ErrKind, g.kind)
		}
		next.roles &^= RoleDelegate // delegates make no delegates: one level (DESIGN §14.1)
		next.label = AnyLabel
		next.since = serialAt(c.NotBefore)
	case KindInvitation:
		next.grace = c.NotAfter.Add(Grace)
		if !g.end.IsZero() && next.grace.After(g.end) {
			next.grace = g.end
		}
	case KindMember:
		if err := g.allowsMember(c); err != nil {
			return grant{}, err
		}
		if g.kind == KindInvitation {
			end = g.grace
		}
	}
	if c.Roles&^g.roles != 0 {
		return grant{}, fmt.Errorf("%w: %v of %v", ErrRole, c.Roles, g.roles)
	}
	if more := c.Tags.Beyond(g.tags); len(more) > 0 && !g.root {
		return grant{}, fmt.Errorf("%w: the issuer has not %q itself", ErrTags, more)
	}
	if g.label != AnyLabel && c.Label != g.label && c.Label != "" {
		return grant{}, fmt.Errorf("%w: %q below %q", ErrLabel, c.Label, g.label)
	}
	if !end.IsZero() && c.NotAfter.After(end) {
		return grant{}, fmt.Errorf("%w: until %s, granted until %s", ErrLifetime,
			c.NotAfter.Format(time.RFC3339), end.Format(time.RFC3339))
	}
	return next, nil
}

// allowsMember is the part of allows that is about how a member came.
func (g grant) allowsMember(c *Certificate) error {
	switch {
	case c.Confirmed == (g.kind == KindInvitation):
		return fmt.Errorf("%w: the root and delegates confirm, invitations do not", ErrKind)
	case !c.Inviter.IsZero() && !g.root:
		return fmt.Errorf("%w: only the root says by whose word it is", ErrKind)
	case c.Confirmed && c.Serial < g.since:
		return fmt.Errorf("%w: %d, when its delegate was none", ErrSerial, c.Serial)
	}
	return nil
}

// VerifyChain says who the last certificate of a chain makes a member, or why
// it does not. chain is borrowed; a nil rev revokes nothing. It is a function
// of its arguments alone.
func VerifyChain(chain []byte, o Overlay, now time.Time, rev *RevocationList) (*Member, error) {
	ch, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	if ch.overlay != o.ID {
		return nil, fmt.Errorf("chain: %w", ErrWrongOverlay)
	}
	if ch.leaf().Kind != KindMember {
		return nil, fmt.Errorf("%w: it ends in a %v", ErrIncomplete, ch.leaf().Kind)
	}
	if ch.leaf().attests() {
		return nil, fmt.Errorf("%w: it ends in a statement of who has used an invitation", ErrIncomplete)
	}
	if err := ch.verify(o, now, rev); err != nil {
		return nil, err
	}
	return ch.member(), nil
}

// attests says whether c is what Issuer.Attest makes.
func (c *Certificate) attests() bool {
	return c.Kind == KindMember && c.Confirmed && c.Label == "" && c.NotAfter.Sub(c.NotBefore) <= attestLife
}

// VerifyUse says who has used which invitation by what Issuer.Attest has made. That of an
// authority and that of a delegate count while it is one. statement is borrowed.
func VerifyUse(statement []byte, o Overlay, now time.Time, rev *RevocationList) (*Member, error) {
	ch, err := parseChain(statement)
	if err != nil {
		return nil, err
	}
	leaf := ch.leaf()
	if !leaf.attests() || leaf.Invitation.IsZero() {
		return nil, fmt.Errorf("%w: it does not say who has used an invitation", ErrIncomplete)
	}
	if d := ch.links[0].cert; d.Kind == KindDelegate {
		if err := CheckTimes(d.what(), d.NotBefore, d.NotAfter, now); err != nil {
			return nil, err
		}
		if rev.voids(d.Subject, d.NotBefore) {
			return nil, fmt.Errorf("%s: %w (list %d)", d.what(), ErrRevoked, rev.Seq())
		}
	}
	rules := rev.rulesOf(o)
	if err := ch.verify(o, leaf.NotBefore, &RevocationList{charter: rules, verified: true}); err != nil {
		return nil, err
	}
	if d := ch.links[0].cert; d.Kind != KindDelegate && rules.place(ch.authority) < 0 && ch.authority != rules.trusted || !slices.Contains(rules.signers(now), ch.authority) {
		return nil, fmt.Errorf("%s: %w: its authority was removed", d.what(), ErrRevoked)
	}
	return ch.member(), nil
}

// Member is what a verified chain says about a peer. Immutable by convention.
type Member struct {
	Peer peerid.ID
	// Label is the one label that the member may claim; AnyLabel if it may
	// claim any, "" if none.
	Label string
	// Wildcard says that the label is the member's own choice, not the
	// inviter's: it ranks below a named one.
	Wildcard  bool
	Roles     Roles
	Tags      Tags
	Confirmed bool
	// Serial orders confirmed members; 0 for provisional ones.
	Serial              uint64
	NotBefore, NotAfter time.Time
	Invitation          Key       // by which it came; zero: none
	Delegate            Key       // under whom it is a member; zero: the root
	Inviter             Key       // the delegate by whose word it came; zero: the root
	Authority           Key       // that has signed the first certificate of the chain
	Granted             time.Time // and when, by its word
	Delegation          time.Time // when that delegate's certificate begins
	DelegationEnd       time.Time // and ends

	// Of provisional members only: until when their invitation admits, and how many; 0
	// is any number. Whether they came in time, and who came before, chains do not say.
	Entry time.Time
	Uses  int
}

func (ch *chain) member() *Member {
	c := ch.leaf()
	m := &Member{
		Peer: c.Subject.Peer(), Label: c.Label, Wildcard: c.Wildcard, Roles: c.Roles, Tags: c.Tags,
		Confirmed: c.Confirmed, Serial: c.Serial, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		Invitation: c.Invitation, Inviter: c.Inviter, Authority: ch.authority, Granted: ch.links[0].cert.NotBefore,
	}
	for _, l := range ch.links {
		switch l.cert.Kind {
		case KindDelegate:
			m.Delegate, m.Delegation, m.DelegationEnd = l.cert.Subject, l.cert.NotBefore, l.cert.NotAfter
			m.Inviter = m.Delegate
		case KindInvitation:
			m.Invitation = l.cert.Subject
			m.Wildcard = l.cert.Label == AnyLabel
			m.Entry, m.Uses = l.cert.NotAfter, l.cert.Uses
		}
	}
	return m
}

// Account is to whom, besides the member itself, what it uses is charged: its invitation,
// and the delegate by whose word it came.
func (m *Member) Account() (a account.Account) {
	if !m.Invitation.IsZero() {
		a.Invitation = string(m.Invitation[:])
	}
	if !m.Inviter.IsZero() {
		a.Delegate = string(m.Inviter[:])
	}
	return a
}

// Reused says whether the member came, and was not confirmed yet, by an invitation that is
// used again and again for one name.
func (m *Member) Reused() bool {
	return !m.Confirmed && !m.Wildcard && m.Uses == 0 && !m.Invitation.IsZero()
}

// Allows says whether the member may claim the label.
func (m *Member) Allows(label string) bool {
	return CheckLabel(label) == nil && (m.Label == AnyLabel || m.Label == label)
}

// NeedsRenewal says whether to ask the founder or a delegate for a new
// certificate: at once while the present one is provisional, from half-life on
// when it is confirmed (DESIGN §14.1).
func NeedsRenewal(m *Member, now time.Time) bool {
	return !m.Confirmed || !now.Before(m.NotBefore.Add(m.NotAfter.Sub(m.NotBefore)/2))
}

// signLink makes c a link below the issuer.
func signLink(key ed25519.PrivateKey, o Overlay, c *Certificate) (link, error) {
	payload := c.Append(nil)
	if _, err := ParseCertificate(payload); err != nil {
		return link{}, err // never issue what nobody would take
	}
	sig, err := canon.Sign(key, o.domain(certificateStatement), payload)
	return link{c, payload, sig}, err
}
