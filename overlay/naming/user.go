package naming

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	// MaxUserLife bounds a user record's life: a phone that was switched off is called in
	// vain for no longer.
	MaxUserLife = time.Hour
	// UserSlots is at how many members one user name is at the same time.
	UserSlots = 4
	// MaxUserInfo bounds what a user record says besides, in bytes.
	MaxUserInfo = 128
	// UserTag and a user's name are the tag of the members that may say they have it.
	UserTag = "user-"

	maxService    = 16
	userStatement = "user"
)

// kindUser is the first byte of a user record.
const kindUser byte = 'U'

// ErrUser: a text that is no user's name, or a member that may not say it.
var ErrUser = errors.New("not this member's user name")

// CheckUser says whether s may be a user's name of a service, "sip:fred": a service, which
// is a letter and then letters and digits, at most 16, a colon, and a name. All of it is
// lower case; a name is as a tag is, and short enough for UserTag before it.
func CheckUser(s string) error {
	service, name, ok := strings.Cut(s, ":")
	if !ok || service == "" || len(service) > maxService || service[0] < 'a' || service[0] > 'z' ||
		strings.Trim(service, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return fmt.Errorf("%w: %q does not begin with a service, as sip:fred does", ErrUser, clip(s))
	}
	if _, err := membership.NewTags([]string{name, UserTag + name}); err != nil {
		return fmt.Errorf("%w: %q: only a-z, 0-9 and inner hyphens, and not as long", ErrUser, clip(s))
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), 80)] }

// MaySay says whether a member may say that it has a user's name, "sip:fred", nil if so:
// it has the tag user-fred, or the founder itself has given it the label "fred" by name,
// and confirmed it. A label that a delegate gave, or that the member chose, is not enough:
// then whoever comes first would be fred.
func (v *Validator) MaySay(m *membership.Member, user string) error {
	_, name, ok := strings.Cut(user, ":")
	named := m.Confirmed && !m.Wildcard && m.Delegate.IsZero() && m.Inviter.IsZero() && m.Label == name
	if ok && (named || slices.Contains(v.tags(m), UserTag+name)) {
		return nil
	}
	return fmt.Errorf("%w: %q is for members with the tag %s%s, and for one that the founder has named so", ErrUser, user, UserTag, name)
}

// UserRecord says that a user of a service is at a member. Peer comes from Chain; Sign
// fills it.
type UserRecord struct {
	User      string // "sip:fred"
	Slot      int    // below UserSlots: under which of the user's keys
	Peer      peerid.ID
	Seq       uint64    // as in Record
	Issued    time.Time // whole seconds
	Expires   time.Time // whole seconds, ≤MaxUserLife after Issued
	Tombstone bool      // the user is there no more
	Info      string    // ≤MaxUserInfo bytes, what the service wants to say
	Chain     []byte

	member *membership.Member
	value  []byte
}

// Member returns the verified membership of the record's peer; nil if the record did not
// come from a Validator.
func (u *UserRecord) Member() *membership.Member { return u.member }

// UserKey returns the key of a user's slot.
func UserKey(overlay [32]byte, user string, slot int) string {
	return key("idloc user 1\x00", overlay, append(canon.AppendShort(nil, user), byte(slot)))
}

// appendBody appends what is signed. The slot is in it: else anybody could put a record
// that is newer into the slot of another member, and so put that one's out.
//
//	'U' | version 1 | flags 1 (1: tombstone) | user length 1 | user | slot 1 | seq uvarint |
//	issued uvarint | expires uvarint | info length 1 | info | chain length 2 | chain
func (u *UserRecord) appendBody(b []byte) []byte {
	var flags byte
	if u.Tombstone {
		flags = 1
	}
	b = append(b, kindUser, version, flags)
	b = canon.AppendShort(b, u.User)
	b = append(b, byte(u.Slot))
	b = binary.AppendUvarint(b, u.Seq)
	b = membership.AppendTime(b, u.Issued)
	b = membership.AppendTime(b, u.Expires)
	b = canon.AppendShort(b, u.Info)
	return canon.AppendLong(b, u.Chain)
}

// check is what the form alone says.
func (u *UserRecord) check() error {
	if err := CheckUser(u.User); err != nil {
		return err
	}
	if u.Slot < 0 || u.Slot >= UserSlots || len(u.Info) > MaxUserInfo {
		return fmt.Errorf("user record: %w: slot %d, %d bytes", ErrTooLarge, u.Slot, len(u.Info))
	}
	return nil
}

// Sign returns the value to put, signed by the peer that u.Chain makes a member of the
// overlay. It fills u.Peer and cuts times to seconds.
func (u *UserRecord) Sign(key ed25519.PrivateKey, o membership.Overlay) ([]byte, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	u.Issued, u.Expires = seconds(u.Issued), seconds(u.Expires)
	peer, err := leaf(u.Chain)
	if err != nil {
		return nil, err
	}
	value, err := sign(key, peer, o, userStatement, u.appendBody(nil))
	if err != nil {
		return nil, err
	}
	if _, err := ParseUser(value); err != nil {
		return nil, err
	}
	u.Peer = peer
	return value, nil
}

// IsUser says whether a value claims to be a user record.
func IsUser(value []byte) bool { return len(value) > 0 && value[0] == kindUser }

// ParseUser reads the form of a user record; nothing of it is verified. value is borrowed.
func ParseUser(value []byte) (*UserRecord, error) {
	rd, err := header(value, kindUser)
	if err != nil {
		return nil, err
	}
	u := &UserRecord{}
	flags := rd.Byte()
	if flags > 1 {
		rd.Fail("flags %#x", flags)
	}
	u.Tombstone = flags == 1
	u.User, u.Slot, u.Seq = string(rd.Short()), int(rd.Byte()), rd.Uvarint()
	u.Issued, u.Expires = membership.ReadTime(rd), membership.ReadTime(rd)
	u.Info, u.Chain = string(rd.Short()), bytes.Clone(rd.Long())
	rd.Bytes(canon.SignatureSize)
	if err := rd.End(); err != nil {
		return nil, fmt.Errorf("user record: %w", err)
	}
	if err := u.check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(u.appendBody(make([]byte, 0, len(value))), value[:len(value)-canon.SignatureSize]) {
		return nil, fmt.Errorf("user record: %w", ErrNonCanonical)
	}
	if u.Peer, err = leaf(u.Chain); err != nil {
		return nil, err
	}
	u.value = bytes.Clone(value)
	return u, nil
}

// OpenUser verifies the user record that stands under key: among the rest, that its member
// may say the user's name now (MaySay). Tags that are taken away end what was said by them.
func (v *Validator) OpenUser(key string, value []byte) (*UserRecord, error) {
	u, err := ParseUser(value)
	if err != nil {
		return nil, err
	}
	if UserKey(v.Overlay.ID, u.User, u.Slot) != key {
		return nil, fmt.Errorf("user record of %q: %w", u.User, ErrWrongKey)
	}
	now := v.now()
	if err := checkTimes("user record", u.Issued, u.Expires, u.Seq, MaxUserLife, now); err != nil {
		return nil, err
	}
	m, err := v.Member(u.Chain, now)
	if err != nil {
		return nil, fmt.Errorf("user record of %q: %w", u.User, err)
	}
	if err := v.verify(m, userStatement, value); err != nil {
		return nil, fmt.Errorf("user record of %q: %w", u.User, err)
	}
	if err := v.MaySay(m, u.User); err != nil {
		return nil, fmt.Errorf("user record of %v: %w", m.Peer, err)
	}
	u.member = m
	return u, nil
}

// tags are those that a member has.
func (v *Validator) tags(m *membership.Member) []string {
	if v.Tags == nil {
		return m.Tags.Words()
	}
	return v.Tags(m)
}
