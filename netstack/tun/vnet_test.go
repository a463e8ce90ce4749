package tun

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/lsi"
	"github.com/idloc/idloc/shim"
)

var (
	from4, to4 = netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.0.1")
	from6, to6 = netip.MustParseAddr("2001:20::2"), netip.MustParseAddr("2001:20::1")
)

// packet is IP and transport headers as the shim lends them, with a checksum
// that is not right.
func packet(v6 bool, next byte, transport []byte, payload int) []byte {
	n := len(transport) + payload
	if v6 {
		h := make(header.IPv6, header.IPv6MinimumSize, 100)
		h.Encode(&header.IPv6Fields{PayloadLength: uint16(n), TransportProtocol: tcpip.TransportProtocolNumber(next), HopLimit: 64,
			SrcAddr: tcpip.AddrFrom16(from6.As16()), DstAddr: tcpip.AddrFrom16(to6.As16())})
		return append(h, transport...)
	}
	h := make(header.IPv4, header.IPv4MinimumSize, 100)
	h.Encode(&header.IPv4Fields{TotalLength: uint16(header.IPv4MinimumSize + n), TTL: 64, Protocol: next,
		SrcAddr: tcpip.AddrFrom4(from4.As4()), DstAddr: tcpip.AddrFrom4(to4.As4())})
	return append(h, transport...)
}

func tcpHeader(flags header.TCPFlags) []byte {
	th := make(header.TCP, 32)
	th.Encode(&header.TCPFields{SrcPort: 1, DstPort: 2, SeqNum: 3, AckNum: 4, DataOffset: 32, Flags: flags, WindowSize: 5, Checksum: 0xbad})
	return th
}

func udpHeader(n int) []byte {
	uh := make(header.UDP, header.UDPMinimumSize)
	uh.Encode(&header.UDPFields{SrcPort: 1, DstPort: 2, Length: uint16(8 + n), Checksum: 0xbad})
	return uh
}

// sumOf is the sum of pseudo-header, header and payload: 0xffff if the
// checksum is right. It does not use pseudo.
func sumOf(v6 bool, next byte, transport, payload []byte) uint16 {
	src, dst := tcpip.AddrFrom4(from4.As4()), tcpip.AddrFrom4(to4.As4())
	if v6 {
		src, dst = tcpip.AddrFrom16(from6.As16()), tcpip.AddrFrom16(to6.As16())
	}
	sum := header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(next), src, dst, uint16(len(transport)+len(payload)))
	return checksum.Checksum(append(bytes.Clone(transport), payload...), sum)
}

// One segment gets a checksum that is right by itself and no mark; a run gets
// the mark, and a checksum that is right once its owner adds the rest.
func TestFinish(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		hl := inner.IPv4Len
		if v6 {
			hl = inner.IPv6Len
		}
		for _, size := range []int{0, 1, 2, 1399, 64000} {
			payload := bytes.Repeat([]byte{0x9d, 0x33, 0xff}, size/3+1)[:size]
			for _, p := range []struct {
				next byte
				th   []byte
				at   int
				gso  byte
			}{
				{inner.TCP, tcpHeader(header.TCPFlagAck), 16, map[bool]byte{false: 1, true: 4}[v6]},
				{inner.TCP, tcpHeader(header.TCPFlagAck | 0x80), 16, map[bool]byte{false: 0x81, true: 0x84}[v6]},
				{inner.UDP, udpHeader(size), 6, 5},
			} {
				var v [vnetLen]byte
				head := packet(v6, p.next, p.th, size)
				finish(&v, said(head), head, payload, 0)
				if v != [vnetLen]byte{} {
					t.Errorf("v6 %v protocol %d: a single packet has %x", v6, p.next, v)
				}
				if s := sumOf(v6, p.next, head[hl:], payload); s != 0xffff {
					t.Errorf("v6 %v protocol %d, %d bytes: sum %#x", v6, p.next, size, s)
				}
				if size < 1399 {
					continue
				}
				head = packet(v6, p.next, p.th, size)
				finish(&v, said(head), head, payload, 1000)
				want := []byte{1, p.gso}
				for _, n := range []int{len(head), 1000, hl, p.at} {
					want = binary.NativeEndian.AppendUint16(want, uint16(n))
				}
				if !bytes.Equal(v[:], want) {
					t.Errorf("v6 %v protocol %d: run has %x, want %x", v6, p.next, v, want)
				}
				// What a card does with a packet so marked.
				at := hl + p.at
				c := ^checksum.Checksum(append(bytes.Clone(head[hl:]), payload...), 0)
				binary.BigEndian.PutUint16(head[at:], c)
				if s := sumOf(v6, p.next, head[hl:], payload); s != 0xffff {
					t.Errorf("v6 %v protocol %d, run: sum %#x", v6, p.next, s)
				}
			}
		}
		// ICMP and fragments are not touched.
		icmp := map[bool]byte{false: 1, true: 58}[v6]
		head := packet(v6, icmp, []byte{8, 0, 0x12, 0x34, 5, 6, 7, 8}, 0)
		whole := bytes.Clone(head)
		var v [vnetLen]byte
		finish(&v, said(head), head, nil, 0)
		if !bytes.Equal(head, whole) {
			t.Error("ICMP was changed")
		}
	}
	head := packet(false, inner.UDP, udpHeader(1000), 100)
	header.IPv4(head).SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
	whole := bytes.Clone(head)
	var v [vnetLen]byte
	finish(&v, said(head), head, make([]byte, 100), 0)
	if !bytes.Equal(head, whole) {
		t.Error("a fragment was changed")
	}
}

// A UDP checksum that comes out as 0 is sent as 0xffff: 0 means none, and IPv6
// does not allow it.
func TestUDPChecksumNeverZero(t *testing.T) {
	head := packet(true, inner.UDP, udpHeader(2), 2)
	var v [vnetLen]byte
	payload := []byte{0, 0}
	finish(&v, said(head), head, payload, 0)
	c := binary.BigEndian.Uint16(head[inner.IPv6Len+udpChecksum:])
	binary.BigEndian.PutUint16(payload, c) // the sum is 0xffff now
	finish(&v, said(head), head, payload, 0)
	if c := binary.BigEndian.Uint16(head[inner.IPv6Len+udpChecksum:]); c != 0xffff {
		t.Errorf("checksum %#x", c)
	}
}

// said is what the shim says of the headers of a packet.
func said(head []byte) *inner.Header {
	var h inner.Header
	h.Parse(head)
	return &h
}

// FuzzSent feeds what a kernel might never send to the way down: header and
// packet, whatever they say.
func FuzzSent(f *testing.F) {
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	self, err := peerid.FromPublicKey(pub)
	if err != nil {
		f.Fatal(err)
	}
	table, err := lsi.New(lsi.Config{Self: self})
	if err != nil {
		f.Fatal(err)
	}
	s := shim.New(shim.Config{Table: table})
	f.Cleanup(func() { _ = s.Close(); _ = table.Close() })
	h := &Host{shim: s, dev: goneDevice()}
	own4, _ := table.Self()
	for _, v6 := range []bool{false, true} {
		p := packet(v6, inner.TCP, tcpHeader(header.TCPFlagAck), 3000)
		if !v6 {
			copy(p[12:], own4.AsSlice())
		}
		vnet := []byte{1, map[bool]byte{false: 1, true: 4}[v6], 0, 0, 0, 4, 20, 0, 16, 0}
		f.Add(append(append(vnet, p...), make([]byte, 3000)...))
		f.Add(append(make([]byte, vnetLen), p...))
		f.Add(append([]byte{0, 5, 0, 0, 1, 0, 0, 0, 0, 0}, packet(v6, inner.UDP, udpHeader(100), 100)...))
	}
	f.Add([]byte{0, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0x45})
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var pk shim.Packet
		h.sent(&pk, b)
	})
}
