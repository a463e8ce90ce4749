package shim

import "encoding/binary"

// A fragment rides as next header 44 with the fragment header of RFC 8200
// §4.5, for IPv4 LSIs too (DESIGN §6):
//
//	+-------------+-------------+---------------------+-----+-+
//	| next header |  reserved   | offset, 8-byte units| res |M|
//	+-------------+-------------+---------------------+-----+-+
//	|                    identification                       |
//	+---------------------------------------------------------+
//
// IPv4's identification is the low 16 bits (RFC 791 §3.2, RFC 7915 §4.1).

// fragmentOf4 translates the fields of an IPv4 header of a fragment.
func fragmentOf4(ip []byte) (h [fragmentLen]byte) {
	ff := binary.BigEndian.Uint16(ip[6:])
	h[0] = ip[9]
	binary.BigEndian.PutUint16(h[2:], ff<<3|ff>>13&1)
	copy(h[6:], ip[4:6])
	return h
}

// fragment is the header of a fragment that came in.
type fragment struct {
	next byte
	id   uint32
	off  uint16 // offset in bytes
	more bool
}

// parseFragment reads and checks the fragment header at the front of b, the
// plaintext after its next header byte. TCP is segmented to fit and never
// fragmented, so a fragment of it is somebody's try to pass a filter.
func parseFragment(b []byte, v6 bool) (f fragment, rest []byte, ok bool) {
	if len(b) < fragmentLen {
		return f, nil, false
	}
	ff := binary.BigEndian.Uint16(b[2:])
	f = fragment{next: b[0], id: binary.BigEndian.Uint32(b[4:]), off: ff &^ 7, more: ff&1 != 0}
	rest = b[fragmentLen:]
	switch f.next {
	case protoUDP:
	case protoICMP:
		ok = !v6
	case protoICMPv6:
		ok = v6
	}
	ok = ok || f.next == protoUDP
	limit := 65535 // of a payload, and of a whole IPv4 packet
	if !v6 {
		limit -= ipv4Len
	}
	if !ok || len(rest) == 0 || f.more && len(rest)%8 != 0 || int(f.off)+len(rest) > limit {
		return f, nil, false
	}
	if f.off == 0 && len(rest) < udpLen { // both headers have 8 bytes
		return f, nil, false
	}
	return f, rest, true
}
