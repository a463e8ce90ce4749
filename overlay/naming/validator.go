package naming

import (
	"fmt"
	"slices"
	"time"

	record "github.com/libp2p/go-libp2p-record"

	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/membership/canon"
)

// Validator says which values may stand under which keys of the database, and
// which of several counts. It is what kad-dht asks for Namespace, and what a
// reader asks again. All of it is a function of bytes, clock, revocation list and
// tags. May be used concurrently if Now, Revoked and Tags may.
type Validator struct {
	Overlay membership.Overlay
	Now     func() time.Time                  // nil: time.Now
	Revoked func() *membership.RevocationList // nil: nothing is
	// Attended is as of when issuers were there to renew who had to be; nil: they are.
	Attended func() time.Time
	Tags     func(*membership.Member) []string // which tags a member has; nil: those of its certificate
}

var _ record.Validator = (*Validator)(nil)

func (v *Validator) now() time.Time {
	if v.Now == nil {
		return time.Now()
	}
	return v.Now()
}

func (v *Validator) revoked() *membership.RevocationList {
	if v.Revoked == nil {
		return nil
	}
	return v.Revoked()
}

// Member says who a chain makes a member at a time.
func (v *Validator) Member(chain []byte, now time.Time) (*membership.Member, error) {
	if v.Attended == nil {
		return membership.VerifyChain(chain, v.Overlay, now, v.revoked())
	}
	return membership.VerifyAsOf(chain, v.Overlay, now, v.Attended(), v.revoked())
}

// Open verifies the name record that stands under key.
func (v *Validator) Open(key string, value []byte) (*Record, error) {
	r, err := Parse(value)
	if err != nil {
		return nil, err
	}
	if keys := Keys(v.Overlay.ID, r.Label); !slices.Contains(keys[:], key) {
		return nil, fmt.Errorf("name record of %q: %w", r.Label, ErrWrongKey)
	}
	now := v.now()
	if err := checkTimes("name record", r.Issued, r.Expires, r.Seq, MaxLife, now); err != nil {
		return nil, err
	}
	m, err := v.Member(r.Chain, now)
	if err != nil {
		return nil, fmt.Errorf("name record of %q: %w", r.Label, err)
	}
	if !m.Allows(r.Label) {
		return nil, fmt.Errorf("name record of %q: %w: the certificate is for %q", r.Label, ErrLabel, m.Label)
	}
	if err := v.verify(m, nameStatement, value); err != nil {
		return nil, fmt.Errorf("name record of %q: %w", r.Label, err)
	}
	r.member, r.standing = m, standingOf(m, v.Overlay.ID, r.Label)
	return r, nil
}

// OpenContact verifies the contact record that stands under key.
func (v *Validator) OpenContact(key string, value []byte) (*ContactRecord, error) {
	c, err := ParseContact(value)
	if err != nil {
		return nil, err
	}
	if ContactKey(v.Overlay.ID, c.Peer) != key {
		return nil, fmt.Errorf("contact record: %w", ErrWrongKey)
	}
	now := v.now()
	if err := checkTimes("contact record", c.Issued, c.Expires, c.Seq, MaxContactLife, now); err != nil {
		return nil, err
	}
	m, err := v.Member(c.Chain, now)
	if err != nil {
		return nil, fmt.Errorf("contact record: %w", err)
	}
	if err := v.verify(m, contactStatement, value); err != nil {
		return nil, fmt.Errorf("contact record: %w", err)
	}
	c.member = m
	return c, nil
}

// verify checks the signature at the end of a value.
func (v *Validator) verify(m *membership.Member, statement string, value []byte) error {
	n := len(value) - canon.SignatureSize
	return canon.Verify(m.Peer[:], membership.StatementDomain(statement, v.Overlay.ID), value[:n], value[n:])
}

// RevocationValue returns the value to put under RevocationKey.
func RevocationValue(l *membership.RevocationList) []byte {
	return append([]byte{kindRevocation, version}, l.Bytes()...)
}

// OpenRevocation verifies the revocation list that stands under key.
func (v *Validator) OpenRevocation(key string, value []byte) (*membership.RevocationList, error) {
	if key != RevocationKey(v.Overlay.ID) {
		return nil, fmt.Errorf("revocation list: %w", ErrWrongKey)
	}
	if len(value) < 2 || value[0] != kindRevocation {
		return nil, fmt.Errorf("revocation list: %w", ErrNonCanonical)
	}
	if value[1] != version {
		return nil, fmt.Errorf("revocation list: %w (version %d)", ErrVersion, value[1])
	}
	return membership.OpenRevocationList(value[2:], v.Overlay)
}

func checkTimes(what string, issued, expires time.Time, seq uint64, longest time.Duration, now time.Time) error {
	if life := expires.Sub(issued); life <= 0 || life > longest {
		return fmt.Errorf("%s: %w: %v", what, ErrLifetime, life)
	}
	if err := membership.CheckTimes(what, issued, expires, now); err != nil {
		return err
	}
	if latest := now.Add(membership.Tolerance).UnixMilli(); latest < 0 || seq > uint64(latest) {
		return fmt.Errorf("%s: %w", what, ErrFuture)
	}
	return nil
}

// Validate implements record.Validator: nil if value may stand under key.
func (v *Validator) Validate(key string, value []byte) error {
	_, err := v.open(key, value)
	return err
}

// open returns where the value stands in the order of those under its key.
func (v *Validator) open(key string, value []byte) (rank, error) {
	if !isKey(key) {
		return rank{}, fmt.Errorf("%w: not a key of %q", ErrWrongKey, Namespace)
	}
	if len(value) == 0 {
		return rank{}, fmt.Errorf("record: %w: empty", ErrNonCanonical)
	}
	switch value[0] {
	case kindName:
		r, err := v.Open(key, value)
		if err != nil {
			return rank{}, err
		}
		return r.rank(), nil
	case kindContact:
		c, err := v.OpenContact(key, value)
		if err != nil {
			return rank{}, err
		}
		return rank{seq: c.Seq, value: value}, nil
	case kindUser:
		u, err := v.OpenUser(key, value)
		if err != nil {
			return rank{}, err
		}
		return rank{seq: u.Seq, value: value}, nil
	case kindRevocation:
		l, err := v.OpenRevocation(key, value)
		if err != nil {
			return rank{}, err
		}
		return rank{list: l, value: value}, nil
	}
	return rank{}, fmt.Errorf("record: %w: kind %#x", ErrNonCanonical, value[0])
}

// Select implements record.Validator: the index of the value that counts. It
// does not rely on Validate: what is not valid (now) does not count, and if
// nothing is, that is ErrNoRecord.
func (v *Validator) Select(key string, values [][]byte) (int, error) {
	best, top := -1, rank{}
	var last error
	for i, value := range values {
		r, err := v.open(key, value)
		if err != nil {
			last = err
			continue
		}
		if best < 0 || r.compare(top) > 0 {
			best, top = i, r
		}
	}
	if best < 0 {
		return 0, fmt.Errorf("%w among %d: %v", ErrNoRecord, len(values), last)
	}
	return best, nil
}

// SelectName is Select for a reader: the verified name record that counts.
// Values may come from different keys of the label.
func (v *Validator) SelectName(label string, values [][]byte) (*Record, error) {
	var best *Record
	var last error
	key := Key(v.Overlay.ID, label, 0)
	for _, value := range values {
		r, err := v.Open(key, value)
		if err != nil {
			last = err
			continue
		}
		if best == nil || r.rank().compare(best.rank()) > 0 {
			best = r
		}
	}
	if best == nil {
		return nil, fmt.Errorf("%w of %q among %d: %v", ErrNoRecord, label, len(values), last)
	}
	return best, nil
}
