package resolver

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"
)

// Answer answers one query. It returns nil for what is no query. The answer
// is complete: cutting it to what a transport takes is the caller's.
func (s *Server) Answer(ctx context.Context, q *dns.Msg) *dns.Msg {
	return s.withoutIPv4(s.answer(ctx, q, false))
}

// answerInside is Answer for a client inside this process, which has the
// host's search list.
func (s *Server) answerInside(ctx context.Context, q *dns.Msg) *dns.Msg {
	return s.answer(ctx, q, true)
}

func (s *Server) answer(ctx context.Context, q *dns.Msg, inside bool) *dns.Msg {
	if q.Response {
		return nil
	}
	a := newReply(q)
	a.RecursionAvailable = len(s.upstreams()) > 0
	rcode := check(q)
	if rcode == dns.RcodeSuccess && !s.begin() {
		rcode = dns.RcodeServerFailure
	}
	if rcode != dns.RcodeSuccess {
		a.Rcode = rcode
		addEDNS(a, q, nil)
		return a
	}
	defer s.work.Done()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	stop := context.AfterFunc(s.context, cancel)
	defer stop()

	question := q.Question[0]
	name := dns.CanonicalName(question.Name)
	var reason *dns.EDNS0_EDE
	switch {
	case dns.IsSubDomain(s.domain, name):
		reason = s.answerZone(ctx, a, question, name)
	case s.searched(name) != "":
		reason = s.answerSearched(ctx, a, name)
	case s.answerReverse(a, question, name), answerSpecial(a, question, name):
	default:
		if bare := s.answerBare(ctx, a, q, name, inside); bare != nil {
			return bare
		}
		if q.RecursionDesired {
			return s.forward(ctx, a, q)
		}
		// We are a stub's server: what is not ours exists only by recursion.
		a.Rcode = dns.RcodeRefused
	}
	addEDNS(a, q, reason)
	return a
}

// check says what keeps a query from being answered, or RcodeSuccess.
func check(q *dns.Msg) int {
	if q.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	// RFC 9619: one question, neither none nor two.
	if len(q.Question) != 1 || len(q.Answer) != 0 || len(q.Ns) != 0 {
		return dns.RcodeFormatError
	}
	opts := 0
	for _, rr := range q.Extra {
		if opt, ok := rr.(*dns.OPT); ok {
			if opts++; opts > 1 || opt.Hdr.Name != "." {
				return dns.RcodeFormatError // RFC 6891 §6.1.1
			}
			if opt.Version() != 0 {
				return dns.RcodeBadVers
			}
		}
	}
	question := q.Question[0]
	if question.Qtype == dns.TypeOPT || question.Qtype == dns.TypeNone || question.Qclass == 0 {
		return dns.RcodeFormatError
	}
	if question.Qclass != dns.ClassINET || refusedType(question.Qtype) {
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// refusedType says whether a type is no plain question: zone transfers would
// list the members, and the others are for servers among themselves.
func refusedType(t uint16) bool {
	switch t {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeTKEY, dns.TypeTSIG:
		return true
	}
	return false
}

// answerSpecial answers names that no DNS server outside may be asked for.
func answerSpecial(a *dns.Msg, q dns.Question, name string) bool {
	switch {
	case dns.IsSubDomain("localhost.", name): // RFC 6761 §6.3
		var addrs []netip.Addr
		if name == "localhost." || q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA {
			addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
		}
		appendAddrs(a, q, addrs...)
	case dns.IsSubDomain("invalid.", name), dns.IsSubDomain("onion.", name): // RFC 6761 §6.4, RFC 7686 §2
		a.Rcode = dns.RcodeNameError
	default:
		return false
	}
	return true
}

// appendAddrs adds A and AAAA records as the question wants them, under the
// name as it was written.
func appendAddrs(a *dns.Msg, q dns.Question, addrs ...netip.Addr) {
	for _, ip := range addrs {
		switch hdr := (dns.RR_Header{Name: q.Name, Class: dns.ClassINET, Ttl: ttlSeconds}); {
		case ip.Is4() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
			hdr.Rrtype = dns.TypeA
			a.Answer = append(a.Answer, &dns.A{Hdr: hdr, A: ip.AsSlice()})
		case ip.Is6() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY):
			hdr.Rrtype = dns.TypeAAAA
			a.Answer = append(a.Answer, &dns.AAAA{Hdr: hdr, AAAA: ip.AsSlice()})
		}
	}
}
