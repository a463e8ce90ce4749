package wire

import (
	"encoding/binary"
	"fmt"
)

// Rekey is the payload of both Noise messages of an in-pipe rekey, laid out in the
// package doc. Its numbers count the rekeys of a session from 1.
type Rekey struct {
	Kind   Kind
	Number uint32
	Index  uint32
	KEM    []byte // aliases what was parsed
}

// Append appends r.
func (r Rekey) Append(b []byte) []byte {
	b = append(b, byte(r.Kind))
	b = binary.BigEndian.AppendUint32(b, r.Number)
	b = appendUint24(b, r.Index)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(r.KEM))), r.KEM...)
}

// ParseRekey reads a rekey payload that fills b.
func ParseRekey(b []byte) (Rekey, error) {
	c := cursor{b: b}
	r := Rekey{
		Kind:   Kind(c.uint8("rekey kind")),
		Number: c.uint32("rekey number"),
		Index:  c.uint24("receiver index"),
		KEM:    c.bytes16(EncapKeyLen, "ML-KEM"),
	}
	if err := c.end(); err != nil {
		return Rekey{}, err
	}
	kem := len(r.KEM) == 0 || r.Kind == Offer && len(r.KEM) == EncapKeyLen || r.Kind == Answer && len(r.KEM) == EncapCtLen
	if r.Kind != Offer && r.Kind != Answer || r.Index == 0 || !kem {
		return Rekey{}, fmt.Errorf("%w: rekey", ErrInvalid)
	}
	return r, nil
}
