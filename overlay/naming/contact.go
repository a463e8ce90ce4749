package naming

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/membership/canon"
)

// ContactRecord says where a peer is reached (DESIGN §14.5). Peer comes from
// Chain; Sign fills it.
type ContactRecord struct {
	Peer    peerid.ID
	Seq     uint64 // as in Record
	Issued  time.Time
	Expires time.Time // ≤MaxContactLife after Issued
	Contact Contact
	Addrs   []string // ≤MaxAddrs multiaddrs of the peer, without its ID
	Chain   []byte

	member *membership.Member
}

// Member returns the verified membership of the record's peer; nil if the
// record did not come from a Validator.
func (c *ContactRecord) Member() *membership.Member { return c.member }

// appendBody appends what is signed.
//
//	'C' | version 1 | seq uvarint | issued uvarint | expires uvarint | contact |
//	addresses 1 | { length 1 | multiaddr } ... | chain length 2 | chain
func (c *ContactRecord) appendBody(b []byte) ([]byte, error) {
	b = append(b, kindContact, version)
	b = binary.AppendUvarint(b, c.Seq)
	b = membership.AppendTime(b, c.Issued)
	b = membership.AppendTime(b, c.Expires)
	b = c.Contact.append(b)
	b = append(b, byte(len(c.Addrs)))
	for _, s := range c.Addrs {
		m, err := ma.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", s, err)
		}
		if len(m.Bytes()) > 0xff {
			return nil, fmt.Errorf("address %q: %w", s, ErrTooLarge)
		}
		b = canon.AppendShort(b, m.Bytes())
	}
	return canon.AppendLong(b, c.Chain), nil
}

// Sign returns the value to put, signed by the peer that c.Chain makes a
// member of the overlay. It fills c.Peer and cuts times to seconds.
func (c *ContactRecord) Sign(key ed25519.PrivateKey, o membership.Overlay) ([]byte, error) {
	if err := c.Contact.check(); err != nil {
		return nil, err
	}
	if len(c.Addrs) > MaxAddrs {
		return nil, fmt.Errorf("%w: %d addresses", ErrTooLarge, len(c.Addrs))
	}
	c.Issued, c.Expires = seconds(c.Issued), seconds(c.Expires)
	peer, err := leaf(c.Chain)
	if err != nil {
		return nil, err
	}
	body, err := c.appendBody(nil)
	if err != nil {
		return nil, err
	}
	value, err := sign(key, peer, o, contactStatement, body)
	if err != nil {
		return nil, err
	}
	if _, err := ParseContact(value); err != nil {
		return nil, err
	}
	c.Peer = peer
	return value, nil
}

// ParseContact reads the form of a contact record; nothing of it is verified.
// value is borrowed.
func ParseContact(value []byte) (*ContactRecord, error) {
	rd, err := header(value, kindContact)
	if err != nil {
		return nil, err
	}
	c := &ContactRecord{Seq: rd.Uvarint(), Issued: membership.ReadTime(rd), Expires: membership.ReadTime(rd)}
	c.Contact = readContact(rd)
	n := int(rd.Byte())
	if n > MaxAddrs {
		rd.Fail("%d addresses", n)
	}
	for i := 0; rd.Err() == nil && i < n; i++ {
		m, err := ma.NewMultiaddrBytes(rd.Short())
		if err != nil {
			rd.Fail("address: %v", err)
			break
		}
		c.Addrs = append(c.Addrs, m.String())
	}
	c.Chain = bytes.Clone(rd.Long())
	rd.Bytes(canon.SignatureSize)
	if err := rd.End(); err != nil {
		return nil, fmt.Errorf("contact record: %w", err)
	}
	again, err := c.appendBody(make([]byte, 0, len(value)))
	if err != nil || !bytes.Equal(again, value[:len(value)-canon.SignatureSize]) {
		return nil, fmt.Errorf("contact record: %w", ErrNonCanonical)
	}
	if c.Peer, err = leaf(c.Chain); err != nil {
		return nil, err
	}
	return c, nil
}
