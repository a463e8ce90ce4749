package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// CandidateType says how a candidate's address was learnt (RFC 8445 §5.1.1).
type CandidateType uint8

// The candidate types, with their values on the wire.
const (
	Host            CandidateType = 1
	ServerReflexive CandidateType = 2
	PeerReflexive   CandidateType = 3
	Relayed         CandidateType = 4
)

// String returns the type as SDP writes it (RFC 8839 §5.1).
func (t CandidateType) String() string {
	switch t {
	case Host:
		return "host"
	case ServerReflexive:
		return "srflx"
	case PeerReflexive:
		return "prflx"
	case Relayed:
		return "relay"
	}
	return fmt.Sprintf("CandidateType(%d)", uint8(t))
}

// TCPType says how a TCP candidate comes to a connection (RFC 6544 §4.5); zero
// is a UDP candidate.
type TCPType uint8

// The TCP types, with their values on the wire.
const (
	Active  TCPType = 1
	Passive TCPType = 2
	SimOpen TCPType = 3
)

// String returns the type as SDP writes it (RFC 6544 §4.5).
func (t TCPType) String() string {
	switch t {
	case Active:
		return "active"
	case Passive:
		return "passive"
	case SimOpen:
		return "so"
	}
	return fmt.Sprintf("TCPType(%d)", uint8(t))
}

const maxFoundation = 32 // RFC 8839 §5.1

// Candidate is a transport address at which a peer may be reached.
type Candidate struct {
	Type       CandidateType
	TCP        TCPType // zero: UDP
	Priority   uint32
	Foundation string // ≤32 bytes
	Addr       netip.AddrPort
	Related    netip.AddrPort // zero: none
}

// Append appends c, which must be valid.
func (c Candidate) Append(b []byte) []byte {
	b = append(b, byte(c.TCP)<<4|byte(c.Type))
	b = binary.BigEndian.AppendUint32(b, c.Priority)
	b = append(b, byte(len(c.Foundation)))
	b = append(b, c.Foundation...)
	b = appendAddr(b, c.Addr)
	return appendAddr(b, c.Related)
}

// valid says whether Append gives what parse accepts.
func (c Candidate) valid() bool {
	return c.Type >= Host && c.Type <= Relayed && c.TCP <= SimOpen && len(c.Foundation) <= maxFoundation &&
		c.Addr.IsValid() && plain(c.Addr) && plain(c.Related)
}

// plain says whether a has one form only on the wire: no zone, and no IPv4
// address dressed as IPv6.
func plain(a netip.AddrPort) bool {
	return a.Addr().Zone() == "" && !a.Addr().Is4In6() && (a.IsValid() || a == netip.AddrPort{})
}

// ParseCandidate reads one candidate from the front of b.
func ParseCandidate(b []byte) (c Candidate, rest []byte, err error) {
	cur := cursor{b: b}
	c = cur.candidate()
	if cur.err != nil {
		return Candidate{}, nil, cur.err
	}
	return c, cur.b, nil
}

func (cur *cursor) candidate() Candidate {
	kind := cur.uint8("candidate type")
	c := Candidate{
		Type:       CandidateType(kind & 15),
		TCP:        TCPType(kind >> 4),
		Priority:   cur.uint32("candidate priority"),
		Foundation: string(cur.bytes8(maxFoundation, "candidate foundation")),
		Addr:       cur.addr("candidate address"),
		Related:    cur.addr("candidate related address"),
	}
	if cur.err == nil && !c.valid() {
		cur.fail(ErrInvalid, "candidate")
	}
	return c
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	switch {
	case a.Addr().Is4():
		ip := a.Addr().As4()
		b = append(append(b, 4), ip[:]...)
	case a.Addr().Is6():
		ip := a.Addr().As16()
		b = append(append(b, 6), ip[:]...)
	default:
		return append(b, 0)
	}
	return binary.BigEndian.AppendUint16(b, a.Port())
}

func (cur *cursor) addr(field string) netip.AddrPort {
	var ip netip.Addr
	switch family := cur.uint8(field); family {
	case 0:
		return netip.AddrPort{}
	case 4:
		if v := cur.take(4, field); v != nil {
			ip = netip.AddrFrom4([4]byte(v))
		}
	case 6:
		if v := cur.take(16, field); v != nil {
			ip = netip.AddrFrom16([16]byte(v))
		}
	default:
		cur.fail(ErrInvalid, field)
	}
	port := cur.uint16(field)
	if cur.err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, port)
}
