package resolver

import (
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// accept copies what upstream said into the answer a, without what it may not
// say: records that point into the LSI prefixes, by which a page from outside
// could reach peers under its own name (DNS rebinding), and records about
// names that are ours. Records about the name in the question are given its
// letters: some clients hide entropy in their case ("0x20"). in is borrowed.
func (s *Server) accept(a, in *dns.Msg) {
	a.Rcode = in.Rcode
	a.Truncated = in.Truncated
	var n1, n2, n3 int
	a.Answer, n1 = s.strip(in.Answer)
	a.Ns, n2 = s.strip(in.Ns)
	a.Extra, n3 = s.strip(in.Extra)
	for i, rr := range a.Answer {
		if asked := a.Question[0].Name; rr.Header().Name != asked && strings.EqualFold(rr.Header().Name, asked) {
			a.Answer[i] = dns.Copy(rr)
			a.Answer[i].Header().Name = asked
		}
	}
	if n1+n2+n3 == 0 {
		a.AuthenticatedData = in.AuthenticatedData
	} else {
		s.cfg.Logger.Warn("upstream DNS spoke of LSIs or of the overlay; left out", "records", n1+n2+n3)
	}
}

// strip returns the records that may pass, and the number of others.
func (s *Server) strip(in []dns.RR) (out []dns.RR, dropped int) {
	for _, rr := range in {
		switch {
		case rr.Header().Rrtype == dns.TypeOPT: // of the hop
		case s.mayPass(rr):
			out = append(out, rr)
		default:
			dropped++
		}
	}
	return out, dropped
}

func (s *Server) mayPass(rr dns.RR) bool {
	if name := dns.CanonicalName(rr.Header().Name); dns.IsSubDomain(s.domain, name) {
		return false
	}
	switch rr := rr.(type) {
	case *dns.A:
		return !s.pointsIn(rr.A)
	case *dns.AAAA:
		return !s.pointsIn(rr.AAAA)
	case *dns.SVCB:
		return s.hintsPass(rr.Value)
	case *dns.HTTPS:
		return s.hintsPass(rr.Value)
	}
	return true
}

// hintsPass checks the addresses in the parameters of SVCB and HTTPS records.
func (s *Server) hintsPass(params []dns.SVCBKeyValue) bool {
	for _, kv := range params {
		var hint []net.IP
		switch kv := kv.(type) {
		case *dns.SVCBIPv4Hint:
			hint = kv.Hint
		case *dns.SVCBIPv6Hint:
			hint = kv.Hint
		}
		for _, ip := range hint {
			if s.pointsIn(ip) {
				return false
			}
		}
	}
	return true
}

// pointsIn says whether ip leads to an LSI, also through an IPv6 form of an
// IPv4 address that the host may unpack: mapped, compatible, or NAT64 with
// the well-known prefix (RFC 6052 §2.1).
func (s *Server) pointsIn(ip net.IP) bool {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return false // no address at all
	}
	if addr = addr.Unmap(); s.isLSI(addr) {
		return true
	}
	if addr.Is4() {
		return false
	}
	b := addr.As16()
	head := [12]byte(b[:12])
	nat64 := [12]byte{0x00, 0x64, 0xff, 0x9b}
	if head == nat64 || head == [12]byte{} {
		return s.isLSI(netip.AddrFrom4([4]byte(b[12:])))
	}
	return false
}
