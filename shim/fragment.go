package shim

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/idloc/idloc/internal/inner"
)

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
//
// A fragment's checksum can be made anew by nobody who does not have all of
// them. So the checksum in a first fragment travels without the addresses of
// the pseudo-header: the sender takes its own LSIs out of the sum, and the
// receiver puts its own in.
//
// Of ICMP only echo may be fragmented: what an error quotes is translated, and
// for that it must be whole.

// fragmentOf4 translates the fields of an IPv4 header of a fragment.
func fragmentOf4(ip []byte) (h [inner.FragmentLen]byte) {
	ff := binary.BigEndian.Uint16(ip[6:])
	h[0] = ip[9]
	binary.BigEndian.PutUint16(h[2:], ff<<3|ff>>13&1)
	copy(h[6:], ip[4:6])
	return h
}

// fragment is the header of a fragment that came in.
type fragment struct {
	next byte // the protocol of the whole packet
	id   uint32
	off  uint16 // offset in bytes
	more bool
}

// parseFragment reads and checks the fragment header at the front of b, the
// plaintext after its next header byte. TCP is segmented to fit and never
// fragmented, so a fragment of it is somebody's try to pass a filter.
func parseFragment(b []byte, v6 bool) (f fragment, rest []byte, ok bool) {
	if len(b) < inner.FragmentLen {
		return f, nil, false
	}
	ff := binary.BigEndian.Uint16(b[2:])
	f = fragment{next: b[0], id: binary.BigEndian.Uint32(b[4:]), off: ff &^ 7, more: ff&1 != 0}
	rest = b[inner.FragmentLen:]
	switch f.next {
	case inner.UDP:
	case inner.ICMP:
		ok = !v6
	case inner.ICMPv6:
		ok = v6
	}
	ok = ok || f.next == inner.UDP
	limit := 65535 // of a payload, and of a whole IPv4 packet
	if !v6 {
		limit -= inner.IPv4Len
	}
	if !ok || len(rest) == 0 || f.more && len(rest)%8 != 0 || int(f.off)+len(rest) > limit {
		return f, nil, false
	}
	if f.off == 0 && (len(rest) < inner.UDPLen || !fragmentPasses(f.next, rest[0])) { // both headers have 8 bytes
		return f, nil, false
	}
	return f, rest, true
}

// parseFragment checks a fragment that goes out; in.ext is its header. TCP is
// segmented, never fragmented.
func (in *parsed) parseFragment(pk *Packet) (Drop, bool) {
	next := pk.h.Protocol
	if next == inner.TCP {
		return DropOutProtocol, false
	}
	if pk.h.Later {
		return 0, true
	}
	first, found := pk.firstByte()
	switch {
	case len(pk.Transport)+pk.Size < inner.UDPLen:
		return DropOutMalformed, false
	case !found || !fragmentPasses(next, first):
		return DropOutProtocol, false
	case next == inner.UDP || next == inner.ICMPv6:
		in.addrs = sumAddrs(pk.h.Src, pk.h.Dst)
	}
	return 0, true
}

// fragmentPasses says whether a packet of protocol next, whose first byte
// after the IP header is first, may come in fragments.
func fragmentPasses(next, first byte) bool {
	switch next {
	case inner.ICMP:
		return first == icmp4Echo || first == icmp4EchoReply
	case inner.ICMPv6:
		return first == icmp6Echo || first == icmp6EchoReply
	}
	return true
}

// sumAddrs is what two addresses add to the sum of a pseudo-header. It is
// never 0.
func sumAddrs(src, dst netip.Addr) uint16 {
	s, d := src.As16(), dst.As16()
	skip := 0
	if src.Is4() {
		skip = 12
	}
	return checksum.Checksum(d[skip:], checksum.Checksum(s[skip:], 0))
}

// addToChecksum adds sum to what the checksum of the UDP or ICMPv6 header at
// the front of b covers (RFC 1624). No checksum stays none.
func addToChecksum(next byte, b []byte, sum uint16) {
	at := 2
	if next == inner.UDP {
		if at = 6; b[6] == 0 && b[7] == 0 {
			return
		}
	}
	c := ^checksum.Combine(^binary.BigEndian.Uint16(b[at:]), sum)
	if c == 0 && next == inner.UDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], c)
}
