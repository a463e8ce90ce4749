package resolver

import (
	"context"
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	// udpSize is the largest answer over UDP, ours and what we ask upstream
	// for: the size that the DNS Flag Day 2020 found to pass unfragmented.
	udpSize = 1232
)

// reply answers one message as it came from a socket. It returns nil if
// nothing must be sent: to what is no query there is no reply, so that two
// servers cannot be made to talk to each other. raw is borrowed.
func (s *Server) reply(ctx context.Context, raw []byte, udp bool) []byte {
	return s.replyWith(ctx, raw, udp, s.Answer)
}

func (s *Server) replyWith(ctx context.Context, raw []byte, udp bool, answer func(context.Context, *dns.Msg) *dns.Msg) []byte {
	if len(raw) < headerLen || raw[2]&0x80 != 0 { // QR: a response
		return nil
	}
	q := new(dns.Msg)
	var a *dns.Msg
	if op := int(raw[2]>>3) & 15; op != dns.OpcodeQuery {
		return header(raw, dns.RcodeNotImplemented)
	} else if err := q.Unpack(raw); err != nil || !whole(q, raw) {
		return header(raw, dns.RcodeFormatError)
	} else if a = answer(ctx, q); a == nil {
		return nil
	}
	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			// RFC 6891 §6.2.3: values below 512 mean 512.
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
		}
	}
	a.Truncate(size)
	out, err := a.Pack()
	if err != nil {
		s.cfg.Logger.Debug("DNS answer does not pack", "err", err)
		return header(raw, dns.RcodeServerFailure)
	}
	return out
}

// whole says whether q has as many records as its header says: the parser is
// content with a message that ends between two of them.
func whole(q *dns.Msg, raw []byte) bool {
	for i, n := range []int{len(q.Question), len(q.Answer), len(q.Ns), len(q.Extra)} {
		if int(binary.BigEndian.Uint16(raw[4+2*i:])) != n {
			return false
		}
	}
	return true
}

// header is an answer without sections, for what we do not or cannot read.
func header(raw []byte, rcode int) []byte {
	b := make([]byte, headerLen)
	copy(b, raw[:2])          // ID
	b[2] = 0x80 | raw[2]&0x79 // QR, the opcode, RD
	binary.BigEndian.PutUint16(b[2:], binary.BigEndian.Uint16(b[2:])|uint16(rcode&15))
	return b
}

// newReply returns the empty answer to q: its ID, question as it was written
// (some clients hide entropy in the case of letters) and RD.
func newReply(q *dns.Msg) *dns.Msg {
	a := new(dns.Msg)
	a.Id = q.Id
	a.Response = true
	a.Opcode = q.Opcode
	a.RecursionDesired = q.RecursionDesired
	a.CheckingDisabled = q.CheckingDisabled
	a.Compress = true
	a.Question = append([]dns.Question(nil), q.Question...)
	return a
}

// addEDNS gives the answer the OPT record that a query with one expects
// (RFC 6891 §6.1.1), with an extended error if there is one.
func addEDNS(a, q *dns.Msg, reason *dns.EDNS0_EDE) {
	in := q.IsEdns0()
	if in == nil {
		return
	}
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(udpSize)
	opt.SetExtendedRcode(uint16(a.Rcode))
	if in.Do() {
		opt.SetDo()
	}
	if reason != nil {
		opt.Option = append(opt.Option, reason)
	}
	a.Extra = append(a.Extra, opt)
}
