package stun

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/pion/stun/v2"
)

const (
	headerLen = 20
	cookie    = 0x2112A442
)

// A TransactionID is what a response repeats of its request.
type TransactionID = [stun.TransactionIDSize]byte

// Kind is what a datagram is to whoever receives it.
type Kind uint8

const (
	Other    Kind = iota // no Binding message of RFC 8489, or a damaged one
	Request              // a Binding request
	Response             // a Binding success or error response
)

// Classify reads the fixed header of a STUN message (RFC 8489 §5) and its
// fingerprint, if it has one. A connectivity check must have one (RFC 8445 §7):
// a message is Other if that is missing there, or wrong anywhere. b is borrowed.
func Classify(b []byte) (Kind, TransactionID) {
	var id TransactionID
	if len(b) < headerLen || binary.BigEndian.Uint32(b[4:]) != cookie ||
		int(binary.BigEndian.Uint16(b[2:]))+headerLen != len(b) || len(b)%4 != 0 {
		return Other, id
	}
	marked, right := fingerprint(b)
	if marked && !right {
		return Other, id
	}
	copy(id[:], b[8:])
	switch binary.BigEndian.Uint16(b) {
	case 0x0001:
		if !marked && Username(b) != nil {
			return Other, id
		}
		return Request, id
	case 0x0101, 0x0111:
		return Response, id
	}
	return Other, id
}

// fingerprint says whether the last attribute is a FINGERPRINT, and the right
// one (RFC 8489 §14.7).
func fingerprint(b []byte) (marked, right bool) {
	const size = 8
	if len(b) < headerLen+size {
		return false, false
	}
	at := len(b) - size
	if binary.BigEndian.Uint32(b[at:]) != uint32(stun.AttrFingerprint)<<16|4 {
		return false, false
	}
	return true, binary.BigEndian.Uint32(b[at+4:]) == crc32.ChecksumIEEE(b[:at])^0x5354554e
}

// Username returns the part of USERNAME before the colon, the receiver's
// fragment (RFC 8445 §7.2.2), of a message that Classify has accepted. It is nil
// if there is none. The result aliases b.
func Username(b []byte) []byte {
	for a := b[headerLen:]; len(a) >= 4; {
		kind, n := binary.BigEndian.Uint16(a), int(binary.BigEndian.Uint16(a[2:]))
		if n > len(a)-4 {
			return nil
		}
		if kind == uint16(stun.AttrUsername) {
			name, _, _ := bytes.Cut(a[4:4+n], []byte{':'})
			return name
		}
		a = a[min(len(a), 4+(n+3)&^3):]
	}
	return nil
}
