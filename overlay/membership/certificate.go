package membership

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// Kind is what a certificate's subject is.
type Kind uint8

const (
	KindDelegate   Kind = 1 // a member that may invite and confirm
	KindInvitation Kind = 2 // the key in a token
	KindMember     Kind = 3 // a peer
)

func (k Kind) String() string {
	switch k {
	case KindDelegate:
		return "delegate"
	case KindInvitation:
		return "invitation"
	case KindMember:
		return "member"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Roles is a set of things that a member may do beyond being one.
type Roles uint8

const (
	RoleRelay    Roles = 1 << 0 // forward for others
	RoleDelegate Roles = 1 << 1 // invite others
	allRoles           = RoleRelay | RoleDelegate
)

// RolesOf returns the set of those that are wanted.
func RolesOf(relay, delegate bool) (r Roles) {
	if relay {
		r |= RoleRelay
	}
	if delegate {
		r |= RoleDelegate
	}
	return r
}

// Has says whether all of the other set are in r.
func (r Roles) Has(other Roles) bool { return r&other == other }

func (r Roles) String() string {
	switch r & allRoles {
	case RoleRelay:
		return "relay"
	case RoleDelegate:
		return "delegate"
	case allRoles:
		return "relay+delegate"
	}
	return "none"
}

// Certificate is a statement of its issuer (the subject of the certificate
// before it in the chain, or the root) about its subject. As a value it claims
// nothing: only VerifyChain makes a Member of it.
type Certificate struct {
	Subject             Key
	Kind                Kind
	Roles               Roles
	NotBefore, NotAfter time.Time // whole seconds
	// Label is AnyLabel or one label for an invitation; for a member also ""
	// (no name). Empty for a delegate.
	Label string
	// Tags of an invitation are those of its members, of a delegate those that it may hand
	// on: no certificate has one that the one above lacks; the root may give any.
	Tags Tags
	// Uses is how many members an invitation makes, of which each is one key; 0 is any
	// number, and of one for a name one at a time: Reused. Of invitations only. What bytes cannot tell, who came first, is package
	// admission's.
	Uses int

	// Of members only:

	// Confirmed: issued by the root or a delegate, not by an invitation key.
	Confirmed bool
	// Wildcard: the member came by an invitation for any label (confirmed
	// certificates; of a provisional one the invitation itself tells).
	Wildcard bool
	// Serial orders confirmed members: when the peer was confirmed first, in
	// milliseconds since 1970. It is no later than the certificate's issue, and
	// below a delegate no earlier than the delegation. Only the root may write one
	// that is earlier than it can be.
	Serial uint64
	// Invitation is the key by which a confirmed member came; zero if the
	// issuer made it a member without one.
	Invitation Key
	// Inviter is the delegate by whose word the root knows that: who has signed the
	// invitation, or has confirmed the member before. Zero: the root itself. Of the root's
	// certificates only; one of a delegate's is its own word.
	Inviter Key
	// Proof is the member key's signature under a provisional certificate:
	// the holder of a token cannot make members of keys it does not hold.
	Proof []byte
}

const (
	certVersion = 1

	flagRelay, flagDelegate = byte(RoleRelay), byte(RoleDelegate)
	flagConfirmed           = 1 << 2
	flagWildcard            = 1 << 3
	flagInvited             = 1 << 4
	flagInviter             = 1 << 5
	flagTags                = 1 << 6
	flagsKnown              = flagRelay | flagDelegate | flagConfirmed | flagWildcard | flagInvited | flagInviter | flagTags

	// maxUnix keeps times within what time.Time formats sanely (year 4147).
	maxUnix = 1 << 36
)

// appendBody appends the payload without the proof: what the proof signs.
//
//	subject 32 | version 1 | kind 1 | flags 1 | notBefore uvarint | notAfter uvarint |
//	label length 1 | label | tags length 1, tags if flagged | confirmed: serial uvarint, invitation 32 if flagged,
//	inviter 32 if flagged |
//	invitations: uses uvarint, 0 is any number
func (c *Certificate) appendBody(b []byte) []byte {
	flags := byte(c.Roles)
	if c.Confirmed {
		flags |= flagConfirmed
	}
	if c.Wildcard {
		flags |= flagWildcard
	}
	if !c.Invitation.IsZero() {
		flags |= flagInvited
	}
	if !c.Inviter.IsZero() {
		flags |= flagInviter
	}
	if c.Tags != "" {
		flags |= flagTags
	}
	b = append(b, c.Subject[:]...)
	b = append(b, certVersion, byte(c.Kind), flags)
	b = binary.AppendUvarint(b, uint64(c.NotBefore.Unix()))
	b = binary.AppendUvarint(b, uint64(c.NotAfter.Unix()))
	b = canon.AppendShort(b, c.Label)
	if c.Tags != "" {
		b = canon.AppendShort(b, c.Tags)
	}
	if c.Confirmed {
		b = binary.AppendUvarint(b, c.Serial)
		if !c.Invitation.IsZero() {
			b = append(b, c.Invitation[:]...)
		}
		if !c.Inviter.IsZero() {
			b = append(b, c.Inviter[:]...)
		}
	}
	if c.Kind == KindInvitation {
		b = binary.AppendUvarint(b, uint64(c.Uses))
	}
	return b
}

// Append appends the certificate's payload, which its issuer signs. The
// certificate must be well formed (as parsed or issued ones are).
func (c *Certificate) Append(b []byte) []byte { return append(c.appendBody(b), c.Proof...) }

// ParseCertificate reads one payload. It checks the form and that the fields
// fit the kind, not who signed it. b is borrowed.
func ParseCertificate(b []byte) (*Certificate, error) {
	r := canon.NewReader(b)
	c := &Certificate{Subject: r.Key()}
	if v := r.Byte(); r.Err() == nil && v != certVersion {
		return nil, fmt.Errorf("certificate: %w (version %d)", ErrVersion, v)
	}
	c.Kind = Kind(r.Byte())
	flags := r.Byte()
	if flags&^flagsKnown != 0 {
		r.Fail("flags %#x", flags)
	}
	c.Roles = Roles(flags) & allRoles
	c.Confirmed = flags&flagConfirmed != 0
	c.Wildcard = flags&flagWildcard != 0
	c.NotBefore = ReadTime(r)
	c.NotAfter = ReadTime(r)
	c.Label = string(r.Short())
	if flags&flagTags != 0 {
		c.Tags = readTags(r)
	}
	if c.Confirmed {
		c.Serial = r.Uvarint()
		if flags&flagInvited != 0 {
			c.Invitation = r.Key()
			if c.Invitation.IsZero() {
				r.Fail("empty invitation key")
			}
		}
		if flags&flagInviter != 0 {
			c.Inviter = r.Key()
			if c.Inviter.IsZero() {
				r.Fail("empty inviter key")
			}
		}
	} else if flags&(flagInvited|flagInviter) != 0 {
		r.Fail("flags %#x", flags)
	}
	if c.Kind == KindInvitation {
		uses := r.Uvarint()
		if uses > MaxUses {
			r.Fail("%d uses", uses)
		}
		c.Uses = int(uses)
	}
	if c.Kind == KindMember && !c.Confirmed {
		c.Proof = bytes.Clone(r.Bytes(canon.SignatureSize))
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(c.Append(make([]byte, 0, len(b))), b) {
		return nil, fmt.Errorf("certificate: %w", ErrNonCanonical)
	}
	return c, nil
}

// serialAt returns the serial number of a member that is confirmed at t.
func serialAt(t time.Time) uint64 { return uint64(max(0, t.UnixMilli())) }

// ReadTime takes a time in whole seconds off r, as AppendTime writes it.
func ReadTime(r *canon.Reader) time.Time {
	s := r.Uvarint()
	if s == 0 || s > maxUnix {
		r.Fail("time %d", s)
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

// AppendTime appends a time in whole seconds since 1970.
func AppendTime(b []byte, t time.Time) []byte { return binary.AppendUvarint(b, uint64(t.Unix())) }

// what names the certificate in errors.
func (c *Certificate) what() string {
	if c.Kind == KindMember && !c.Confirmed {
		return "provisional member certificate"
	}
	if c.Kind == KindMember {
		return "confirmed member certificate"
	}
	return c.Kind.String() + " certificate"
}

// check says whether the fields fit the kind, whoever signed.
func (c *Certificate) check() error {
	fail := func(err error, text string) error { return fmt.Errorf("%s: %w: %s", c.what(), err, text) }
	longest := MaxInvitation
	switch c.Kind {
	case KindDelegate:
		if c.Label != "" || !c.Roles.Has(RoleDelegate) {
			return fail(ErrNonCanonical, "a delegate has its role and no label")
		}
	case KindInvitation:
		if c.Label != AnyLabel {
			if err := CheckLabel(c.Label); err != nil {
				return fmt.Errorf("%s: %w", c.what(), err)
			}
			if c.Uses > 1 {
				return fail(ErrUses, "one name is for one member")
			}
		}
	case KindMember:
		longest = MaxMember
		any := c.Label == AnyLabel && !c.Confirmed
		if c.Label != "" && !any {
			if err := CheckLabel(c.Label); err != nil {
				return fmt.Errorf("%s: %w", c.what(), err)
			}
		}
	default:
		return fail(ErrKind, "unknown")
	}
	if c.Kind != KindMember && (c.Confirmed || c.Wildcard) || c.Wildcard && !c.Confirmed {
		return fail(ErrNonCanonical, "flags")
	}
	if err := c.checkTimes(longest); err != nil {
		return fmt.Errorf("%s: %w", c.what(), err)
	}
	if err := c.Subject.check(); err != nil {
		return fmt.Errorf("%s: %w", c.what(), err)
	}
	return nil
}

// checkTimes is the part of check that is about when.
func (c *Certificate) checkTimes(longest time.Duration) error {
	switch life := c.NotAfter.Sub(c.NotBefore); {
	case life <= 0:
		return fmt.Errorf("%w: ends before it begins", ErrNonCanonical)
	case life > longest:
		return fmt.Errorf("%w: %v is more than %v", ErrLifetime, life, longest)
	case c.Confirmed && c.Serial > serialAt(c.NotBefore.Add(backdate+Tolerance)):
		return fmt.Errorf("%w: %d", ErrSerial, c.Serial)
	}
	return nil
}
