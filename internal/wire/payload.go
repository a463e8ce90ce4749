package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/idloc/idloc/internal/peerid"
)

// Kind tells the two payloads of the handshake apart.
type Kind uint8

// The kinds of Payload.
const (
	Offer  Kind = 1
	Answer Kind = 2
)

// AEADs is a set of data AEADs, as the offer lists and the answer chooses
// them, and whether the sender has AES in hardware.
type AEADs uint8

// The members of AEADs.
const (
	AES256GCM        AEADs = 0x01
	ChaCha20Poly1305 AEADs = 0x02
	HasAES           AEADs = 0x80
)

// Limits of a Payload, in bytes unless said otherwise.
const (
	MaxCandidates = 16   // how many
	MaxRelays     = 2    // how many
	MaxChain      = 1024 // of a membership; none is longer
	EncapKeyLen   = 1184 // ML-KEM-768 encapsulation key, FIPS 203 table 3
	EncapCtLen    = 1088 // ML-KEM-768 ciphertext
)

// The encapsulations (draft §4.3).
const (
	OuterUDP uint8 = 0
	Null     uint8 = 1
)

// Payload is what an offer or an answer says inside its Noise message. It is
// a plain value; use it from one goroutine.
type Payload struct {
	Kind          Kind
	Session       [16]byte
	Timestamp     uint64 // µs
	Start         uint64 // start number of the sender's process
	Index         uint32 // receiver index of the sender
	MTU           uint16
	Encapsulation uint8
	AEADs         AEADs
	Ufrag, Pwd    string // as ValidCredentials wants them; both empty: no checks
	Relays        []peerid.ID
	Candidates    []Candidate
	KEM           []byte // encapsulation key or ciphertext
	Chain         []byte
	Flow          Flow // with Null only
}

// Check says which field of p, if any, cannot be sent.
func (p *Payload) Check() error {
	bad := func(field string) error { return fmt.Errorf("%w: %s", ErrInvalid, field) }
	switch p.Kind {
	case Offer:
		if p.AEADs&(AES256GCM|ChaCha20Poly1305) == 0 || p.AEADs&^(AES256GCM|ChaCha20Poly1305|HasAES) != 0 {
			return bad("AEADs")
		}
		if len(p.KEM) != EncapKeyLen {
			return bad("ML-KEM key")
		}
	case Answer:
		if p.AEADs != AES256GCM && p.AEADs != ChaCha20Poly1305 {
			return bad("AEADs")
		}
		if len(p.KEM) != EncapCtLen {
			return bad("ML-KEM ciphertext")
		}
	default:
		return bad("payload kind")
	}
	switch {
	case p.Index == 0 || p.Index > MaxIndex:
		return bad("receiver index")
	case p.MTU != 0 && p.MTU < BaseMTU:
		return bad("MTU")
	case p.Encapsulation > Null:
		return bad("encapsulation")
	case (p.Encapsulation == Null) != (p.Flow != Flow{}), p.Flow != Flow{} && !p.Flow.valid():
		return bad("flow")
	case p.Ufrag+p.Pwd != "" && !ValidCredentials(p.Ufrag, p.Pwd):
		return bad("ICE credentials")
	case len(p.Relays) > MaxRelays:
		return bad("relays")
	case len(p.Candidates) > MaxCandidates:
		return bad("candidates")
	case len(p.Chain) > MaxChain:
		return bad("membership chain")
	}
	for _, c := range p.Candidates {
		if !c.valid() {
			return bad("candidate")
		}
	}
	return nil
}

// Append appends p. What Check refuses gives bytes that ParsePayload refuses.
func (p *Payload) Append(b []byte) []byte {
	b = append(b, byte(p.Kind))
	b = append(b, p.Session[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Timestamp)
	b = binary.BigEndian.AppendUint64(b, p.Start)
	b = appendUint24(b, p.Index)
	b = binary.BigEndian.AppendUint16(b, p.MTU)
	b = append(b, p.Encapsulation, byte(p.AEADs))
	b = append(append(b, byte(len(p.Ufrag))), p.Ufrag...)
	b = append(append(b, byte(len(p.Pwd))), p.Pwd...)
	b = append(b, byte(len(p.Relays)))
	for _, r := range p.Relays {
		b = append(b, r[:]...)
	}
	b = append(b, byte(len(p.Candidates)))
	for _, c := range p.Candidates {
		b = c.Append(b)
	}
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(p.KEM))), p.KEM...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(p.Chain))), p.Chain...)
	if p.Encapsulation == Null {
		b = p.Flow.Append(b)
	}
	return b
}

// ParsePayload reads a payload that fills b. KEM and Chain alias b.
func ParsePayload(b []byte) (*Payload, error) {
	c := cursor{b: b}
	p := &Payload{Kind: Kind(c.uint8("payload kind"))}
	copy(p.Session[:], c.take(len(p.Session), "session ID"))
	p.Timestamp = c.uint64("timestamp")
	p.Start = c.uint64("start number")
	p.Index = c.uint24("receiver index")
	p.MTU = c.uint16("MTU")
	p.Encapsulation = c.uint8("encapsulation")
	p.AEADs = AEADs(c.uint8("AEADs"))
	p.Ufrag = string(c.bytes8(UfragLen, "ufrag"))
	p.Pwd = string(c.bytes8(PwdLen, "password"))
	for n := c.count(MaxRelays, "relays"); n > 0 && c.err == nil; n-- {
		if v := c.take(peerid.Size, "relay"); v != nil {
			p.Relays = append(p.Relays, peerid.ID(v))
		}
	}
	for n := c.count(MaxCandidates, "candidates"); n > 0 && c.err == nil; n-- {
		p.Candidates = append(p.Candidates, c.candidate())
	}
	p.KEM = c.bytes16(EncapKeyLen, "ML-KEM")
	p.Chain = c.bytes16(MaxChain, "membership chain")
	if p.Encapsulation == Null {
		p.Flow = c.flow()
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	return p, nil
}

// count reads a number of elements, at most limit.
func (c *cursor) count(limit int, field string) int {
	n := int(c.uint8(field))
	if n > limit {
		c.fail(ErrInvalid, field)
		return 0
	}
	return n
}
