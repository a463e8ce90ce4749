package naming

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	// MaxRecord bounds a name or contact record in bytes.
	MaxRecord = 2048
	// MaxLife bounds a name record's life.
	MaxLife = 4 * time.Hour
	// MaxContactLife bounds a contact record's life.
	MaxContactLife = time.Hour
	// MaxMembers bounds the connected members that a contact names.
	MaxMembers = 3
	// MaxRelays bounds the relays that a contact names.
	MaxRelays = 2
	// MaxAddrs bounds the addresses in a contact record.
	MaxAddrs = 8

	nameStatement    = "name"
	contactStatement = "contact"
)

// The first byte of a value says what it is, the second which version.
const (
	kindName       byte = 'N'
	kindContact    byte = 'C'
	kindRevocation byte = 'R'

	version = 1
)

// What can be wrong with a record beyond its chain (membership's errors).
var (
	ErrTooLarge     = membership.ErrTooLarge
	ErrNonCanonical = membership.ErrNonCanonical
	ErrSignature    = membership.ErrSignature
	ErrVersion      = membership.ErrVersion
	ErrExpired      = membership.ErrExpired
	ErrNotYetValid  = membership.ErrNotYetValid
	ErrLifetime     = membership.ErrLifetime
	ErrLabel        = membership.ErrLabel

	ErrWrongKey = errors.New("record is not for this key")
	ErrFuture   = errors.New("sequence number from the future")
	ErrNoRecord = errors.New("no valid record")
)

// Contact says through whom a peer is reached: a hint, which lies at worst
// about its own peer.
type Contact struct {
	Members []peerid.ID // ≤MaxMembers it is connected to
	Relays  []peerid.ID // ≤MaxRelays it keeps a pipe to
}

// Record says that a peer has a label. Peer comes from Chain; Sign fills it.
type Record struct {
	Label     string
	Peer      peerid.ID
	Seq       uint64    // orders the records of one peer; milliseconds since 1970
	Issued    time.Time // whole seconds
	Expires   time.Time // whole seconds, ≤MaxLife after Issued
	Tombstone bool      // the peer gives the label up
	Contact   Contact
	Chain     []byte

	member   *membership.Member
	standing standing
	value    []byte
}

// Member returns the verified membership of the record's peer; nil if the
// record did not come from a Validator.
func (r *Record) Member() *membership.Member { return r.member }

// Seq returns the sequence number for a record signed now: the time in
// milliseconds, and more than the last one used, which the caller remembers
// (0: none), so that a clock that was set back does not stop a peer.
func Seq(now time.Time, last uint64) uint64 {
	return max(uint64(max(0, now.UnixMilli())), last+1)
}

// appendBody appends what is signed.
//
//	'N' | version 1 | flags 1 (1: tombstone) | label length 1 | label | seq uvarint |
//	issued uvarint | expires uvarint | contact | chain length 2 | chain
func (r *Record) appendBody(b []byte) []byte {
	var flags byte
	if r.Tombstone {
		flags = 1
	}
	b = append(b, kindName, version, flags)
	b = canon.AppendShort(b, r.Label)
	b = binary.AppendUvarint(b, r.Seq)
	b = membership.AppendTime(b, r.Issued)
	b = membership.AppendTime(b, r.Expires)
	b = r.Contact.append(b)
	return canon.AppendLong(b, r.Chain)
}

// append: members 1 | relays 1 | peer ID 32 ...
func (c *Contact) append(b []byte) []byte {
	b = append(b, byte(len(c.Members)), byte(len(c.Relays)))
	for _, ids := range [][]peerid.ID{c.Members, c.Relays} {
		for _, id := range ids {
			b = append(b, id[:]...)
		}
	}
	return b
}

func readContact(r *canon.Reader) (c Contact) {
	members, relays := int(r.Byte()), int(r.Byte())
	if members > MaxMembers || relays > MaxRelays {
		r.Fail("%d members and %d relays", members, relays)
		return c
	}
	for range members {
		c.Members = append(c.Members, r.Key())
	}
	for range relays {
		c.Relays = append(c.Relays, r.Key())
	}
	return c
}

func (c *Contact) check() error {
	if len(c.Members) > MaxMembers || len(c.Relays) > MaxRelays {
		return fmt.Errorf("%w: %d members and %d relays", ErrTooLarge, len(c.Members), len(c.Relays))
	}
	return nil
}

// Sign returns the value to put, signed by the peer that r.Chain makes a
// member of the overlay. It fills r.Peer and cuts times to seconds.
func (r *Record) Sign(key ed25519.PrivateKey, o membership.Overlay) ([]byte, error) {
	if err := membership.CheckLabel(r.Label); err != nil {
		return nil, err
	}
	if err := r.Contact.check(); err != nil {
		return nil, err
	}
	r.Issued, r.Expires = seconds(r.Issued), seconds(r.Expires)
	peer, err := leaf(r.Chain)
	if err != nil {
		return nil, err
	}
	value, err := sign(key, peer, o, nameStatement, r.appendBody(nil))
	if err != nil {
		return nil, err
	}
	if _, err := Parse(value); err != nil {
		return nil, err // never put what nobody would take
	}
	r.Peer = peer
	return value, nil
}

func seconds(t time.Time) time.Time { return t.Truncate(time.Second).UTC() }

// sign appends the signature to the body.
func sign(key ed25519.PrivateKey, peer peerid.ID, o membership.Overlay, statement string, body []byte) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize || !bytes.Equal(key[ed25519.SeedSize:], peer[:]) {
		return nil, fmt.Errorf("%w: the chain is another peer's", ErrSignature)
	}
	if n := len(body) + canon.SignatureSize; n > MaxRecord {
		return nil, fmt.Errorf("record: %w: %d bytes", ErrTooLarge, n)
	}
	sig, err := canon.Sign(key, membership.StatementDomain(statement, o.ID), body)
	if err != nil {
		return nil, err
	}
	return append(body, sig...), nil
}

// leaf returns the peer that a chain is about, unverified.
func leaf(chain []byte) (peerid.ID, error) {
	certs, err := membership.Certificates(chain)
	if err != nil {
		return peerid.ID{}, err
	}
	last := certs[len(certs)-1]
	if last.Kind != membership.KindMember {
		return peerid.ID{}, fmt.Errorf("%w: it ends in a %v", membership.ErrIncomplete, last.Kind)
	}
	return last.Subject.Peer(), nil
}

// Origin returns whose a value is, a name, contact or user record that was verified,
// and to whom, besides that member, it is charged. ok is false for other values.
func Origin(value []byte) (peer peerid.ID, charged account.Account, ok bool) {
	var chain []byte
	if len(value) == 0 {
		return peer, charged, false
	}
	switch value[0] {
	case kindName:
		if r, err := Parse(value); err == nil {
			chain = r.Chain
		}
	case kindContact:
		if c, err := ParseContact(value); err == nil {
			chain = c.Chain
		}
	case kindUser:
		if u, err := ParseUser(value); err == nil {
			chain = u.Chain
		}
	}
	m, err := membership.Claimed(chain)
	if err != nil {
		return peer, charged, false
	}
	return m.Peer, m.Account(), true
}

// header takes kind and version.
func header(value []byte, kind byte) (*canon.Reader, error) {
	if len(value) > MaxRecord {
		return nil, fmt.Errorf("record: %w: %d bytes", ErrTooLarge, len(value))
	}
	r := canon.NewReader(value)
	if k := r.Byte(); k != kind {
		r.Fail("kind %#x", k)
	}
	if v := r.Byte(); r.Err() == nil && v != version {
		return nil, fmt.Errorf("record: %w (version %d)", ErrVersion, v)
	}
	return r, r.Err()
}

// Parse reads the form of a name record; nothing of it is verified. value is
// borrowed.
func Parse(value []byte) (*Record, error) {
	rd, err := header(value, kindName)
	if err != nil {
		return nil, err
	}
	r := &Record{}
	flags := rd.Byte()
	if flags > 1 {
		rd.Fail("flags %#x", flags)
	}
	r.Tombstone = flags == 1
	r.Label = string(rd.Short())
	r.Seq = rd.Uvarint()
	r.Issued, r.Expires = membership.ReadTime(rd), membership.ReadTime(rd)
	r.Contact = readContact(rd)
	r.Chain = bytes.Clone(rd.Long())
	rd.Bytes(canon.SignatureSize)
	if err := rd.End(); err != nil {
		return nil, fmt.Errorf("name record: %w", err)
	}
	if !bytes.Equal(r.appendBody(make([]byte, 0, len(value))), value[:len(value)-canon.SignatureSize]) {
		return nil, fmt.Errorf("name record: %w", ErrNonCanonical)
	}
	if err := membership.CheckLabel(r.Label); err != nil {
		return nil, err
	}
	if r.Peer, err = leaf(r.Chain); err != nil {
		return nil, err
	}
	r.value = bytes.Clone(value)
	return r, nil
}
