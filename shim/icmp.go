package shim

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
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

const icmpLen = 8

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
	if len(msg) < icmpLen {
		return DropInShort, false
	}
	t, code := msg[0], msg[1]
	if !icmpPasses(v6, t) || !v6 && t == icmp4Unreachable && code == code4FragNeeded {
		return DropInICMPType, false
	}
	if icmpError(v6, t) {
		if q := msg[icmpLen:]; v6 {
			if len(q) < ipv6Len+8 || q[0]>>4 != 6 {
				return DropInICMPQuote, false
			}
			s, d := self.As16(), peer.As16()
			copy(q[8:], s[:])
			copy(q[24:], d[:])
		} else {
			hl := 0
			if len(q) >= ipv4Len {
				hl = int(q[0]&15) * 4
			}
			if hl < ipv4Len || len(q) < hl+8 || q[0]>>4 != 4 {
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
		sum = pseudo(src, dst, protoICMPv6, len(msg))
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
	if b, v6, ok := unreachable(a.packet, a.why); ok {
		s.count.in.Add(1)
		(*u).Deliver(v6, buffer.MakeWithView(buffer.NewViewWithData(b)))
	}
}

// unreachable makes the ICMP error about a packet that we sent, as if its
// destination had sent it. None is made about ICMP errors, resets and later
// fragments (RFC 1122 §3.2.2).
func unreachable(packet []byte, why reason) (b []byte, v6, ok bool) {
	pk, ok := unflatten(packet, 0)
	if !ok {
		return nil, false, false
	}
	v6 = pk.V6
	ip := pk.IP
	var next byte
	var src, dst netip.Addr
	quote, hl := 548, ipv4Len // RFC 1812 §4.3.2.3: within 576 bytes
	if v6 {
		next, src, dst = ip[6], netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		quote, hl = 1280-ipv6Len-icmpLen, ipv6Len // RFC 4443 §2.4 (c)
		if next == protoFragment {
			next = ip[ipv6Len]
			ok = binary.BigEndian.Uint16(ip[ipv6Len+2:])&^7 == 0
		}
	} else {
		next, src, dst = ip[9], netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		ok = binary.BigEndian.Uint16(ip[6:])&0x1fff == 0
	}
	first, has := pk.firstByte()
	switch {
	case !ok || !has:
		return nil, v6, false
	case next == protoTCP && len(pk.Transport) >= tcpMinLen && pk.Transport[13]&flagRST != 0:
		return nil, v6, false
	case (next == protoICMP || next == protoICMPv6) && icmpError(v6, first):
		return nil, v6, false
	}
	q := packet[:min(len(packet), quote)]
	b = make([]byte, hl+icmpLen, hl+icmpLen+len(q))
	b = append(b, q...)
	msg := b[hl:]
	if v6 {
		// Stacks map "no route" to a network error; gVisor's takes notice of
		// no other code of this kind, so all reasons share it.
		msg[0], msg[1] = icmp6Unreachable, code6NoRoute
		putIPv6(b, protoICMPv6, len(msg), dst, src)
	} else {
		msg[0], msg[1] = icmp4Unreachable, code4Host
		if why == unreachablePolicy {
			msg[1] = code4Admin
		}
		putIPv4(b, protoICMP, len(msg), dst, src, nil)
	}
	sumICMP(msg, v6, dst, src)
	return b, v6, true
}
