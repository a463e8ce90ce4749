package membership

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// MotionKind is what a motion wants.
type MotionKind uint8

const (
	MoveChange     MotionKind = 1 // another authority, one less, or another threshold
	MoveRevoke     MotionKind = 2 // take memberships back
	MovePolicy     MotionKind = 3 // say who may open what at whom
	MoveUnattended MotionKind = 4 // say for how long members go on that hear of no authority
)

// Motion is one thing that the authorities of an overlay can say. Which list it makes
// follows from the motion and from the list before it alone, so that each of them can
// compute what it is to sign.
type Motion struct {
	Kind       MotionKind
	At         time.Time     // when it was made; whole seconds
	Change     Change        // of MoveChange
	Revoke     []Revocation  // of MoveRevoke
	Whom       string        // of MoveRevoke: the label of the first peer, as who proposes it knows it; empty: none. It changes nothing.
	Policy     string        // of MovePolicy
	Unattended time.Duration // of MoveUnattended; whole seconds

	folded     map[uint64][]tag // of MoveRevoke: what is folded already, of a list that is united with this
	unitedWith *Policy          // the same of the policy
}

// Signer signs as one authority.
type Signer struct {
	overlay Overlay
	key     ed25519.PrivateKey
	public  Key
}

// Signer returns the founder's key as an authority.
func (r *Root) Signer() *Signer { return &Signer{r.overlay, r.key, r.overlay.Root} }

// NewSigner returns a key as an authority; whether it is one the list says.
func NewSigner(o Overlay, key ed25519.PrivateKey) (*Signer, error) {
	k, err := publicKey(key)
	if err != nil {
		return nil, err
	}
	return &Signer{o, key, k}, nil
}

// Key returns the public key.
func (s *Signer) Key() Key { return s.public }

// Issuer returns the authority as an issuer.
func (s *Signer) Issuer() *Issuer {
	return &Issuer{overlay: s.overlay, key: s.key, chain: &chain{overlay: s.overlay.ID}, grant: rootGrant}
}

// Draft is a list that is not signed by enough authorities yet. It is immutable.
type Draft struct {
	list    *RevocationList // without signatures
	rules   *charter        // who has to sign
	payload []byte          // of the change; nil: the list itself is signed
	domain  string
	message []byte
}

// Draft returns the list that follows l, which may be nil, by a motion, for the
// authorities to sign. The error says why nothing follows; ErrNothing if the motion
// changes nothing.
func (l *RevocationList) Draft(o Overlay, m Motion) (*Draft, error) {
	if l != nil && (!l.verified || l.charter.overlay != o) {
		return nil, ErrListUnverified
	}
	at := m.At.Truncate(time.Second).UTC()
	if l.Issued().After(at) {
		at = l.Issued() // a clock that is behind the list before it is wrong
	}
	rules := l.signed(o)
	next := &RevocationList{charter: rules, seq: l.Seq() + 1, issued: at, policy: l.Policy()}
	if l != nil {
		next.unattended = l.unattended
	}
	if next.seq > maxSeq {
		if m.Kind != MoveChange {
			return nil, fmt.Errorf("%w: its number is the last", ErrListFull)
		}
		next.seq = 1 // who has used them all up can be removed: changes count before numbers
	}
	entries := l.still(at)
	if m.Kind == MoveRevoke {
		for _, e := range m.Revoke {
			entries = append(entries, e.living(at))
		}
	}
	if err := next.move(l, m, at); err != nil {
		return nil, err
	}
	slices.SortStableFunc(entries, func(a, b Revocation) int { return cmp.Or(a.compare(b), longer(a.Until, b.Until)) })
	next.entries, next.folded = fold(united(entries), joinFolded(l.stillFolded(at), m.folded))
	return next.draft(rules, m, at)
}

// move takes over what a motion says, but for entries, into the list that follows l.
func (next *RevocationList) move(l *RevocationList, m Motion, at time.Time) (err error) {
	switch m.Kind {
	case MoveRevoke:
		if m.unitedWith.Number() > next.policy.Number() {
			next.policy = m.unitedWith
		}
		covered := !slices.ContainsFunc(m.Revoke, func(e Revocation) bool { return !l.Covers(e) })
		if len(m.Revoke) > 0 && len(m.folded) == 0 && next.policy == l.Policy() && covered {
			return ErrNothing
		}
	case MovePolicy:
		if l.Policy() != nil && l.Policy().text == m.Policy {
			return ErrNothing
		}
		next.policy, err = newPolicy(l.Policy(), m.Policy, at)
		return err
	case MoveUnattended:
		if m.Unattended < MinUnattended || m.Unattended > MaxUnattended {
			return fmt.Errorf("%w: %v; between %v and %v", ErrLifetime, m.Unattended, MinUnattended, MaxUnattended)
		}
		if next.unattended = m.Unattended.Truncate(time.Second); next.unattended == l.Unattended() {
			return ErrNothing
		}
	case MoveChange:
		if next.charter.made(m.Change) {
			return ErrNothing
		}
		return next.charter.allows(m.Change)
	default:
		return fmt.Errorf("motion of kind %d", m.Kind)
	}
	return nil
}

// draft is what the authorities sign so that l, which follows by a motion, is a list.
func (l *RevocationList) draft(rules *charter, m Motion, at time.Time) (*Draft, error) {
	d := &Draft{list: l, rules: rules, domain: rules.overlay.domain(revocationStatement)}
	if m.Kind == MoveChange {
		l.body = l.appendContent(nil)
		m.Change.At = at
		d.payload = appendChange(nil, m.Change, sha256.Sum256(l.body))
		d.domain, d.message = rules.overlay.domain(charterStatement), rules.message(d.payload)
		if len(rules.changes) >= MaxChanges || len(rules.append(nil))+maxChangeSize > MaxCharter {
			return nil, fmt.Errorf("%w: its authorities have changed %d times", ErrListFull, len(rules.changes))
		}
	} else {
		l.body = l.appendBody(nil)
		d.message = l.body
	}
	size := len(l.body) + maxChangeSize
	if m.Kind == MoveChange {
		size += 1 + len(rules.overlay.ID) + 2 + len(rules.append(nil)) // what stands before the content
	}
	if n := l.Len(); n > MaxRevocations || len(l.folded) > weeksMax || size > MaxRevocationList {
		return nil, fmt.Errorf("%w: %d entries", ErrListFull, n)
	}
	return d, nil
}

// maxChangeSize bounds one change with its signatures, in bytes.
const maxChangeSize = 256 + MaxAuthorities*(1+canon.SignatureSize)

// made says whether a change has been made already.
func (c *charter) made(ch Change) bool {
	place := c.place(ch.Authority.Key)
	switch ch.Kind {
	case ChangePromote:
		return place >= 0
	case ChangeDemote:
		return place < 0 && slices.ContainsFunc(c.former, func(f formerAuthority) bool { return f.Key == ch.Authority.Key })
	}
	return ch.Threshold == c.threshold
}

// Sum names what is signed.
func (d *Draft) Sum() [32]byte { return sha256.Sum256(append([]byte(d.domain), d.message...)) }

// Sign returns the signature of an authority.
func (d *Draft) Sign(s *Signer) (Signature, error) {
	sig, err := canon.Sign(s.key, d.domain, d.message)
	if err != nil {
		return Signature{}, err
	}
	return Signature{s.public, [ed25519.SignatureSize]byte(sig)}, nil
}

// Signed returns of some signatures those that authorities have made of the draft, each
// authority's once.
func (d *Draft) Signed(sigs []Signature) (good []Signature) {
	for _, a := range d.rules.authorities {
		for _, s := range sigs {
			if s.Key == a.Key && canon.Verify(s.Key[:], d.domain, d.message, s.Sig[:]) == nil {
				good = append(good, s)
				break
			}
		}
	}
	return good
}

// Needs returns how many authorities have to sign.
func (d *Draft) Needs() int { return d.rules.threshold }

// List returns the list, if enough authorities have signed: ErrSignatures else.
func (d *Draft) List(sigs []Signature) (*RevocationList, error) {
	good := d.Signed(sigs)
	if len(good) < d.Needs() {
		return nil, fmt.Errorf("%w: %d of %d", ErrSignatures, len(good), d.Needs())
	}
	if d.payload == nil {
		return OpenRevocationList(appendSignatures(bytes.Clone(d.list.body), d.rules.authorities, good), d.rules.overlay)
	}
	changes := d.rules.append(nil)
	changes = canon.AppendLong(changes, d.payload)
	changes = appendSignatures(changes, d.rules.authorities, good[:d.Needs()])
	b := append([]byte{listVersion}, d.rules.overlay.ID[:]...)
	b = canon.AppendLong(b, changes)
	b = append(b, d.list.body...) // the content
	return OpenRevocationList(append(b, 0), d.rules.overlay)
}

// still returns the entries that matter at a time.
func (l *RevocationList) still(at time.Time) []Revocation {
	return slices.DeleteFunc(l.Entries(), func(e Revocation) bool { return !e.Until.IsZero() && !e.Until.After(at.Add(-Tolerance)) })
}

// stillFolded is still of what is folded.
func (l *RevocationList) stillFolded(at time.Time) []folded {
	if l == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(l.folded), func(f folded) bool { return !f.until().After(at.Add(-Tolerance)) })
}

// living returns an entry that is added at a time, as it stands in a list: it stays
// RevokedFor at least.
func (e Revocation) living(at time.Time) Revocation {
	if u := e.Until; !u.IsZero() {
		if least := at.Add(RevokedFor); e.Kind != RevokeInvitation && u.Before(least) {
			u = least
		}
		e.Until = u.Truncate(time.Second).UTC()
	}
	if e.Kind != RevokeDelegate || e.Before.IsZero() {
		e.Before = time.Time{}
	} else {
		e.Before = e.Before.Truncate(time.Second).UTC()
	}
	return e
}

// Unite returns the motion after which l hits all that other hits as well, and has the
// newer policy of the two.
func (l *RevocationList) Unite(other *RevocationList, now time.Time) (Motion, error) {
	if other != nil && !other.verified {
		return Motion{}, ErrListUnverified
	}
	m := Motion{Kind: MoveRevoke, At: now, unitedWith: other.Policy()}
	m.Revoke, m.folded = l.lost(other, now)
	return m, nil
}

// alone makes a list by one authority's signature.
func (s *Signer) alone(l *RevocationList, m Motion) (*RevocationList, error) {
	d, err := l.Draft(s.overlay, m)
	if err != nil {
		return nil, err
	}
	sig, err := d.Sign(s)
	if err != nil {
		return nil, err
	}
	return d.List([]Signature{sig})
}

// Revoke returns the list that follows old (nil for the first) with the
// entries added, by the signature of the founder's key alone. Entries of old whose Until
// has passed are dropped. Two for one key become one that lives as long as either and
// hits what either hits.
func (r *Root) Revoke(old *RevocationList, now time.Time, entries ...Revocation) (*RevocationList, error) {
	return r.Signer().alone(old, Motion{Kind: MoveRevoke, At: now, Revoke: entries})
}

// SetPolicy returns the list that follows old with another policy, by the signature of the
// founder's key alone.
func (r *Root) SetPolicy(old *RevocationList, text string, now time.Time) (*RevocationList, error) {
	return r.Signer().alone(old, Motion{Kind: MovePolicy, At: now, Policy: text})
}
