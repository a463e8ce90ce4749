package shim

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
)

var (
	self4 = netip.MustParseAddr("198.18.0.1")
	peer4 = netip.MustParseAddr("198.18.0.2")
	self6 = netip.MustParseAddr("2001:20::1")
	peer6 = netip.MustParseAddr("2001:20::2")
)

// tcpSegment is a TCP header with options and a payload.
func tcpSegment(seq, ack uint32, flags byte, options, payload []byte) []byte {
	b := make([]byte, inner.TCPLen, inner.TCPLen+len(options)+len(payload))
	binary.BigEndian.PutUint16(b, 1000)
	binary.BigEndian.PutUint16(b[2:], 80)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12] = byte(inner.TCPLen+len(options)) / 4 << 4
	b[13] = flags
	binary.BigEndian.PutUint16(b[14:], 500)
	return append(append(b, options...), payload...)
}

func timestamps(val, ecr uint32) []byte {
	b := []byte{1, 1, 8, 10}
	b = binary.BigEndian.AppendUint32(b, val)
	return binary.BigEndian.AppendUint32(b, ecr)
}

func TestParseIn(t *testing.T) {
	udp := func(length int, payload string) []byte {
		b := []byte{inner.UDP, 0, 1, 0, 2, byte(length >> 8), byte(length), 0, 0}
		return append(b, payload...)
	}
	badOffset := append([]byte{inner.TCP}, tcpSegment(1, 1, inner.ACK, nil, nil)...)
	badOffset[1+12] = 0xf0
	smallOffset := append([]byte{inner.TCP}, tcpSegment(1, 1, inner.ACK, nil, nil)...)
	smallOffset[1+12] = 0x40
	for _, tt := range []struct {
		what string
		in   []byte
		v6   bool
		drop Drop // meaningful if !ok
		ok   bool
	}{
		{"empty", nil, false, DropInShort, false},
		{"TCP", append([]byte{inner.TCP}, tcpSegment(1, 1, inner.ACK, nil, []byte("x"))...), false, 0, true},
		{"TCP, 19 bytes", append([]byte{inner.TCP}, tcpSegment(1, 1, inner.ACK, nil, nil)[:19]...), false, DropInShort, false},
		{"TCP, offset past the end", badOffset, false, DropInTCPOffset, false},
		{"TCP, offset in the fixed header", smallOffset, true, DropInTCPOffset, false},
		{"UDP", udp(9, "x"), false, 0, true},
		{"UDP, empty", udp(8, ""), true, 0, true},
		{"UDP, length too small", udp(8, "x"), false, DropInUDPLength, false},
		{"UDP, length too large", udp(10, "x"), false, DropInUDPLength, false},
		{"UDP, 7 bytes", udp(7, "")[:8], false, DropInShort, false},
		{"ICMP over IPv6 LSIs", []byte{inner.ICMP, 8, 0, 0, 0, 0, 0, 0, 0}, true, DropInProtocol, false},
		{"ICMPv6 over IPv4 LSIs", []byte{inner.ICMPv6, 128, 0, 0, 0, 0, 0, 0, 0}, false, DropInProtocol, false},
		{"echo", []byte{inner.ICMP, 8, 0, 0, 0, 0, 0, 0, 0}, false, 0, true},
		{"redirect", []byte{inner.ICMP, 5, 0, 0, 0, 0, 0, 0, 0}, false, DropInICMPType, false},
		{"neighbour solicitation", []byte{inner.ICMPv6, 135, 0, 0, 0, 0, 0, 0, 0}, true, DropInICMPType, false},
		{"router advertisement", []byte{inner.ICMPv6, 134, 0, 0, 0, 0, 0, 0, 0}, true, DropInICMPType, false},
		{"fragmentation needed", append([]byte{inner.ICMP, 3, 4, 0, 0, 0, 0, 0, 68}, make([]byte, 28)...), false, DropInICMPType, false},
		{"quote too short", []byte{inner.ICMP, 3, 1, 0, 0, 0, 0, 0, 0, 0x45}, false, DropInICMPQuote, false},
		{"quote of the other family", append([]byte{inner.ICMPv6, 1, 4, 0, 0, 0, 0, 0, 0, 0x45}, make([]byte, 60)...), true, DropInICMPQuote, false},
		{"IP in IP", []byte{4, 0x45, 0, 0, 0}, false, DropInProtocol, false},
		{"GRE", []byte{47, 0, 0, 0, 0}, true, DropInProtocol, false},
		{"fragment of TCP", []byte{inner.Fragment, inner.TCP, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8}, false, DropInFragment, false},
		{"fragment without data", []byte{inner.Fragment, inner.UDP, 0, 0, 8, 0, 0, 0, 1}, false, DropInFragment, false},
		{"fragment, more but odd", []byte{inner.Fragment, inner.UDP, 0, 0, 9, 0, 0, 0, 1, 1}, true, DropInFragment, false},
		{"fragment past the largest packet", []byte{inner.Fragment, inner.UDP, 0, 0xff, 0xf8, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8}, false, DropInFragment, false},
		{"first fragment shorter than a header", []byte{inner.Fragment, inner.UDP, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3}, false, DropInFragment, false},
		{"fragment in a fragment", []byte{inner.Fragment, inner.Fragment, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3}, true, DropInFragment, false},
		{"first fragment of an ICMP error", []byte{inner.Fragment, inner.ICMP, 0, 0, 1, 0, 0, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0}, false, DropInFragment, false},
		{"first fragment of an ICMPv6 error", []byte{inner.Fragment, inner.ICMPv6, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0}, true, DropInFragment, false},
		{"first fragment of an echo", []byte{inner.Fragment, inner.ICMP, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0}, false, 0, true},
		{"last fragment", []byte{inner.Fragment, inner.UDP, 0, 0, 8, 0, 0, 0, 1, 1}, true, 0, true},
	} {
		self, peer := self4, peer4
		if tt.v6 {
			self, peer = self6, peer6
		}
		var k packet
		drop, ok := k.parse(bytes.Clone(tt.in), tt.v6, peer, self)
		if ok != tt.ok || !ok && drop != tt.drop {
			t.Errorf("%s: %v, %v; want %v, %v", tt.what, drop, ok, tt.drop, tt.ok)
		}
	}
}

// The headers that we write must be what gVisor's codec reads.
func TestHeaders(t *testing.T) {
	k := packet{h: inner.Header{Src: peer4, Dst: self4, Protocol: inner.UDP}, hl: 8, n: 100}
	v := k.header()
	h := header.IPv4(v.AsSlice())
	if !h.IsChecksumValid() || h.TTL() != 64 || h.TotalLength() != 128 || h.Flags() != header.IPv4FlagDontFragment ||
		h.SourceAddress().String() != peer4.String() || h.DestinationAddress().String() != self4.String() {
		t.Errorf("IPv4 header %x", []byte(h))
	}
	v.Release()
	k.h.Fragment, k.fragment = true, fragment{next: inner.UDP, id: 0x12345, off: 1440, more: true}
	v = k.header()
	h = header.IPv4(v.AsSlice())
	if !h.IsChecksumValid() || h.ID() != 0x2345 || h.FragmentOffset() != 1440 || !h.More() || h.Flags()&header.IPv4FlagDontFragment != 0 {
		t.Errorf("IPv4 fragment header %x", []byte(h))
	}
	back := fragmentOf4(h)
	if f, _, ok := parseFragment(append(back[:], make([]byte, 8)...), false); !ok || f.off != 1440 || !f.more || f.id != 0x2345 || f.next != inner.UDP {
		t.Errorf("fragment header %x: %+v, %v", back, f, ok)
	}
	v.Release()
	k.h.V6, k.h.Src, k.h.Dst = true, peer6, self6
	v = k.header()
	if h := header.IPv6(v.AsSlice()); h.PayloadLength() != 108 || h.NextHeader() != inner.Fragment || h.HopLimit() != 64 || !h.IsValid(len(h)+100) ||
		h.SourceAddress().String() != peer6.String() {
		t.Errorf("IPv6 header %x", []byte(h))
	}
	v.Release()
}

// A quote names the sender's LSIs; what we get must name ours and sum right.
func TestTranslateQuote(t *testing.T) {
	theirs, ours := netip.MustParseAddr("198.19.7.7"), netip.MustParseAddr("198.19.0.1")
	q := make([]byte, inner.IPv4Len, 64)
	putIPv4(q, inner.UDP, 36, theirs, ours, nil)
	msg := append(append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, q...), "12345678"...)
	if why, ok := translate(msg, false, self4, peer4); !ok {
		t.Fatal(why)
	}
	h := header.IPv4(msg[8:])
	if !h.IsChecksumValid() || h.SourceAddress().String() != self4.String() || h.DestinationAddress().String() != peer4.String() {
		t.Errorf("quote %x", []byte(h))
	}
	if checksum.Checksum(msg, 0) != 0xffff {
		t.Errorf("ICMP checksum of %x", msg)
	}
	q = make([]byte, inner.IPv6Len, 64)
	putIPv6(q, inner.UDP, 8, peer6, peer6)
	msg = append(append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, q...), "12345678"...)
	if why, ok := translate(msg, true, self6, peer6); !ok {
		t.Fatal(why)
	}
	if checksum.Checksum(msg, pseudo(peer6, self6, inner.ICMPv6, len(msg))) != 0xffff {
		t.Errorf("ICMPv6 checksum of %x", msg)
	}
	if h := header.IPv6(msg[8:]); h.SourceAddress().String() != self6.String() || h.DestinationAddress().String() != peer6.String() {
		t.Errorf("quote %x", []byte(h))
	}
}

func TestUnreachable(t *testing.T) {
	tcp := func(v6 bool, flags byte) []byte {
		th := tcpSegment(1, 0, flags, nil, nil)
		if v6 {
			b := make([]byte, inner.IPv6Len)
			putIPv6(b, inner.TCP, len(th), self6, peer6)
			return append(b, th...)
		}
		b := make([]byte, inner.IPv4Len)
		putIPv4(b, inner.TCP, len(th), self4, peer4, nil)
		return append(b, th...)
	}
	icmp := make([]byte, inner.IPv4Len)
	putIPv4(icmp, inner.ICMP, 36, self4, peer4, nil)
	icmp = append(append(icmp, 3, 1, 0, 0, 0, 0, 0, 0), make([]byte, 28)...)
	later := make([]byte, inner.IPv4Len)
	putIPv4(later, inner.UDP, 16, self4, peer4, &fragment{off: 8})
	later = append(later, make([]byte, 16)...)
	for _, tt := range []struct {
		what   string
		packet []byte
		why    reason
		ok     bool
		code   byte
	}{
		{"SYN", tcp(false, inner.SYN), unreachablePeer, true, 1},
		{"SYN refused", tcp(false, inner.SYN), unreachablePolicy, true, 13},
		{"SYN, IPv6", tcp(true, inner.SYN), unreachablePeer, true, 0},
		{"RST", tcp(false, inner.RST), unreachablePeer, false, 0},
		{"ICMP error", icmp, unreachablePeer, false, 0},
		{"later fragment", later, unreachablePeer, false, 0},
		{"rubbish", []byte{1, 2, 3}, unreachablePeer, false, 0},
	} {
		b, ok := unreachable(tt.packet, tt.why)
		if ok != tt.ok {
			t.Errorf("%s: answered %v", tt.what, ok)
		}
		if !ok {
			continue
		}
		hl := inner.IPv4Len
		if tt.packet[0]>>4 == 6 {
			hl = inner.IPv6Len
		} else if h := header.IPv4(b); !h.IsValid(len(b)) || !h.IsChecksumValid() || checksum.Checksum(b[hl:], 0) != 0xffff {
			t.Errorf("%s: answer %x", tt.what, b)
		}
		if b[hl+1] != tt.code || !bytes.Equal(b[hl+8:], tt.packet) {
			t.Errorf("%s: answer %x", tt.what, b)
		}
	}
}

func TestJoin(t *testing.T) {
	ts := timestamps
	data := []byte("0123456789")
	for _, tt := range []struct {
		what string
		a, k []byte // a comes before k
		want bool
	}{
		{"contiguous", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(110, 5, inner.ACK, nil, data), true},
		{"PSH on the last", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(110, 5, inner.ACK|inner.PSH, nil, data), true},
		{"FIN on the last", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(110, 5, inner.ACK|inner.FIN, nil, data), true},
		{"CWR on the first", tcpSegment(100, 5, inner.ACK|inner.CWR, nil, data), tcpSegment(110, 5, inner.ACK, nil, data), true},
		{"newer ack", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(110, 6, inner.ACK, nil, data), true},
		{"newer timestamp", tcpSegment(100, 5, inner.ACK, ts(1, 1), data), tcpSegment(110, 5, inner.ACK, ts(2, 2), data), true},
		{"across the end of the sequence space", tcpSegment(0xfffffffb, 5, inner.ACK, nil, data), tcpSegment(5, 5, inner.ACK, nil, data), true},
		{"gap", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(111, 5, inner.ACK, nil, data), false},
		{"overlap", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(109, 5, inner.ACK, nil, data), false},
		{"FIN on the first", tcpSegment(100, 5, inner.ACK|inner.FIN, nil, data), tcpSegment(110, 5, inner.ACK, nil, data), false},
		{"CWR on the last", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(110, 5, inner.ACK|inner.CWR, nil, data), false},
		{"ECE differs", tcpSegment(100, 5, inner.ACK|inner.ECE, nil, data), tcpSegment(110, 5, inner.ACK, nil, data), false},
		{"SYN", tcpSegment(100, 5, inner.ACK|inner.SYN, nil, data), tcpSegment(110, 5, inner.ACK, nil, data), false},
		{"RST", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(110, 5, inner.RST, nil, data), false},
		{"URG", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(110, 5, inner.ACK|inner.URG, nil, data), false},
		{"pure ACKs", tcpSegment(100, 5, inner.ACK, nil, nil), tcpSegment(100, 6, inner.ACK, nil, nil), false},
		{"ACK before data", tcpSegment(100, 5, inner.ACK, nil, nil), tcpSegment(100, 5, inner.ACK, nil, data), false},
		{"older ack last", tcpSegment(100, 6, inner.ACK, nil, data), tcpSegment(110, 5, inner.ACK, nil, data), false},
		{"older timestamp last", tcpSegment(100, 5, inner.ACK, ts(2, 1), data), tcpSegment(110, 5, inner.ACK, ts(1, 1), data), false},
		{"options differ", tcpSegment(100, 5, inner.ACK, ts(1, 1), data), tcpSegment(110, 5, inner.ACK, bytes.Repeat([]byte{1}, 12), data), false},
		{"header lengths differ", tcpSegment(100, 5, inner.ACK, nil, data), tcpSegment(110, 5, inner.ACK, ts(1, 1), data), false},
	} {
		var a, k packet
		for p, b := range map[*packet][]byte{&a: tt.a, &k: tt.k} {
			if why, ok := p.parse(append([]byte{inner.TCP}, b...), false, peer4, self4); !ok {
				t.Fatalf("%s: %v", tt.what, why)
			}
		}
		if got := k.join(&a); got != tt.want {
			t.Errorf("%s: joined %v", tt.what, got)
		} else if got {
			h, said := k.head[:k.hl], k.h
			said.ReadTransport(h)
			if said != k.h {
				t.Errorf("%s: the header %x is said to be %+v", tt.what, h, k.h)
			}
			if !bytes.Equal(h[4:8], tt.a[4:8]) || !bytes.Equal(h[8:12], tt.k[8:12]) || k.n != 20 ||
				h[13] != tt.k[13]|tt.a[13]&(inner.PSH|inner.CWR) || !bytes.Equal(h[20:], tt.k[20:k.hl]) {
				t.Errorf("%s: header %x", tt.what, h)
			}
		}
	}
	other := tcpSegment(110, 5, inner.ACK, nil, data)
	other[0]++
	var a, k packet
	a.parse(append([]byte{inner.TCP}, tcpSegment(100, 5, inner.ACK, nil, data)...), false, peer4, self4)
	k.parse(append([]byte{inner.TCP}, other...), false, peer4, self4)
	if k.join(&a) {
		t.Error("two flows joined")
	}
}

// A Packet's headers are found in whatever pieces the stack has it, a first
// fragment's ports among the payload, and read once.
func TestPacketHeader(t *testing.T) {
	datagram := []byte{0, 1, 0, 2, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}
	whole, first, later := make([]byte, inner.IPv4Len), make([]byte, inner.IPv4Len), make([]byte, inner.IPv4Len)
	putIPv4(whole, inner.UDP, 16, self4, peer4, nil)
	putIPv4(first, inner.UDP, 16, self4, peer4, &fragment{more: true})
	putIPv4(later, inner.UDP, 16, self4, peer4, &fragment{off: 16})
	first6 := make([]byte, inner.IPv6Len, inner.IPv6Len+inner.FragmentLen)
	putIPv6(first6, inner.Fragment, 24, self6, peer6)
	first6 = append(first6, inner.UDP, 0, 0, 1, 0, 0, 0, 9)
	flow := inner.Flow{Peer: peer4, PeerPort: 2, Port: 1}
	for _, tt := range []struct {
		what string
		pk   Packet
		ok   bool
		flow inner.Flow // zero: no ports
	}{
		{"a datagram", Packet{IP: whole, Transport: datagram[:8], Payload: [][]byte{datagram[8:]}}, true, flow},
		{"first fragment", Packet{IP: first, Payload: [][]byte{datagram}}, true, flow},
		{"later fragment", Packet{IP: later, Payload: [][]byte{datagram}}, true, inner.Flow{}},
		{"first fragment, IPv6", Packet{V6: true, IP: first6, Payload: [][]byte{datagram}}, true, inner.Flow{Peer: peer6, PeerPort: 2, Port: 1}},
		{"of the other family", Packet{V6: true, IP: whole, Transport: datagram[:8]}, false, inner.Flow{}},
		{"more than a header", Packet{IP: append(whole, 1)}, false, inner.Flow{}},
		{"nothing", Packet{}, false, inner.Flow{}},
	} {
		h, ok := tt.pk.Header()
		if ok != tt.ok || ok && (h.Ports != (tt.flow != inner.Flow{}) || h.Ports && h.Outbound() != tt.flow) {
			t.Errorf("%s: %+v, %v", tt.what, h, ok)
		}
		tt.pk.IP = nil
		if again, still := tt.pk.Header(); again != h || still != ok {
			t.Errorf("%s: read again", tt.what)
		}
		if tt.pk.Reset(); tt.ok {
			if _, ok := tt.pk.Header(); ok {
				t.Errorf("%s: a header after Reset", tt.what)
			}
		}
	}
}

func TestFlat(t *testing.T) {
	b := make([]byte, inner.IPv4Len)
	putIPv4(b, inner.TCP, 25, self4, peer4, nil)
	b = append(b, tcpSegment(1, 2, inner.ACK, nil, []byte("hello"))...)
	pk, ok := unflatten(b, 3)
	if !ok || len(pk.IP) != inner.IPv4Len || len(pk.Transport) != inner.TCPLen || pk.Size != 5 || pk.MSS != 3 || !bytes.Equal(pk.Flat(), b) {
		t.Errorf("%+v", pk)
	}
}

// FuzzParseIn holds that no plaintext makes parse or what follows reach
// outside of it.
func FuzzParseIn(f *testing.F) {
	f.Add([]byte{inner.UDP, 0, 1, 0, 2, 0, 9, 0, 0, 'x'}, false)
	f.Add(append([]byte{inner.TCP}, tcpSegment(1, 1, inner.ACK, timestamps(1, 2), []byte("x"))...), true)
	f.Add([]byte{inner.Fragment, inner.UDP, 0, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8}, false)
	f.Add(append([]byte{inner.ICMP, 3, 1, 0, 0, 0, 0, 0, 0, 0x45}, make([]byte, 40)...), false)
	f.Add(append([]byte{inner.ICMPv6, 1, 4, 0, 0, 0, 0, 0, 0, 0x60}, make([]byte, 60)...), true)
	f.Fuzz(func(t *testing.T, plain []byte, v6 bool) {
		self, peer := self4, peer4
		if v6 {
			self, peer = self6, peer6
		}
		var k packet
		if _, ok := k.parse(plain, v6, peer, self); !ok {
			return
		}
		if k.n < 0 || k.hl > maxHead || 1+k.hl+k.n > len(plain)+inner.FragmentLen || len(plain) > maxPlain {
			t.Fatalf("header %d, payload %d of %d bytes", k.hl, k.n, len(plain))
		}
		k2 := k
		k.join(&k2)
		v := k.header()
		pk, ok := unflatten(append(v.ToSlice(), plain[len(plain)-k2.n:]...), 0)
		if !ok {
			t.Fatal("unreadable header")
		}
		if pk.h != k.h {
			t.Fatalf("read as %+v, written from %+v", pk.h, k.h)
		}
		v.Release()
	})
}

// FuzzUnflatten: what we flattened ourselves is trusted, but parse and
// unreachable must hold for anything.
func FuzzUnflatten(f *testing.F) {
	b := make([]byte, inner.IPv4Len)
	putIPv4(b, inner.TCP, 20, self4, peer4, nil)
	f.Add(append(b, tcpSegment(1, 2, inner.SYN, nil, nil)...))
	b = make([]byte, inner.IPv6Len)
	putIPv6(b, inner.Fragment, 16, self6, peer6)
	f.Add(append(b, inner.UDP, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 2, 0, 8, 0, 0))
	s := &Shim{self4: self4, self6: self6}
	f.Fuzz(func(t *testing.T, b []byte) {
		pk, ok := unflatten(b, 0)
		if !ok {
			return
		}
		if !bytes.Equal(pk.Flat(), b) {
			t.Fatal("flat is not the reverse of unflatten")
		}
		if in, _, ok := s.parse(&pk); ok && in.head(make([]byte, in.len(&pk)), &pk) > in.len(&pk) {
			t.Fatal("head longer than the packet")
		}
		unreachable(b, unreachablePeer)
	})
}
