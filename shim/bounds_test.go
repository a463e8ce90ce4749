package shim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/pipe"
)

// Which ICMP messages travel, of all 256 types and both versions, and in pieces.
func TestICMPTypes(t *testing.T) {
	in := func(t byte, list ...byte) bool { return bytes.IndexByte(list, t) >= 0 }
	for i := range 256 {
		b := byte(i)
		if icmpError(false, b) != in(b, 3, 11, 12) || icmpError(true, b) != in(b, 1, 3, 4) {
			t.Errorf("type %d is an error: %v, %v", b, icmpError(false, b), icmpError(true, b))
		}
		if icmpPasses(false, b) != in(b, 0, 3, 8, 11, 12) || icmpPasses(true, b) != in(b, 1, 3, 4, 128, 129) {
			t.Errorf("type %d passes: %v, %v", b, icmpPasses(false, b), icmpPasses(true, b))
		}
		if fragmentPasses(inner.ICMP, b) != in(b, 0, 8) || fragmentPasses(inner.ICMPv6, b) != in(b, 128, 129) || !fragmentPasses(inner.UDP, b) {
			t.Errorf("type %d in pieces: %v, %v", b, fragmentPasses(inner.ICMP, b), fragmentPasses(inner.ICMPv6, b))
		}
	}
}

// What a peer's ICMP error may quote: both sides of each length, and what else is
// no quote.
func TestTranslateBounds(t *testing.T) {
	msg4 := func(quote []byte) []byte { return append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, quote...) }
	quote4 := func(hl, n int) []byte {
		q := make([]byte, n)
		if n > 0 {
			q[0] = 0x40 | byte(hl/4)
		}
		return q
	}
	quote6 := func(n int) []byte { q := make([]byte, n); q[0] = 0x60; return q }
	msg6 := func(quote []byte) []byte { return append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, quote...) }
	for what, c := range map[string]struct {
		msg []byte
		v6  bool
		why Drop
		ok  bool
	}{
		"7 bytes": {make([]byte, 7), false, DropInShort, false}, "an echo": {[]byte{8, 0, 0, 0, 0, 0, 0, 0}, false, 0, true},
		"another type": {[]byte{5, 0, 0, 0, 0, 0, 0, 0}, false, DropInICMPType, false}, "too big": {append([]byte{3, 4, 0, 0, 0, 0, 0, 0}, quote4(20, 28)...), false, DropInICMPType, false},
		"code 4 of another type": {append([]byte{11, 4, 0, 0, 0, 0, 0, 0}, quote4(20, 28)...), false, 0, true},
		"an IPv6 type":           {[]byte{128, 0, 0, 0, 0, 0, 0, 0}, false, DropInICMPType, false}, "an IPv4 type": {[]byte{8, 0, 0, 0, 0, 0, 0, 0}, true, DropInICMPType, false},
		"no quote": {msg4(nil), false, DropInICMPQuote, false}, "19 bytes": {msg4(quote4(20, 19)), false, DropInICMPQuote, false},
		"27 bytes": {msg4(quote4(20, 27)), false, DropInICMPQuote, false}, "28 bytes": {msg4(quote4(20, 28)), false, 0, true},
		"a header of 16": {msg4(quote4(16, 60)), false, DropInICMPQuote, false}, "a header of 60 of 67": {msg4(quote4(60, 67)), false, DropInICMPQuote, false},
		"a header of 60 of 68": {msg4(quote4(60, 68)), false, 0, true}, "IPv6 in IPv4": {msg4(quote6(60)), false, DropInICMPQuote, false},
		"47 bytes of 6": {msg6(quote6(47)), true, DropInICMPQuote, false}, "48 bytes of 6": {msg6(quote6(48)), true, 0, true}, "IPv4 in IPv6": {msg6(quote4(20, 60)), true, DropInICMPQuote, false},
	} {
		self, peer := self4, peer4
		if c.v6 {
			self, peer = self6, peer6
		}
		before := bytes.Clone(c.msg)
		why, ok := translate(c.msg, c.v6, self, peer)
		if ok != c.ok || why != c.why {
			t.Errorf("%s: %v, %v", what, why, ok)
			continue
		}
		if !ok {
			if !bytes.Equal(before, c.msg) {
				t.Errorf("%s: changed, though it is dropped", what)
			}
			continue
		}
		sum := uint16(0)
		if c.v6 {
			sum = pseudo(peer, self, inner.ICMPv6, len(c.msg))
		}
		if checksum.Checksum(c.msg, sum) != 0xffff {
			t.Errorf("%s: its checksum is wrong", what)
		}
		if icmpError(c.v6, c.msg[0]) {
			q := c.msg[8:]
			src, dst := q[12:16], q[16:20]
			if c.v6 {
				src, dst = q[8:24], q[24:40]
			}
			if s, _ := netip.AddrFromSlice(src); s != self {
				t.Errorf("%s: the quote is from %v", what, s)
			}
			if d, _ := netip.AddrFromSlice(dst); d != peer {
				t.Errorf("%s: the quote is to %v", what, d)
			}
			if !c.v6 && checksum.Checksum(q[:int(q[0]&15)*4], 0) != 0xffff {
				t.Errorf("%s: the quote's checksum is wrong", what)
			}
		}
	}
}

// An answer quotes as much as may be, and no more.
func TestUnreachableBounds(t *testing.T) {
	udp := func(v6 bool, n int) []byte {
		th := make([]byte, n)
		if n >= 8 {
			binary.BigEndian.PutUint16(th[4:], uint16(n))
		}
		if v6 {
			b := make([]byte, inner.IPv6Len)
			putIPv6(b, inner.UDP, n, self6, peer6)
			return append(b, th...)
		}
		b := make([]byte, inner.IPv4Len)
		putIPv4(b, inner.UDP, n, self4, peer4, nil)
		return append(b, th...)
	}
	for _, c := range []struct {
		v6        bool
		n, quoted int
	}{
		{false, 8, 28}, {false, 527, 547}, {false, 528, 548}, {false, 529, 548}, {false, 2000, 548},
		{true, 8, 48}, {true, 1191, 1231}, {true, 1192, 1232}, {true, 1193, 1232}, {true, 5000, 1232},
	} {
		packet := udp(c.v6, c.n)
		b, ok := unreachable(packet, unreachablePeer)
		hl := 28
		if c.v6 {
			hl = 48
		}
		if !ok || len(b) != hl+c.quoted || !bytes.Equal(b[hl:], packet[:c.quoted]) {
			t.Errorf("%d bytes, IPv6 %v: %d quoted, %v", c.n, c.v6, len(b)-hl, ok)
		}
	}
	if codeFor(errors.New("x")) != unreachablePeer || codeFor(refusing(true)) != unreachablePolicy || codeFor(refusing(false)) != unreachablePeer {
		t.Error("the reason of an answer")
	}
	echo := make([]byte, inner.IPv4Len)
	putIPv4(echo, inner.ICMP, 8, self4, peer4, nil)
	if _, ok := unreachable(append(echo, 8, 0, 0, 0, 0, 0, 0, 0), unreachablePeer); !ok {
		t.Error("an echo is not answered")
	}
	if _, ok := unreachable(echo, unreachablePeer); ok {
		t.Error("a packet of nothing is answered")
	}
}

type refusing bool

func (r refusing) Error() string { return "refused" }
func (r refusing) Refused() bool { return bool(r) }

// What comes in pieces: each bound from both sides.
func TestFragmentBounds(t *testing.T) {
	piece := func(next byte, off int, more bool, n int, first byte) []byte {
		b := make([]byte, 8+n)
		b[0] = next
		v := uint16(off)
		if more {
			v |= 1
		}
		binary.BigEndian.PutUint16(b[2:], v)
		binary.BigEndian.PutUint32(b[4:], 0x01020304)
		if n > 0 {
			b[8] = first
		}
		return b
	}
	for what, c := range map[string]struct {
		b  []byte
		v6 bool
		ok bool
	}{
		"7 bytes": {make([]byte, 7), false, false}, "a header only": {piece(17, 8, false, 0, 0), false, false}, "one byte": {piece(17, 8, false, 1, 0), false, true},
		"first of 7": {piece(17, 0, false, 7, 0), false, false}, "first of 8": {piece(17, 0, false, 8, 0), false, true}, "first and more": {piece(17, 0, true, 8, 0), true, true},
		"more of 9": {piece(17, 8, true, 9, 0), false, false}, "last of 9": {piece(17, 8, false, 9, 0), false, true}, "more of 16": {piece(17, 8, true, 16, 0), false, true},
		"TCP": {piece(6, 8, true, 8, 0), false, false}, "ICMP": {piece(1, 8, true, 8, 0), false, true}, "ICMP in IPv6": {piece(1, 8, true, 8, 0), true, false},
		"ICMPv6": {piece(58, 8, true, 8, 0), true, true}, "ICMPv6 in IPv4": {piece(58, 8, true, 8, 0), false, false}, "a fragment": {piece(44, 8, true, 8, 0), true, false},
		"an echo": {piece(1, 0, true, 8, 8), false, true}, "an error": {piece(1, 0, true, 8, 3), false, false}, "an echo of 6": {piece(58, 0, true, 8, 128), true, true}, "an error of 6": {piece(58, 0, true, 8, 1), true, false},
		"to the end of IPv4": {piece(17, 65504, false, 11, 0), false, true}, "beyond it": {piece(17, 65504, false, 12, 0), false, false},
		"to the end of IPv6": {piece(17, 65528, false, 7, 0), true, true}, "beyond that": {piece(17, 65528, false, 8, 0), true, false},
	} {
		f, rest, ok := parseFragment(c.b, c.v6)
		if ok != c.ok {
			t.Errorf("%s: %v", what, ok)
			continue
		}
		if !ok {
			if rest != nil {
				t.Errorf("%s: %d bytes of what is refused", what, len(rest))
			}
			continue
		}
		v := binary.BigEndian.Uint16(c.b[2:])
		if f.next != c.b[0] || f.id != 0x01020304 || f.off != v&^7 || f.more != (v&1 != 0) || len(rest) != len(c.b)-8 {
			t.Errorf("%s: %+v", what, f)
		}
	}
	// An IPv4 header's fields, as IPv6 writes them.
	ip := make([]byte, 20)
	ip[9] = 17
	binary.BigEndian.PutUint16(ip[4:], 0xabcd)
	for ff, want := range map[uint16]uint16{0x2000: 1, 0x2001: 8 | 1, 0x1fff: 0xfff8, 0x3fff: 0xfff9, 0x4000: 0, 0x8000: 0} {
		binary.BigEndian.PutUint16(ip[6:], ff)
		h := fragmentOf4(ip)
		if h[0] != 17 || h[1] != 0 || binary.BigEndian.Uint16(h[2:]) != want || binary.BigEndian.Uint32(h[4:]) != 0xabcd {
			t.Errorf("%#x: %x", ff, h)
		}
	}
}

// A checksum to which the addresses were added, and from which they were taken,
// is what it was; none stays none, and none comes of it.
func TestAddToChecksum(t *testing.T) {
	for _, next := range []byte{inner.UDP, inner.ICMPv6} {
		at := 2
		if next == inner.UDP {
			at = 6
		}
		for sum := 1; sum < 1<<16; sum += 257 {
			for _, c := range []uint16{1, 0x1234, 0xfffe, 0xffff, uint16(sum), ^uint16(sum)} {
				if c == 0 {
					continue
				}
				b := make([]byte, 8)
				binary.BigEndian.PutUint16(b[at:], c)
				addToChecksum(next, b, uint16(sum))
				mid := binary.BigEndian.Uint16(b[at:])
				if next == inner.UDP && mid == 0 {
					t.Fatalf("%#x and %#x: none comes of it", c, sum)
				}
				addToChecksum(next, b, ^uint16(sum))
				got := binary.BigEndian.Uint16(b[at:])
				if got != c && !(got == 0xffff && c == 0 || got == 0 && c == 0xffff) {
					t.Fatalf("protocol %d: %#x and %#x: %#x", next, c, sum, got)
				}
			}
		}
	}
	none := make([]byte, 8)
	if addToChecksum(inner.UDP, none, 0x1234); !bytes.Equal(none, make([]byte, 8)) {
		t.Error("no checksum became one")
	}
	if sumAddrs(self4, peer4) == 0 || sumAddrs(self4, peer4) != checksum.Checksum([]byte{198, 18, 0, 1, 198, 18, 0, 2}, 0) {
		t.Errorf("IPv4 addresses sum to %#x", sumAddrs(self4, peer4))
	}
	s, d := self6.As16(), peer6.As16()
	if sumAddrs(self6, peer6) != checksum.Checksum(append(s[:], d[:]...), 0) {
		t.Errorf("IPv6 addresses sum to %#x", sumAddrs(self6, peer6))
	}
}

// Bytes out of pieces, some of them empty, in portions of any size.
func TestCursor(t *testing.T) {
	pieces := [][]byte{{}, {1}, {2, 3}, {}, {}, {4, 5, 6, 7}, {8}, {}}
	for size := 1; size <= 9; size++ {
		c := cursor{pieces: pieces}
		var got []byte
		for len(got) < 8 {
			b := make([]byte, min(size, 8-len(got)))
			c.fill(b)
			got = append(got, b...)
		}
		if !bytes.Equal(got, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
			t.Errorf("by %d: %v", size, got)
		}
		more := []byte{9}
		if c.fill(more); more[0] != 9 {
			t.Error("more than there is")
		}
	}
	var pk Packet
	if _, ok := pk.firstByte(); ok {
		t.Error("a first byte of nothing")
	}
	pk.Payload = pieces
	if b, ok := pk.firstByte(); !ok || b != 1 {
		t.Errorf("first byte %d, %v", b, ok)
	}
	pk.Transport = []byte{7}
	if b, ok := pk.firstByte(); !ok || b != 7 {
		t.Errorf("first byte %d, %v", b, ok)
	}
}

// The pseudo-header has all that RFC 8200 §8.1 names: the sum is what is computed by
// hand, and each of the four parts changes it.
func TestPseudo(t *testing.T) {
	src, dst := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	// 2 × (2001 + 0db8) + 1 + 2 + 8 + 3a = 5bb7
	if got := pseudo(src, dst, inner.ICMPv6, 8); got != 0x5bb7 {
		t.Errorf("%#x", got)
	}
}

// What wants to be acknowledged is TCP or UDP, and a segment that goes out in pieces
// is not.
func TestProtocolsRefused(t *testing.T) {
	src, dst := netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.0.3")
	for proto, ok := range map[byte]bool{inner.TCP: true, inner.UDP: true, inner.ICMP: false, 47: false} {
		plain := make([]byte, 1+inner.TCPLen)
		plain[0], plain[1+12] = pipe.Wanted|proto, 5<<4
		plain[1+5] = inner.TCPLen // a UDP datagram's length
		why, got := new(packet).parse(plain, false, src, dst)
		if got != ok || !ok && why != DropInProtocol {
			t.Errorf("protocol %d: %v, %v", proto, got, why)
		}
	}
	pk := new(Packet)
	pk.h.SetIP(src, dst, false, inner.TCP)
	if why, ok := new(parsed).parseFragment(pk); ok || why != DropOutProtocol {
		t.Errorf("a piece of a segment: %v, %v", ok, why)
	}
	if d := new(Shim).RTT(dst); d != 0 {
		t.Errorf("an RTT to nobody: %v", d)
	}
}
