package tun

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
)

// between sets the addresses of a packet.
func between(packet []byte, src, dst string) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	at, n := 12, 4
	if s.Is6() {
		at, n = 8, 16
	}
	copy(packet[at:], s.AsSlice())
	copy(packet[at+n:], d.AsSlice())
	return packet
}

// What is answered with "administratively prohibited" and what never is.
func TestProhibited(t *testing.T) {
	const host4, host6, lsi4, lsi6 = "192.0.2.1", "2001:db8::1", "198.18.0.2", "2001:20::2"
	syn := func(v6 bool) []byte { return packet(v6, inner.TCP, tcpHeader(header.TCPFlagSyn), 0) }
	icmp4 := func(typ byte) []byte { return packet(false, inner.ICMP, []byte{typ, 0, 0, 0, 0, 0, 0, 0}, 0) }
	icmp6 := func(typ byte) []byte { return packet(true, inner.ICMPv6, []byte{typ, 0, 0, 0, 0, 0, 0, 0}, 0) }
	fragment4 := packet(false, inner.UDP, make([]byte, 100), 0)
	fragment4[7] = 9
	fragment6 := func(off byte) []byte {
		return packet(true, inner.Fragment, append([]byte{inner.UDP, 0, off, 1, 0, 0, 0, 1}, udpHeader(8)...), 8)
	}
	behind := func(first byte, ext []byte, last byte) []byte {
		ext[0] = last
		return packet(true, first, append(ext, 1, 2, 3, 4, 5, 6, 7, 8), 0)
	}
	for _, c := range []struct {
		what     string
		packet   []byte
		src, dst string
		want     bool
	}{
		{"a SYN", syn(false), host4, lsi4, true},
		{"a SYN", syn(true), host6, lsi6, true},
		{"a large datagram", append(packet(false, inner.UDP, udpHeader(3000), 3000), make([]byte, 3000)...), host4, lsi4, true},
		{"a large datagram", append(packet(true, inner.UDP, udpHeader(3000), 3000), make([]byte, 3000)...), host6, lsi6, true},
		{"ping", icmp4(8), host4, lsi4, true},
		{"ping", icmp6(128), host6, lsi6, true},
		{"a protocol that does not pass", packet(false, 47, make([]byte, 8), 0), host4, lsi4, true},
		{"a first fragment", fragment6(0), host6, lsi6, true},
		{"options", behind(0, make([]byte, 8), inner.UDP), host6, lsi6, true},
		{"an ICMP error", icmp4(3), host4, lsi4, false},
		{"an ICMP error", icmp4(11), host4, lsi4, false},
		{"an ICMP redirect", icmp4(5), host4, lsi4, false},
		{"ICMP of an unknown type", icmp4(99), host4, lsi4, false},
		{"an ICMP error", icmp6(1), host6, lsi6, false},
		{"an ICMP error of an unknown type", icmp6(100), host6, lsi6, false},
		{"an ICMP redirect", icmp6(137), host6, lsi6, false},
		{"an ICMP error behind options", behind(60, make([]byte, 16), inner.ICMPv6)[:inner.IPv6Len+16], host6, lsi6, false},
		{"a later fragment", fragment4, host4, lsi4, false},
		{"a later fragment", fragment6(8), host6, lsi6, false},
		{"options without an end", packet(true, 60, []byte{inner.UDP, 200, 0, 0, 0, 0, 0, 0}, 0), host6, lsi6, false},
		{"nothing behind the header", packet(false, inner.UDP, nil, 0), host4, lsi4, false},
		{"nothing behind the header", packet(true, inner.UDP, nil, 0), host6, lsi6, false},
		{"to many", syn(false), host4, "224.0.0.1", false},
		{"to all", syn(false), host4, "255.255.255.255", false},
		{"to many", syn(true), host6, "ff02::2", false},
		{"from nobody", syn(false), "0.0.0.0", lsi4, false},
		{"from nobody", syn(true), "::", lsi6, false},
		{"from many", syn(false), "224.0.0.1", lsi4, false},
		{"from loopback", syn(false), "127.0.0.1", lsi4, false},
	} {
		p := between(c.packet, c.src, c.dst)
		v6 := p[0]>>4 == 6
		if v6 && c.what == "options" { // the length of its extension
			p[inner.IPv6Len+1] = 0
		}
		if c.what == "an ICMP error behind options" {
			p[inner.IPv6Len+1] = 1
		}
		var b [maxAnswer6]byte
		n := prohibited(&b, p)
		if (n > 0) != c.want {
			t.Errorf("%s from %s to %s: answered with %d bytes", c.what, c.src, c.dst, n)
		}
		if n > 0 {
			answered(t, c.what, v6, b[:n], p)
		}
	}
}

// answered fails unless answer is right and quotes packet.
func answered(t *testing.T, what string, v6 bool, answer, packet []byte) {
	t.Helper()
	quote := answer[inner.IPv4Len+inner.ICMPLen:]
	if v6 {
		ip := header.IPv6(answer)
		icmp := header.ICMPv6(ip.Payload())
		quote = icmp.Payload()
		sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(icmp)))
		if !ip.IsValid(len(answer)) || icmp.Type() != header.ICMPv6DstUnreachable || icmp.Code() != header.ICMPv6Prohibited || checksum.Checksum(icmp, sum) != 0xffff {
			t.Errorf("%s: answered by % x", what, answer)
		}
		if in := header.IPv6(packet); ip.SourceAddress() != in.DestinationAddress() || ip.DestinationAddress() != in.SourceAddress() {
			t.Errorf("%s: answer from %v to %v", what, ip.SourceAddress(), ip.DestinationAddress())
		}
	} else {
		ip := header.IPv4(answer)
		icmp := header.ICMPv4(ip.Payload())
		if !ip.IsValid(len(answer)) || !ip.IsChecksumValid() || icmp.Type() != header.ICMPv4DstUnreachable || icmp.Code() != 13 || checksum.Checksum(icmp, 0) != 0xffff {
			t.Errorf("%s: answered by % x", what, answer)
		}
		if in := header.IPv4(packet); ip.SourceAddress() != in.DestinationAddress() || ip.DestinationAddress() != in.SourceAddress() {
			t.Errorf("%s: answer from %v to %v", what, ip.SourceAddress(), ip.DestinationAddress())
		}
	}
	if len(quote) != min(len(packet), len(quote)) || !bytes.HasPrefix(packet, quote) || len(quote) < min(len(packet), 548) {
		t.Errorf("%s: quotes %d of %d bytes", what, len(quote), len(packet))
	}
}

// A burst is answered, then a steady number.
func TestBucket(t *testing.T) {
	var b bucket
	now := time.Unix(1e9, 0)
	count := func(tries int) (n int) {
		for range tries {
			if b.take(now) {
				n++
			}
		}
		return n
	}
	if n := count(1000); n != answersBurst {
		t.Errorf("%d at once", n)
	}
	if now = now.Add(10 * time.Millisecond); count(1000) != 10 {
		t.Error("not ten in ten milliseconds")
	}
	if now = now.Add(time.Hour); count(1000) != answersBurst {
		t.Error("a pause is saved up")
	}
}

func FuzzProhibited(f *testing.F) {
	f.Add(packet(false, inner.TCP, tcpHeader(header.TCPFlagSyn), 0))
	f.Add(packet(true, inner.TCP, tcpHeader(header.TCPFlagSyn), 0))
	f.Add(packet(true, 60, []byte{inner.UDP, 0, 0, 0, 0, 0, 0, 0, 1}, 0))
	f.Fuzz(func(t *testing.T, p []byte) {
		var b [maxAnswer6]byte
		if n := prohibited(&b, p); n > 0 {
			answered(t, "it", p[0]>>4 == 6, b[:n], p)
		}
	})
}
