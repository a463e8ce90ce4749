package wire

import "encoding/binary"

// FragHeaderLen is the length of a fragment header.
const FragHeaderLen = 4

// FragUnit is the unit of a fragment's offset in bytes: all pieces but the
// last are multiples of it, as with IPv6 (RFC 8200 §4.5).
const FragUnit = 8

// MaxMessage is the longest plaintext that fragments can carry.
const MaxMessage = 1<<16 - 1

// FragKind says what a reassembled plaintext is.
type FragKind uint8

// The kinds of a reassembled plaintext.
const (
	FragData4 FragKind = 0
	FragData6 FragKind = 1
	FragCtrl  FragKind = 2
)

// Fragment is the head of a FRAG plaintext:
//
//	message ID (16) | kind (2) | offset (13, in units of 8 bytes) | more (1)
type Fragment struct {
	Message uint16
	Kind    FragKind
	Offset  int // bytes
	More    bool
}

// Append appends the 4 bytes of f; Offset must be a multiple of FragUnit
// below 64 KiB.
func (f Fragment) Append(b []byte) []byte {
	v := uint16(f.Kind)<<14 | uint16(f.Offset/FragUnit)<<1
	if f.More {
		v |= 1
	}
	b = binary.BigEndian.AppendUint16(b, f.Message)
	return binary.BigEndian.AppendUint16(b, v)
}

// ParseFragment reads the header of a FRAG plaintext and checks its piece:
// not empty, a multiple of FragUnit unless it is the last, and ending within
// MaxMessage. The piece aliases b.
func ParseFragment(b []byte) (f Fragment, piece []byte, ok bool) {
	if len(b) <= FragHeaderLen {
		return Fragment{}, nil, false
	}
	v := binary.BigEndian.Uint16(b[2:])
	f = Fragment{
		Message: binary.BigEndian.Uint16(b),
		Kind:    FragKind(v >> 14),
		Offset:  int(v>>1&(1<<13-1)) * FragUnit,
		More:    v&1 != 0,
	}
	piece = b[FragHeaderLen:]
	if f.Kind > FragCtrl || f.More && len(piece)%FragUnit != 0 || f.Offset+len(piece) > MaxMessage {
		return Fragment{}, nil, false
	}
	return f, piece, true
}
