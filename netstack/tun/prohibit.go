package tun

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/idloc/idloc/internal/inner"
)

const (
	ttl = 64

	// RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c): what an answer is at most.
	maxAnswer4 = 576
	maxAnswer6 = 1280

	// As of Linux: icmp_msgs_per_sec, icmp_msgs_burst (icmp(7)).
	answersPerSecond = 1000
	answersBurst     = 50
)

// bucket bounds the rate of answers. It belongs to one goroutine.
type bucket struct {
	spent float64
	at    time.Time
}

// take says whether one more may be sent now.
func (b *bucket) take(now time.Time) bool {
	b.spent = max(0, b.spent-now.Sub(b.at).Seconds()*answersPerSecond)
	b.at = now
	if b.spent+1 > answersBurst {
		return false
	}
	b.spent++
	return true
}

// prohibited writes the ICMP error "communication administratively prohibited"
// about packet, as if its destination had sent it, and returns its length. It is
// 0 where no error may be sent (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): about ICMP
// errors, later fragments, and what does not go from one host to one host.
func prohibited(answer *[maxAnswer6]byte, packet []byte) int {
	if len(packet) < inner.IPv4Len {
		return 0
	}
	if packet[0]>>4 == 6 {
		return prohibited6(answer[:], packet)
	}
	return prohibited4(answer[:maxAnswer4], packet)
}

func prohibited4(b, packet []byte) int {
	hl := int(packet[0]&15) * 4
	if packet[0]>>4 != 4 || hl < inner.IPv4Len || len(packet) <= hl || binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		return 0
	}
	src, dst := netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:]))
	if packet[9] == inner.ICMP && icmp4NoAnswer(packet[hl]) || !oneHost(src) || !oneHost(dst) {
		return 0
	}
	n := inner.IPv4Len + inner.ICMPLen
	n += copy(b[n:], packet)
	clear(b[:inner.IPv4Len+inner.ICMPLen])
	b[0], b[8], b[9] = 0x45, ttl, inner.ICMP
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:], packet[16:20])
	copy(b[16:], packet[12:16])
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:inner.IPv4Len], 0))
	const unreachable, prohibited = 3, 13
	msg := b[inner.IPv4Len:n]
	msg[0], msg[1] = unreachable, prohibited
	binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, 0))
	return n
}

// icmp4NoAnswer says whether an ICMP message is an error, or may be one.
func icmp4NoAnswer(t byte) bool {
	switch t {
	case 3, 4, 5, 11, 12: // unreachable, source quench, redirect, time exceeded, parameter
		return true
	}
	return t > 18
}

func prohibited6(b, packet []byte) int {
	if len(packet) <= inner.IPv6Len {
		return 0
	}
	src, dst := netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:]))
	next, rest, ok := upper6(packet)
	if !ok || !oneHost(src) || !oneHost(dst) {
		return 0
	}
	const firstQuery, redirect = 128, 137
	if next == inner.ICMPv6 && (len(rest) == 0 || rest[0] < firstQuery || rest[0] == redirect) {
		return 0
	}
	n := inner.IPv6Len + inner.ICMPLen
	n += copy(b[n:], packet)
	clear(b[:inner.IPv6Len+inner.ICMPLen])
	b[0], b[6], b[7] = 0x60, inner.ICMPv6, ttl
	binary.BigEndian.PutUint16(b[4:], uint16(n-inner.IPv6Len))
	copy(b[8:], packet[24:40])
	copy(b[24:], packet[8:24])
	const unreachable, prohibited = 1, 1
	msg := b[inner.IPv6Len:n]
	msg[0], msg[1] = unreachable, prohibited
	binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, pseudo(true, b, inner.ICMPv6, len(msg))))
	return n
}

// upper6 finds what is behind the extension headers (RFC 8200 §4). It is false
// for later fragments and what has no end.
func upper6(packet []byte) (next byte, rest []byte, ok bool) {
	next, rest = packet[6], packet[inner.IPv6Len:]
	for {
		n := 0
		switch next {
		default:
			return next, rest, true
		case 0, 43, 60: // hop-by-hop options, routing, destination options
			if len(rest) >= 2 {
				n = int(rest[1])*8 + 8
			}
		case inner.Fragment:
			if n = 8; len(rest) >= n && binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
				return 0, nil, false
			}
		}
		if n == 0 || len(rest) < n {
			return 0, nil, false
		}
		next, rest = rest[0], rest[n:]
	}
}

// oneHost says whether a is the address of one host that can be sent to from
// another.
func oneHost(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !(a.Is4() && a.As4()[0] >= 240)
}
