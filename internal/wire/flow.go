package wire

import "encoding/binary"

// FlowKind says what an offer for a null flow asks for, and in an answer what
// became of it.
type FlowKind uint8

// The kinds of Flow.
const (
	FlowOpen   FlowKind = 1 // offer: a flow that is new; answer: so be it
	FlowResume FlowKind = 2 // offer: a flow that lost its real addresses; answer: so be it

	FlowForbidden FlowKind = 16 // answer: the peer's policy is against it
	FlowRefused   FlowKind = 17 // answer: nobody listens there, or admission was refused
	FlowUnknown   FlowKind = 18 // answer: no such flow (any more)
	FlowNoWay     FlowKind = 19 // answer: no real address to offer
)

// Transport protocols of a flow, their IANA numbers.
const (
	FlowTCP uint8 = 6
	FlowUDP uint8 = 17
)

// The policies for null encapsulation, from the strictest to the laxest.
const (
	PolicyRefuse uint8 = 0
	PolicyTLS    uint8 = 1
	PolicyPlain  uint8 = 2
)

const (
	flowV6     = 0x01
	flowEnded  = 0x02
	flowClosed = 0x04
)

// Flow is the part of an offer or answer that is about one 5-tuple with null
// encapsulation (draft §4.3). The addresses of the 5-tuple are those of the
// two peers, which each names by its own LSIs. It is a plain value.
type Flow struct {
	Kind     FlowKind
	Protocol uint8
	V6       bool  // between the peers' IPv6 LSIs
	Policy   uint8 // the sender's
	ID       [16]byte
	Epoch    uint32 // rises with each offer about a flow, whoever makes it
	// Ports of the peer that has opened the flow, and of the other.
	OpenerPort, ListenerPort uint16

	// Of TCP: what null.Report has.
	Taken  uint64
	Ended  bool
	Closed bool
	End    uint64 // 0 if not Closed
	Unread uint32
}

func (f *Flow) valid() bool {
	switch f.Kind {
	case FlowOpen, FlowResume, FlowForbidden, FlowRefused, FlowUnknown, FlowNoWay:
	default:
		return false
	}
	return (f.Protocol == FlowTCP || f.Protocol == FlowUDP) && f.Policy <= PolicyPlain && (f.Closed || f.End == 0)
}

// Append appends f, which must be valid.
func (f *Flow) Append(b []byte) []byte {
	b = append(b, byte(f.Kind), f.Protocol, f.Policy)
	var flags byte
	if f.V6 {
		flags |= flowV6
	}
	if f.Ended {
		flags |= flowEnded
	}
	if f.Closed {
		flags |= flowClosed
	}
	b = append(b, flags)
	b = append(b, f.ID[:]...)
	b = binary.BigEndian.AppendUint32(b, f.Epoch)
	b = binary.BigEndian.AppendUint16(b, f.OpenerPort)
	b = binary.BigEndian.AppendUint16(b, f.ListenerPort)
	b = binary.BigEndian.AppendUint64(b, f.Taken)
	b = binary.BigEndian.AppendUint64(b, f.End)
	return binary.BigEndian.AppendUint32(b, f.Unread)
}

func (c *cursor) flow() Flow {
	f := Flow{Kind: FlowKind(c.uint8("flow kind")), Protocol: c.uint8("flow protocol"), Policy: c.uint8("flow policy")}
	flags := c.uint8("flow flags")
	if flags&^(flowV6|flowEnded|flowClosed) != 0 {
		c.fail(ErrInvalid, "flow flags")
	}
	f.V6, f.Ended, f.Closed = flags&flowV6 != 0, flags&flowEnded != 0, flags&flowClosed != 0
	copy(f.ID[:], c.take(len(f.ID), "flow ID"))
	f.Epoch = c.uint32("flow epoch")
	f.OpenerPort, f.ListenerPort = c.uint16("flow port"), c.uint16("flow port")
	f.Taken, f.End = c.uint64("flow count"), c.uint64("flow end")
	f.Unread = c.uint32("flow buffer")
	if c.err == nil && !f.valid() {
		c.fail(ErrInvalid, "flow")
	}
	return f
}
