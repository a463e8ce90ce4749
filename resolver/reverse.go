package resolver

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// answerReverse answers for names in the reverse zones of the LSI prefixes,
// and returns false for all others.
func (s *Server) answerReverse(a *dns.Msg, q dns.Question, name string) bool {
	at, exact, ok := parseReverse(name)
	if !ok {
		return false
	}
	var prefix netip.Prefix
	for _, p := range s.cfg.Prefixes {
		if p.Addr().Is4() == at.Addr().Is4() && p.Bits() <= at.Bits() && p.Contains(at.Addr()) {
			prefix = p
		}
	}
	if !prefix.IsValid() {
		return false
	}
	a.Authoritative = true
	// Our zones begin at the first label boundary inside the prefix.
	unit := 8
	if at.Addr().Is6() {
		unit = 4
	}
	apex := (prefix.Bits() + unit - 1) / unit * unit
	zone := reverseName(netip.PrefixFrom(at.Addr(), apex), unit)
	switch {
	case !exact:
		a.Rcode = dns.RcodeNameError
	case at.Bits() == at.Addr().BitLen():
		s.answerPTR(a, q, at.Addr())
	}
	if exact && at.Bits() == apex {
		s.appendApex(a, q.Name, q.Qtype)
		if len(a.Answer) > 0 {
			a.Rcode = dns.RcodeSuccess
		}
	}
	s.finishNegative(a, zone)
	return true
}

// answerPTR answers for one whole LSI.
func (s *Server) answerPTR(a *dns.Msg, q dns.Question, ip netip.Addr) {
	var target string
	if ip == s.cfg.Addr.Unmap() {
		target = serverLabel + "." + s.domain
	} else if id, ok := s.cfg.LSIs.Peer(ip); ok {
		if target = s.cfg.NameOf(id); target == "" {
			target = id.Label() + "." + s.domain
		}
	} else {
		a.Rcode = dns.RcodeNameError
		return
	}
	if q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
		a.Answer = append(a.Answer, &dns.PTR{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttlSeconds},
			Ptr: dns.Fqdn(target),
		})
	}
}

// parseReverse reads a name below in-addr.arpa or ip6.arpa, canonical, from
// the right as far as it makes sense. at is the address or the prefix that it
// names; exact is false if labels were left over.
func parseReverse(name string) (at netip.Prefix, exact, ok bool) {
	labels, v4 := strings.CutSuffix(name, ".in-addr.arpa.")
	if !v4 {
		var v6 bool
		if labels, v6 = strings.CutSuffix(name, ".ip6.arpa."); !v6 {
			return netip.Prefix{}, false, false
		}
	}
	var b [16]byte
	bits, size, unit, base := 0, 128, 4, 16
	if v4 {
		size, unit, base = 32, 8, 10
	}
	for ; labels != "" && bits < size; bits += unit {
		i := strings.LastIndexByte(labels, '.')
		n, err := strconv.ParseUint(labels[i+1:], base, unit)
		if err != nil || strconv.FormatUint(n, base) != labels[i+1:] {
			break
		}
		b[bits/8] |= byte(n) << (8 - unit - bits%8)
		labels = labels[:max(i, 0)]
	}
	addr := netip.AddrFrom16(b)
	if v4 {
		addr = netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.PrefixFrom(addr, bits), labels == "", true
}

// reverseName is the inverse of parseReverse for whole labels.
func reverseName(p netip.Prefix, unit int) string {
	b := p.Masked().Addr().AsSlice()
	var out strings.Builder
	for bits := p.Bits() - unit; bits >= 0; bits -= unit {
		n := uint64(b[bits/8]>>(8-unit-bits%8)) & (1<<unit - 1)
		if unit == 4 {
			out.WriteString(strconv.FormatUint(n, 16))
		} else {
			out.WriteString(strconv.FormatUint(n, 10))
		}
		out.WriteByte('.')
	}
	if p.Addr().Is4() {
		return out.String() + "in-addr.arpa."
	}
	return out.String() + "ip6.arpa."
}
