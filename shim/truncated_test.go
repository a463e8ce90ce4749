package shim_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/idloc/idloc/shim"
)

// whole is a packet in one piece, as a kernel's device gives it.
func whole(v6 bool, next byte, src, dst netip.Addr, body []byte) []byte {
	if !v6 {
		return append(ip4(next, len(body), src, dst), body...)
	}
	h := make([]byte, 40, 40+len(body))
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	s, d := src.As16(), dst.As16()
	copy(h[8:], s[:])
	copy(h[24:], d[:])
	return append(h, body...)
}

// A local packet that is cut anywhere, with its length as it was or made to fit,
// or that claims other lengths than it has, is refused or sent: it breaks nothing.
func TestTruncatedPackets(t *testing.T) {
	p := newPair(t, nil)
	_, src6 := p.a.Table.Self()
	_, dst6 := p.a.LSI(t, p.b)
	tcpBody := make([]byte, 40)
	tcpBody[12], tcpBody[13] = 0x60, 0x10 // four bytes of options
	udpBody := []byte{0, 1, 0, 2, 0, 20, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1, 'e', 'c', 'h', 'o'}
	echo6 := append([]byte{128}, echo[1:]...)
	piece := append([]byte{17, 0, 0, 1, 0, 0, 0, 7}, udpBody...)
	fragment4 := whole(false, 17, p.src, p.dst, udpBody)
	fragment4[6] = 0x20 // more to come
	refused := 0
	try := func(what string, b []byte) {
		t.Helper()
		var pk shim.Packet
		if !pk.Parse(b, 0) || p.a.Shim.Output(&pk) != nil {
			refused++
		}
		// The same as a stack hands it over, in pieces cut elsewhere.
		for _, cut := range []int{0, 1, 20, 40, 48, len(b)} {
			if cut > len(b) {
				continue
			}
			pk := shim.Packet{IP: slices.Clone(b[:cut]), Payload: [][]byte{slices.Clone(b[cut:])}, Size: len(b) - cut, V6: len(b) > 0 && b[0]>>4 == 6}
			_ = p.a.Shim.Output(&pk)
		}
	}
	for what, b := range map[string][]byte{
		"tcp": whole(false, 6, p.src, p.dst, tcpBody), "udp": whole(false, 17, p.src, p.dst, udpBody), "icmp": whole(false, 1, p.src, p.dst, echo),
		"tcp6": whole(true, 6, src6, dst6, tcpBody), "udp6": whole(true, 17, src6, dst6, udpBody), "icmp6": whole(true, 58, src6, dst6, echo6),
		"fragment": fragment4, "fragment6": whole(true, 44, src6, dst6, piece),
	} {
		before := refused
		try(what, b)
		if refused != before {
			t.Errorf("%s as it is is refused", what)
		}
		for n := range b {
			try(what, b[:n])
			fits := slices.Clone(b[:n])
			if b[0]>>4 == 4 && n >= 20 {
				binary.BigEndian.PutUint16(fits[2:], uint16(n))
			} else if b[0]>>4 == 6 && n >= 40 {
				binary.BigEndian.PutUint16(fits[4:], uint16(n-40))
			}
			try(what, fits)
			for _, v := range []byte{0x00, 0x0f, 0x44, 0x46, 0x4f, 0x60, 0xf0, 0xff} {
				changed := slices.Clone(b)
				changed[n] = v
				try(what, changed)
			}
		}
		if refused == before {
			t.Errorf("nothing of %s was refused", what)
		}
	}
}
