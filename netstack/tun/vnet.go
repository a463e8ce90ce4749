package tun

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/idloc/idloc/internal/inner"
)

// In front of each packet, either way, the kernel has a virtio_net_hdr (Linux
// virtio_net.h; virtio 1.2 §5.1.6), its numbers in the machine's byte order:
//
//	0     flags
//	1     GSO type: how to cut a super packet, 0 none
//	2..3  length of all headers
//	4..5  GSO size: payload of each segment
//	6..7  where the checksum begins
//	8..9  where it is stored, from there
//
// A packet whose checksum is "needed" holds the sum of the pseudo-header where
// the checksum belongs; whoever sends it to a wire computes the rest.
const (
	vnetLen = 10

	needsChecksum = 1 // flag

	gsoNone = 0
	gsoTCP4 = 1
	gsoTCP6 = 4
	gsoUDP  = 5    // datagrams: UDP_SEGMENT, UDP_GRO
	gsoECN  = 0x80 // the first segment, and only that, has CWR
)

const (
	tcpChecksum = 16 // where in the header
	udpChecksum = 6
)

// segment returns what a virtio_net_hdr says about the packet after it: 0 if
// that is to go as it is, else the payload of the segments into which it is to
// be cut. It is false if this package cannot do what is asked.
func segment(h []byte) (mss int, ok bool) {
	switch size := int(binary.NativeEndian.Uint16(h[4:])); h[1] &^ gsoECN {
	case gsoNone:
		return 0, true
	case gsoTCP4, gsoTCP6, gsoUDP:
		return size, size > 0
	}
	return 0, false
}

// finish makes the virtio_net_hdr v for a packet from a peer and puts the
// checksum into head, of which h says what it holds. Those of fragments and ICMP
// are right already. A packet of one segment
// gets a checksum that anybody may verify, a run of several (seg > 0) what the
// kernel has for one that it merged itself.
func finish(v *[vnetLen]byte, h *inner.Header, head, payload []byte, seg int) {
	*v = [vnetLen]byte{}
	hl, at := inner.IPv4Len, 0
	if h.V6 {
		hl = inner.IPv6Len
	}
	switch {
	case h.Fragment:
		return
	case h.Protocol == inner.TCP:
		at = tcpChecksum
	case h.Protocol == inner.UDP:
		at = udpChecksum
	default:
		return
	}
	th := head[hl:]
	sum := pseudo(h.V6, head, h.Protocol, len(th)+len(payload))
	if seg > 0 {
		binary.BigEndian.PutUint16(th[at:], sum)
		v[0] = needsChecksum
		switch {
		case h.Protocol == inner.UDP:
			v[1] = gsoUDP
		case h.V6:
			v[1] = gsoTCP6
		default:
			v[1] = gsoTCP4
		}
		if h.Flags&inner.CWR != 0 {
			v[1] |= gsoECN
		}
		binary.NativeEndian.PutUint16(v[2:], uint16(len(head)))
		binary.NativeEndian.PutUint16(v[4:], uint16(seg))
		binary.NativeEndian.PutUint16(v[6:], uint16(hl))
		binary.NativeEndian.PutUint16(v[8:], uint16(at))
		return
	}
	th[at], th[at+1] = 0, 0
	sum = checksum.Checksum(payload, checksum.Checksum(th, sum))
	if sum = ^sum; sum == 0 && h.Protocol == inner.UDP {
		sum = 0xffff // RFC 768: 0 is "none"
	}
	binary.BigEndian.PutUint16(th[at:], sum)
}

// pseudo is the sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) of the
// packet whose IP header is at the front of head, with n bytes after it. Both
// headers add up to the same terms.
func pseudo(v6 bool, head []byte, next byte, n int) uint16 {
	addrs := head[12:inner.IPv4Len]
	if v6 {
		addrs = head[8:inner.IPv6Len]
	}
	var tail [4]byte
	binary.BigEndian.PutUint16(tail[0:], uint16(n)) // a packet has no more than 65535
	tail[3] = next
	return checksum.Checksum(tail[:], checksum.Checksum(addrs, 0))
}
