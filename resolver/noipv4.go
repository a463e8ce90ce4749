package resolver

import (
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// withoutIPv4 takes IPv4 LSIs out of an answer where Config.NoIPv4 says so: a name of a
// member has no A then, and is there all the same (RFC 2308 §2.2). An IPv4 LSI means
// something on its own host only (draft §9.1), so programs that put addresses into what
// they say, such as SIP phones, are understood if they are told IPv6 ones alone. Other
// names keep theirs, and so does this server.
func (s *Server) withoutIPv4(a *dns.Msg) *dns.Msg {
	if a == nil || !s.cfg.NoIPv4 {
		return a
	}
	before := len(a.Answer)
	a.Answer = slices.DeleteFunc(a.Answer, func(rr dns.RR) bool {
		r, ok := rr.(*dns.A)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(r.A.To4())
		return ok && ip != s.cfg.Addr.Unmap() && slices.ContainsFunc(s.cfg.Prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
	})
	if len(a.Answer) < before && !slices.ContainsFunc(a.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeCNAME }) {
		a.Ns = append(a.Ns, s.soa(s.domain))
	}
	return a
}
