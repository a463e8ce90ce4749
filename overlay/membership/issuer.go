package membership

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership/canon"
)

// Issuer is the root, or a member with a delegate certificate: who may invite
// and confirm. It is immutable and may be used concurrently.
type Issuer struct {
	overlay Overlay
	key     ed25519.PrivateKey
	chain   *chain // to the delegate certificate; without links for the root
	grant   grant
}

// Issuer returns the root as an issuer.
func (r *Root) Issuer() *Issuer {
	return r.Signer().Issuer()
}

// NewDelegate returns the delegate that a chain from Root.Delegate makes of
// the key.
func NewDelegate(key ed25519.PrivateKey, delegation []byte, o Overlay, now time.Time, rev *RevocationList) (*Issuer, error) {
	ch, err := parseChain(append([]byte(nil), delegation...))
	if err != nil {
		return nil, err
	}
	if ch.leaf().Kind != KindDelegate {
		return nil, fmt.Errorf("%w: a %v is no delegate", ErrKind, ch.leaf().Kind)
	}
	if err := ch.verify(o, now, rev); err != nil {
		return nil, err
	}
	pub, err := publicKey(key)
	if err != nil {
		return nil, err
	}
	if pub != ch.leaf().Subject {
		return nil, fmt.Errorf("%w: the delegation is for another key", ErrKey)
	}
	g, err := rootGrant.allows(ch.leaf())
	if err != nil {
		return nil, err
	}
	return &Issuer{overlay: o, key: key, chain: ch, grant: g}, nil
}

// Overlay returns the overlay that is issued for.
func (i *Issuer) Overlay() Overlay { return i.overlay }

// IsRoot says whether i is an authority, not a delegate.
func (i *Issuer) IsRoot() bool { return i.grant.root }

// authority returns the authority by whose word i is an issuer: zero for the founder.
func (i *Issuer) authority() Key {
	k := i.chain.authority
	if i.IsRoot() {
		k, _ = publicKey(i.key)
	}
	if k == i.overlay.Root {
		return Key{}
	}
	return k
}

// Authority returns the authority by whose word i is an issuer.
func (i *Issuer) Authority() Key {
	if k := i.authority(); !k.IsZero() {
		return k
	}
	return i.overlay.Root
}

// issue signs c below i.
func (i *Issuer) issue(c *Certificate, now time.Time) (*chain, error) {
	if end := i.grant.end; !end.IsZero() && !end.After(now) {
		return nil, &TimeError{ErrExpired, "delegate certificate of the issuer", end, now}
	}
	if _, err := i.grant.allows(c); err != nil {
		return nil, fmt.Errorf("%s: %w", c.what(), err)
	}
	l, err := signLink(i.key, i.overlay, c)
	if err != nil {
		return nil, err
	}
	return i.chain.with(l), nil
}

// span returns the life of a certificate issued at now: back by backdate, so
// that a verifier whose clock is behind takes it, and at most longest.
func span(now, until time.Time, longest time.Duration) (from, to time.Time) {
	from = now.Add(-backdate).Truncate(time.Second).UTC()
	to = until.Truncate(time.Second).UTC()
	if last := from.Add(longest); until.IsZero() || to.After(last) {
		to = last
	}
	return from, to
}

// earlier returns the earlier of two times of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Delegate makes a delegate of a member's key, which may hand on the roles and tags
// (RoleDelegate is implied, and not handed on). The result is what NewDelegate
// takes. A zero until means MaxInvitation.
func (r *Root) Delegate(peer peerid.ID, roles Roles, tags Tags, until, now time.Time) ([]byte, error) {
	return r.Issuer().Delegate(peer, roles, tags, until, now)
}

// Delegate is Root.Delegate of any authority.
func (i *Issuer) Delegate(peer peerid.ID, roles Roles, tags Tags, until, now time.Time) ([]byte, error) {
	c := &Certificate{Subject: KeyOf(peer), Kind: KindDelegate, Roles: roles | RoleDelegate, Tags: tags}
	c.NotBefore, c.NotAfter = span(now, until, MaxInvitation)
	ch, err := i.issue(c, now)
	if err != nil {
		return nil, err
	}
	return ch.append(nil), nil
}

// InviteOptions says what a token grants.
type InviteOptions struct {
	Label   string        // "" or AnyLabel: the member chooses
	Expires time.Duration // until then the token admits; 0: DefaultInvitation
	Roles   Roles
	Tags    Tags
	Uses    int // members that it makes, ≤MaxUses; 0: one; AnyNumber: as many as come
	// Reuse is of a token for one label: it may be used again and again, and whoever came
	// last has the label (package admission).
	Reuse bool
	Addrs []string // ≤4 multiaddrs of peers, each ending in /p2p/<peer ID>
}

// AnyNumber is InviteOptions.Uses of a token for as many members as come.
const AnyNumber = -1

// Invite makes a token with a fresh invitation key.
func (i *Issuer) Invite(opts InviteOptions, now time.Time) (*Token, error) {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return i.invite(opts, now, seed)
}

func (i *Issuer) invite(opts InviteOptions, now time.Time, seed []byte) (*Token, error) {
	if opts.Label == "" {
		opts.Label = AnyLabel
	}
	if opts.Expires == 0 {
		opts.Expires = DefaultInvitation
	}
	if opts.Expires < 0 {
		return nil, fmt.Errorf("%w: %v is over before it begins", ErrLifetime, opts.Expires)
	}
	key, err := publicKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return nil, err
	}
	switch {
	case opts.Reuse && (opts.Label == AnyLabel || opts.Uses != 0):
		return nil, fmt.Errorf("%w: again and again is for one name, and for no number: %d for %q", ErrUses, opts.Uses, opts.Label)
	case opts.Reuse: // 0 in a certificate
	case opts.Uses == 0:
		opts.Uses = 1
	case opts.Uses == AnyNumber && opts.Label == AnyLabel:
		opts.Uses = 0 // in a certificate
	case opts.Uses < 0 || opts.Uses > MaxUses || opts.Uses > 1 && opts.Label != AnyLabel:
		return nil, fmt.Errorf("%w: %d for %q", ErrUses, opts.Uses, opts.Label)
	}
	c := &Certificate{Subject: key, Kind: KindInvitation, Roles: opts.Roles, Tags: opts.Tags, Label: opts.Label, Uses: opts.Uses}
	c.NotBefore, c.NotAfter = span(now, earlier(now.Add(opts.Expires), i.grant.end), MaxInvitation)
	ch, err := i.issue(c, now)
	if err != nil {
		return nil, err
	}
	t := &Token{overlay: i.overlay, addrs: opts.Addrs, seed: [32]byte(seed), chain: ch, maker: i.authority()}
	return t, t.check()
}

// SelfIssue makes memberKey a provisional member by the token's invitation:
// nobody need be asked. label is what the member wants to be called; "" means
// the token's (any, if that is the token's). The chain ends Grace after the
// invitation at the latest.
func (t *Token) SelfIssue(memberKey ed25519.PrivateKey, label string, now time.Time) ([]byte, error) {
	inv := t.chain.leaf()
	trusting := Trusting(t.overlay, t.maker)
	if err := t.chain.verify(t.overlay, now, trusting); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if label == "" {
		label = inv.Label
	}
	subject, err := publicKey(memberKey)
	if err != nil {
		return nil, err
	}
	c := &Certificate{Subject: subject, Kind: KindMember, Roles: inv.Roles, Tags: inv.Tags, Label: label}
	end := inv.NotAfter.Add(Grace)
	if len(t.chain.links) > 1 {
		end = earlier(end, t.chain.links[0].cert.NotAfter)
	}
	c.NotBefore, c.NotAfter = span(now, end, MaxMember)
	if c.Proof, err = t.proof(memberKey, c); err != nil {
		return nil, err
	}
	l, err := signLink(ed25519.NewKeyFromSeed(t.seed[:]), t.overlay, c)
	if err != nil {
		return nil, err
	}
	chain := t.chain.with(l).append(nil)
	if _, err := VerifyChain(chain, t.overlay, now, trusting); err != nil {
		return nil, err
	}
	return chain, nil
}

// MemberOptions says what Issue grants.
type MemberOptions struct {
	Label      string // "": none
	Wildcard   bool   // the label is the member's choice
	Roles      Roles
	Tags       Tags
	Serial     uint64
	Invitation Key       // by which it came; zero: none
	Inviter    Key       // by whose word, if the issuer is the root; zero: its own
	Until      time.Time // no longer than that; zero: as long as can be
}

// Certificate returns the delegate's certificate, the zero one for the root.
func (i *Issuer) Certificate() Certificate {
	if len(i.chain.links) == 0 {
		return Certificate{}
	}
	return *i.chain.leaf()
}

// Issue makes a peer a confirmed member. A serial that is later than now, or
// earlier than the issuer became one, becomes the nearest that can be. The caller knows that the peer holds
// its key: it is connected to it, or is the peer. This is how the founder
// makes itself a member; others come by Confirm.
func (i *Issuer) Issue(peer peerid.ID, opts MemberOptions, now time.Time) ([]byte, error) {
	c := &Certificate{
		Subject: KeyOf(peer), Kind: KindMember, Confirmed: true, Roles: opts.Roles, Tags: opts.Tags,
		Label: opts.Label, Wildcard: opts.Wildcard, Invitation: opts.Invitation,
		Serial: max(min(opts.Serial, serialAt(now)), i.grant.since),
	}
	if i.IsRoot() {
		c.Inviter = opts.Inviter
	}
	c.NotBefore, c.NotAfter = span(now, earlier(opts.Until, i.grant.end), MaxMember)
	ch, err := i.issue(c, now)
	if err != nil {
		return nil, err
	}
	return ch.append(nil), nil
}

// attestLife is the life of a statement that Attest makes: no membership is so short.
const attestLife = time.Second

// Attest states that a peer was confirmed out of an invitation, for others that ask how
// often that was used. It has the form of a chain that makes the peer a member without
// a name for one second in the past. VerifyChain takes it for none, VerifyUse reads it:
// whoever asks is told, and must not get a membership for somebody by asking.
func (i *Issuer) Attest(peer peerid.ID, invitation Key, now time.Time) ([]byte, error) {
	from := time.Unix(1, 0).UTC()
	if len(i.chain.links) > 0 {
		from = i.chain.leaf().NotBefore // not before its delegation
	}
	ch, err := i.issue(&Certificate{
		Subject: KeyOf(peer), Kind: KindMember, Confirmed: true, Invitation: invitation, Serial: i.grant.since,
		NotBefore: from, NotAfter: from.Add(attestLife),
	}, now)
	if err != nil {
		return nil, err
	}
	return ch.append(nil), nil
}

// Confirm replaces the chain of a member, provisional or due for renewal, by a
// confirmed one of the issuer. The label must be one that the present chain
// grants; "" gives none. A member that came by an invitation for any label may
// be given another one than it has. A serial of 0 keeps the present one.
//
// What bytes cannot tell is left to the caller: that the label is not
// confirmed for another key, and that a named invitation confirms one key only.
func Confirm(i *Issuer, chain []byte, label string, serial uint64, now time.Time, rev *RevocationList) ([]byte, error) {
	m, err := VerifyChain(chain, i.overlay, now, rev)
	if err != nil {
		return nil, err
	}
	return i.confirm(m, label, serial, now)
}

// Readmit is Confirm for a chain that VerifyLapsed takes.
func Readmit(i *Issuer, chain []byte, label string, serial uint64, now time.Time, rev *RevocationList) ([]byte, error) {
	m, err := VerifyLapsed(chain, i.overlay, now, rev)
	if err != nil {
		return nil, err
	}
	return i.confirm(m, label, serial, now)
}

// confirm makes a member that was verified a confirmed one of i.
func (i *Issuer) confirm(m *Member, label string, serial uint64, now time.Time) ([]byte, error) {
	if label != "" && !m.Allows(label) && !(m.Wildcard && CheckLabel(label) == nil) {
		return nil, fmt.Errorf("confirm: %w: %q for a member with %q", ErrLabel, label, m.Label)
	}
	if serial == 0 {
		serial = m.Serial
	}
	return i.Issue(m.Peer, MemberOptions{
		Label: label, Wildcard: m.Wildcard, Roles: m.Roles, Tags: m.Tags, Serial: serial, Invitation: m.Invitation, Inviter: m.Inviter,
	}, now)
}

// proof is the member key's part of a provisional certificate.
func (t *Token) proof(memberKey ed25519.PrivateKey, c *Certificate) ([]byte, error) {
	return canon.Sign(memberKey, t.overlay.domain(possessionStatement), c.possession(t.chain.leaf().Subject))
}
