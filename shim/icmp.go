package shim

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/idloc/idloc/internal/inner"
)

// Types and codes (RFC 792, RFC 4443) that pass or are made here.
const (
	icmp4EchoReply    = 0
	icmp4Unreachable  = 3
	icmp4Echo         = 8
	icmp4TimeExceeded = 11
	icmp4Parameter    = 12

	icmp6Unreachable  = 1
	icmp6TimeExceeded = 3
	icmp6Parameter    = 4
	icmp6Echo         = 128
	icmp6EchoReply    = 129

	code4Host       = 1
	code4FragNeeded = 4
	code4Admin      = 13
	code6NoRoute    = 0
)

// icmpError says whether t is an error whose quote must be translated.
// "Packet too big" is missing: the pipe knows what fits, a peer that claims
// less would only slow its own flows.
func icmpError(v6 bool, t byte) bool {
	if v6 {
		return t == icmp6Unreachable || t == icmp6TimeExceeded || t == icmp6Parameter
	}
	return t == icmp4Unreachable || t == icmp4TimeExceeded || t == icmp4Parameter
}

// icmpPasses says whether a message of type t may travel (DESIGN §6).
func icmpPasses(v6 bool, t byte) bool {
	if v6 {
		return t == icmp6Echo || t == icmp6EchoReply || icmpError(true, t)
	}
	return t == icmp4Echo || t == icmp4EchoReply || icmpError(false, t)
}

// translate makes an ICMP message that peer sent one of ours, in place: the
// packet it quotes is one that we sent to peer, seen with the peer's names,
// so source and destination become our own. Only the peer itself can send
// it, and it can quote nothing but what went to itself, whatever addresses
// it wrote there. The checksum is made anew.
func translate(msg []byte, v6 bool, self, peer netip.Addr) (Drop, bool) {
	if len(msg) < inner.ICMPLen {
		return DropInShort, false
	}
	t, code := msg[0], msg[1]
	if !icmpPasses(v6, t) || !v6 && t == icmp4Unreachable && code == code4FragNeeded {
		return DropInICMPType, false
	}
	if icmpError(v6, t) {
		if q := msg[inner.ICMPLen:]; v6 {
			if len(q) < inner.IPv6Len+8 || q[0]>>4 != 6 {
				return DropInICMPQuote, false
			}
			s, d := self.As16(), peer.As16()
			copy(q[8:], s[:])
			copy(q[24:], d[:])
		} else {
			hl := 0
			if len(q) >= inner.IPv4Len {
				hl = int(q[0]&15) * 4
			}
			if hl < inner.IPv4Len || len(q) < hl+8 || q[0]>>4 != 4 {
				return DropInICMPQuote, false
			}
			s, d := self.As4(), peer.As4()
			copy(q[12:], s[:])
			copy(q[16:], d[:])
			q[10], q[11] = 0, 0
			binary.BigEndian.PutUint16(q[10:], ^checksum.Checksum(q[:hl], 0))
		}
	}
	sumICMP(msg, v6, peer, self)
	return 0, true
}

// sumICMP writes the checksum of msg.
func sumICMP(msg []byte, v6 bool, src, dst netip.Addr) {
	msg[2], msg[3] = 0, 0
	var sum uint16
	if v6 {
		sum = pseudo(src, dst, inner.ICMPv6, len(msg))
	}
	binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, sum))
}

// reason is why a packet of our own stack cannot be delivered.
type reason uint8

const (
	unreachableNoPeer reason = iota // nobody has that LSI
	unreachablePeer                 // no pipe could be opened
	unreachablePolicy               // somebody's policy refused
)

// codeFor chooses the reason by what a Connector said.
func codeFor(err error) reason {
	var r interface{ Refused() bool }
	if errors.As(err, &r) && r.Refused() {
		return unreachablePolicy
	}
	return unreachablePeer
}

// maxAnswers bounds the ICMP errors that wait for the stack.
const maxAnswers = 64

// answer is an ICMP error to be made about a packet.
type answer struct {
	packet []byte
	why    reason
}

// answer queues an ICMP error about packet, which is ours from now on.
func (s *Shim) answer(packet []byte, why reason) {
	select {
	case s.answers <- answer{packet, why}:
	default:
		s.count.drop(DropAnswer)
	}
}

// answerLoop delivers queued answers: the stack may hold a connection's lock
// while it calls Output, and takes it again for an ICMP error.
func (s *Shim) answerLoop() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case a := <-s.answers:
			s.deliverAnswer(a)
		}
	}
}

func (s *Shim) deliverAnswer(a answer) {
	u := s.upper.Load()
	if u == nil {
		s.count.drop(DropInNoUpper)
		return
	}
	if b, ok := unreachable(a.packet, a.why); ok {
		var h inner.Header
		h.Parse(b)
		s.count.in.Add(1)
		(*u).Deliver(&h, buffer.MakeWithView(buffer.NewViewWithData(b)))
	}
}

// unreachable makes the ICMP error about a packet that we sent, as if its
// destination had sent it. None is made about ICMP errors, resets and later
// fragments (RFC 1122 §3.2.2).
func unreachable(packet []byte, why reason) (b []byte, ok bool) {
	pk, ok := unflatten(packet, 0)
	if !ok {
		return nil, false
	}
	h := &pk.h
	first, has := pk.firstByte()
	switch {
	case h.Later || !has, h.Flags&inner.RST != 0:
		return nil, false
	case (h.Protocol == inner.ICMP || h.Protocol == inner.ICMPv6) && icmpError(h.V6, first):
		return nil, false
	}
	quote, hl := 548, inner.IPv4Len // RFC 1812 §4.3.2.3: within 576 bytes
	if h.V6 {
		quote, hl = 1280-inner.IPv6Len-inner.ICMPLen, inner.IPv6Len // RFC 4443 §2.4 (c)
	}
	q := packet[:min(len(packet), quote)]
	b = make([]byte, hl+inner.ICMPLen, hl+inner.ICMPLen+len(q))
	b = append(b, q...)
	msg := b[hl:]
	if h.V6 {
		// Stacks map "no route" to a network error; gVisor's takes notice of
		// no other code of this kind, so all reasons share it.
		msg[0], msg[1] = icmp6Unreachable, code6NoRoute
		putIPv6(b, inner.ICMPv6, len(msg), h.Dst, h.Src)
	} else {
		msg[0], msg[1] = icmp4Unreachable, code4Host
		if why == unreachablePolicy {
			msg[1] = code4Admin
		}
		putIPv4(b, inner.ICMP, len(msg), h.Dst, h.Src, nil)
	}
	sumICMP(msg, h.V6, h.Dst, h.Src)
	return b, true
}
