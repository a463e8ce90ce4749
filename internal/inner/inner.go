// Package inner reads the headers of inner packets, those with LSIs that two
// peers exchange through a pipe. Each packet's are read once, into a Header,
// by who has it first: the shim for what comes in, the stack for what goes out.
// All who see the packet after that look there. Reading allocates nothing.
//
// A Flow is the key by which a TCP connection, or an exchange of UDP datagrams,
// is known in both directions.
package inner

import (
	"encoding/binary"
	"net/netip"
)

// IANA protocol numbers of what may pass.
const (
	ICMP     = 1
	TCP      = 6
	UDP      = 17
	Fragment = 44 // the fragment header of IPv6
	ICMPv6   = 58
)

// Lengths of headers without options.
const (
	IPv4Len     = 20
	IPv6Len     = 40
	TCPLen      = 20
	UDPLen      = 8
	FragmentLen = 8
	ICMPLen     = 8
)

// TCP flags (RFC 9293 §3.1, RFC 3168 §6.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Header is what the headers of a packet say.
type Header struct {
	Src, Dst netip.Addr
	V6       bool
	Class    uint8 // traffic class, ECN included
	Protocol uint8 // of the transport header; of a fragment, that of the whole

	Fragment bool // only a part of a packet
	Later    bool // a fragment that is not the first, which has no transport header

	Ports            bool // the next two are known
	SrcPort, DstPort uint16

	TCPLen   uint8 // of the TCP header with its options; 0: there is none, or not all of it
	Flags    uint8 // of TCP, as is the rest
	Seq, Ack uint32
}

// Parse reads the packet at whose front b stands, IP header first; b may be cut
// off behind the headers. It returns the length of the IP header, with the
// fragment header of IPv6; false if b does not hold that.
func (h *Header) Parse(b []byte) (n int, ok bool) {
	if n, ok = h.ReadIP(b); ok && !h.Later {
		h.ReadTransport(b[n:])
	}
	return n, ok
}

// ReadIP sets h to what the IP header at the front of b says, with the fragment
// header of IPv6. It returns their length; false if b does not hold that.
func (h *Header) ReadIP(b []byte) (n int, ok bool) {
	switch {
	case len(b) >= IPv4Len && b[0]>>4 == 4:
		if n = int(b[0]&15) * 4; n < IPv4Len || n > len(b) {
			return 0, false
		}
		part := binary.BigEndian.Uint16(b[6:])
		h.SetIP(netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), false, b[9])
		h.Class, h.Fragment, h.Later = b[1], part&0x3fff != 0, part&0x1fff != 0
		return n, true
	case len(b) >= IPv6Len && b[0]>>4 == 6:
		h.SetIP(netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), true, b[6])
		h.Class = b[0]<<4 | b[1]>>4
		if h.Protocol != Fragment {
			return IPv6Len, true
		}
		if len(b) < IPv6Len+FragmentLen {
			return 0, false
		}
		h.Protocol, h.Fragment, h.Later = b[IPv6Len], true, binary.BigEndian.Uint16(b[IPv6Len+2:])&^7 != 0
		return IPv6Len + FragmentLen, true
	}
	return 0, false
}

// SetIP makes h the header of a whole packet between two addresses, of which
// nothing else is known. (Field by field, which is quicker than to copy a Header.)
func (h *Header) SetIP(src, dst netip.Addr, v6 bool, protocol uint8) {
	h.Src, h.Dst, h.V6, h.Class, h.Protocol = src, dst, v6, 0, protocol
	h.Fragment, h.Later, h.Ports, h.SrcPort, h.DstPort = false, false, false, 0, 0
	h.TCPLen, h.Flags, h.Seq, h.Ack = 0, 0, 0, 0
}

// ReadTransport sets what the transport header at the front of b says, as much
// of it as there is. Src, Dst and Protocol are set before.
func (h *Header) ReadTransport(b []byte) {
	if h.Protocol != TCP && h.Protocol != UDP || len(b) < 4 {
		return
	}
	h.Ports, h.SrcPort, h.DstPort = true, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	if h.Protocol != TCP || len(b) < TCPLen {
		return
	}
	if n := int(b[12]>>4) * 4; n >= TCPLen && n <= len(b) {
		h.TCPLen, h.Flags = uint8(n), b[13]
		h.Seq, h.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	}
}

// Opens says whether the packet is a SYN that begins a connection.
func (h *Header) Opens() bool { return h.Flags&(SYN|ACK) == SYN }

// Flow is a TCP connection, or an exchange of UDP datagrams, with a peer. This
// node's own address is not in it: it is the LSI of the peer's family.
type Flow struct {
	Peer     netip.Addr
	PeerPort uint16
	Port     uint16 // this node's
}

// Outbound is the flow of a packet that goes to a peer; there are Ports.
func (h *Header) Outbound() Flow { return Flow{h.Dst, h.DstPort, h.SrcPort} }

// Inbound is the flow of a packet that came from a peer; there are Ports.
func (h *Header) Inbound() Flow { return Flow{h.Src, h.SrcPort, h.DstPort} }

// FlowOf is the flow between a port of this node's and a peer's address.
func FlowOf(port uint16, peer netip.AddrPort) Flow { return Flow{peer.Addr(), peer.Port(), port} }

// Remote is the peer's end.
func (f Flow) Remote() netip.AddrPort { return netip.AddrPortFrom(f.Peer, f.PeerPort) }

// Word tells f apart from the others with the same peer in one machine word,
// which is never 0. Its lower 32 bits are the ports.
func (f Flow) Word() uint64 {
	w := uint64(f.Port)<<16 | uint64(f.PeerPort) | 1<<33
	if f.Peer.Is6() {
		w |= 1 << 32
	}
	return w
}
