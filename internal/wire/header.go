package wire

import "encoding/binary"

// The types of a pipe datagram, its first byte (DESIGN §6, §14.3). All lie in
// 0x80–0xBF, which neither STUN (RFC 7983) nor QUIC (RFC 9443) uses.
const (
	TypeData4 = 0x80 // DATA over IPv4 LSIs
	TypeData6 = 0x81 // DATA over IPv6 LSIs
	TypeCtrl  = 0x82 // control frames
	TypeFrag  = 0x83 // a piece of a DATA or CTRL plaintext
	TypeRelay = 0x84 // a datagram of another pipe, to or from a relay
)

// The channel at the head of a RELAY plaintext (DESIGN §14.4). The top bit says
// who sends: the relay, or one of the two that it relays for. Without it two
// peers that relay for each other could not tell.
const (
	RelayHeaderLen = 2
	FromRelay      = 0x8000 // set by the relay
	MaxChannel     = 0x7fff

	// RelayOverhead is what a relayed datagram costs on a hop.
	RelayOverhead = HeaderLen + RelayHeaderLen + TagLen
)

// Sizes in bytes of what surrounds a transport segment in a datagram.
const (
	HeaderLen  = 8
	TagLen     = 16
	Overhead   = HeaderLen + 1 + TagLen // the next header byte included
	MinDataLen = Overhead               // a DATA datagram with an empty segment
	MinLen     = HeaderLen + TagLen + 1 // no plaintext is empty
	MaxIndex   = 1<<24 - 1
	BaseMTU    = 1200 // UDP payload that every path is assumed to take
)

// Header is the clear part of a datagram, the AEAD's associated data.
type Header struct {
	Type    uint8
	Index   uint32 // the receiver's, 24 bit
	Counter uint32
}

// Append appends the 8 bytes of h.
func (h Header) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(h.Type)<<24|h.Index&MaxIndex)
	return binary.BigEndian.AppendUint32(b, h.Counter)
}

// Put writes h to the front of b, which must hold HeaderLen bytes. It is
// Append for the data path.
func (h Header) Put(b []byte) {
	_ = b[HeaderLen-1]
	binary.BigEndian.PutUint32(b, uint32(h.Type)<<24|h.Index&MaxIndex)
	binary.BigEndian.PutUint32(b[4:], h.Counter)
}

// ParseHeader reads the header of a datagram and says whether b can be one:
// a type in use and room for a tag and one byte of plaintext. The rest is
// what follows the header, aliasing b.
func ParseHeader(b []byte) (h Header, rest []byte, ok bool) {
	if len(b) < MinLen {
		return Header{}, nil, false
	}
	h = Header{
		Type:    b[0],
		Index:   uint24(b[1:4]),
		Counter: binary.BigEndian.Uint32(b[4:8]),
	}
	if h.Type < TypeData4 || h.Type > TypeRelay {
		return Header{}, nil, false
	}
	return h, b[HeaderLen:], true
}
