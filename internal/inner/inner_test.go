package inner

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/yardstick"
)

var (
	src4, dst4 = netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")
	src6, dst6 = netip.MustParseAddr("2001:20::1"), netip.MustParseAddr("2001:20::2")
)

// ip4 is a header with n bytes of options; part is its flags and fragment offset.
func ip4(next byte, part uint16, options int) []byte {
	b := make([]byte, IPv4Len+options)
	b[0], b[1], b[9] = 0x40|byte(len(b)/4), 0xb8, next
	binary.BigEndian.PutUint16(b[6:], part)
	copy(b[12:], src4.AsSlice())
	copy(b[16:], dst4.AsSlice())
	return b
}

func ip6(next byte) []byte {
	b := make([]byte, IPv6Len)
	b[0], b[1], b[6] = 0x6b, 0x80, next
	copy(b[8:], src6.AsSlice())
	copy(b[24:], dst6.AsSlice())
	return b
}

// tcp is a header with options; words is what its data offset says.
func tcp(words, options int) []byte {
	b := make([]byte, TCPLen+options)
	binary.BigEndian.PutUint16(b, 1000)
	binary.BigEndian.PutUint16(b[2:], 80)
	binary.BigEndian.PutUint32(b[4:], 7)
	binary.BigEndian.PutUint32(b[8:], 9)
	b[12], b[13] = byte(words<<4), SYN|ACK
	return b
}

func join(bs ...[]byte) (b []byte) {
	for _, x := range bs {
		b = append(b, x...)
	}
	return b
}

func TestParse(t *testing.T) {
	four := Header{Src: src4, Dst: dst4, Class: 0xb8}
	six := Header{Src: src6, Dst: dst6, Class: 0xb8, V6: true}
	with := func(h Header, f func(*Header)) Header { f(&h); return h }
	segment := func(n uint8) func(*Header) {
		return func(h *Header) {
			h.Protocol, h.Ports, h.SrcPort, h.DstPort, h.Flags, h.Seq, h.Ack, h.TCPLen = TCP, true, 1000, 80, SYN|ACK, 7, 9, n
		}
	}
	ports := func(p uint8) func(*Header) {
		return func(h *Header) { h.Protocol, h.Ports, h.SrcPort, h.DstPort = p, true, 1000, 80 }
	}
	datagram := tcp(0, 0)[:UDPLen]
	first, later := []byte{UDP, 0, 0, 1, 0, 0, 0, 5}, []byte{UDP, 0, 0, 9, 0, 0, 0, 5}
	for _, tt := range []struct {
		what string
		b    []byte
		n    int // 0: not a header
		want Header
	}{
		{"nothing", nil, 0, Header{}},
		{"a version that is none", make([]byte, 60), 0, Header{}},
		{"IPv4, 19 bytes", ip4(TCP, 0, 0)[:19], 0, Header{}},
		{"IPv4, a length below 20", join([]byte{0x44}, ip4(TCP, 0, 0)[1:]), 0, Header{}},
		{"IPv4, options cut off", ip4(TCP, 0, 8)[:24], 0, Header{}},
		{"IPv6, 39 bytes", ip6(UDP)[:39], 0, Header{}},
		{"TCP", join(ip4(TCP, 0x4000, 0), tcp(5, 0)), 20, with(four, segment(20))},
		{"TCP with options, of both kinds", join(ip4(TCP, 0, 8), tcp(8, 12)), 28, with(four, segment(32))},
		{"TCP over IPv6", join(ip6(TCP), tcp(5, 0)), 40, with(six, segment(20))},
		{"TCP, options cut off", join(ip6(TCP), tcp(8, 4)), 40, with(six, ports(TCP))},
		{"TCP, an offset into the header", join(ip6(TCP), tcp(4, 0)), 40, with(six, ports(TCP))},
		{"TCP, the ports only", join(ip6(TCP), tcp(5, 0)[:8]), 40, with(six, ports(TCP))},
		{"TCP, less than that", join(ip6(TCP), tcp(5, 0)[:3]), 40, with(six, func(h *Header) { h.Protocol = TCP })},
		{"UDP", join(ip4(UDP, 0, 0), datagram), 20, with(four, ports(UDP))},
		{"ICMP", join(ip4(ICMP, 0, 0), datagram), 20, with(four, func(h *Header) { h.Protocol = ICMP })},
		{"IPv4, first fragment", join(ip4(UDP, 0x2000, 0), datagram), 20, with(four, func(h *Header) { ports(UDP)(h); h.Fragment = true })},
		{"IPv4, last fragment", join(ip4(UDP, 1, 0), datagram), 20, with(four, func(h *Header) { h.Protocol, h.Fragment, h.Later = UDP, true, true })},
		{"IPv6, first fragment", join(ip6(Fragment), first, datagram), 48, with(six, func(h *Header) { ports(UDP)(h); h.Fragment = true })},
		{"IPv6, last fragment", join(ip6(Fragment), later, datagram), 48, with(six, func(h *Header) { h.Protocol, h.Fragment, h.Later = UDP, true, true })},
		{"IPv6, fragment header cut off", join(ip6(Fragment), first[:7]), 0, Header{}},
	} {
		h := Header{Seq: 99, Later: true, Ports: true} // of a packet before
		n, ok := h.Parse(tt.b)
		if n != tt.n || ok != (tt.n > 0) || ok && h != tt.want {
			t.Errorf("%s: %d, %v, %+v; want %d, %+v", tt.what, n, ok, h, tt.n, tt.want)
		}
	}
}

// A flow is the same for both directions, and its word tells it from others.
func TestFlow(t *testing.T) {
	out := Header{Src: src4, Dst: dst4, SrcPort: 1, DstPort: 2, Ports: true}
	in := Header{Src: dst4, Dst: src4, SrcPort: 2, DstPort: 1, Ports: true}
	f := out.Outbound()
	if f != in.Inbound() || f != FlowOf(1, netip.AddrPortFrom(dst4, 2)) || f.Remote() != netip.AddrPortFrom(dst4, 2) {
		t.Errorf("%+v and %+v", f, in.Inbound())
	}
	words := map[uint64]Flow{}
	for _, peer := range []netip.Addr{dst4, dst6} {
		for _, p := range [][2]uint16{{0, 0}, {1, 2}, {2, 1}, {0, 0xffff}, {0xffff, 0}} {
			f := Flow{peer, p[0], p[1]}
			if other, ok := words[f.Word()]; ok || f.Word() == 0 {
				t.Errorf("%+v and %+v have the word %x", f, other, f.Word())
			}
			words[f.Word()] = f
		}
	}
}

func TestOpens(t *testing.T) {
	for flags, want := range map[uint8]bool{SYN: true, SYN | ACK: false, ACK: false, SYN | ECE | CWR: true, 0: false} {
		if h := (Header{Flags: flags}); h.Opens() != want {
			t.Errorf("flags %x: %v", flags, !want)
		}
	}
}

func TestNoAllocs(t *testing.T) {
	b := join(ip6(TCP), tcp(5, 0))
	var h Header
	if n := yardstick.Allocs(100, func() { h.Parse(b); _ = h.Inbound().Word() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, p := range map[string][]byte{"TCP": join(ip4(TCP, 0, 0), tcp(5, 0)), "TCP6": join(ip6(TCP), tcp(5, 0))} {
		b.Run(name, func(b *testing.B) {
			var h Header
			b.ReportAllocs()
			for b.Loop() {
				h.Parse(p)
			}
		})
	}
}

// FuzzParse: no bytes make Parse reach behind them or say what they do not hold.
func FuzzParse(f *testing.F) {
	f.Add(join(ip4(TCP, 0, 8), tcp(8, 12)))
	f.Add(join(ip6(Fragment), []byte{UDP, 0, 0, 1, 0, 0, 0, 5}, tcp(5, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Header
		n, ok := h.Parse(b)
		switch {
		case !ok && n != 0, ok && (n < IPv4Len || n > len(b)):
			t.Errorf("length %d, %v", n, ok)
		case ok && n+int(h.TCPLen) > len(b), h.TCPLen != 0 && (h.TCPLen < TCPLen || !h.Ports || h.Protocol != TCP):
			t.Errorf("%+v", h)
		case ok && (h.Later && (h.Ports || !h.Fragment) || h.Src.Is4() == h.V6):
			t.Errorf("%+v", h)
		}
	})
}
