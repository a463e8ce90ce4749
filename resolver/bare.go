package resolver

import (
	"context"
	"errors"
	"strings"

	"github.com/miekg/dns"
)

// bareForm is how a label without a domain reaches us.
type bareForm uint8

const (
	notBare  bareForm = iota
	alone             // "mars."
	suffixed          // "mars.corp.example.": a stub has appended a search domain
	twice             // "mars.corp.example.corp.example.": behind a name that had one already
)

// bare returns the label that a client may have asked for without a domain.
// The forms with search domains are looked for only in the questions of
// clients inside this process (NetResolver): theirs are the host's, and what
// they ask next is known.
func (s *Server) bare(name string, inside bool) (label, rest string, form bareForm) {
	label, rest, _ = strings.Cut(name, ".")
	if !isHostLabel(label) {
		return "", "", notBare
	}
	if rest == "" {
		return label, "", alone
	}
	if !inside {
		return "", "", notBare
	}
	domains := s.cfg.Search()
	for _, d := range domains {
		d = dns.CanonicalName(d)
		if rest == d {
			return label, rest, suffixed
		}
		if outer, ok := strings.CutPrefix(rest, d); ok && contains(domains, outer) {
			return label, d, twice
		}
	}
	return "", "", notBare
}

// contains says whether a canonical name is one of domains.
func contains(domains []string, name string) bool {
	for _, d := range domains {
		if dns.CanonicalName(d) == name {
			return true
		}
	}
	return false
}

// answerBare answers for a label that a member has, asked for without the
// overlay's domain: that is the member, and the label is not sent outside. It
// returns nil for all else.
//
// A stub with a search list asks for mars.corp.example before it asks for
// mars, and nothing tells that from a question for the host of that name. So
// the former does not exist; the stub goes on, and what it asks next tells:
// mars, or mars.corp.example.corp.example, which only one that was asked for
// mars.corp.example itself comes to. That is answered with what upstream says
// about mars.corp.example.
func (s *Server) answerBare(ctx context.Context, a, q *dns.Msg, name string, inside bool) *dns.Msg {
	question := q.Question[0]
	label, domain, form := s.bare(name, inside)
	if form == notBare || form == alone && ofZones(question.Qtype) || form != alone && !q.RecursionDesired {
		return nil
	}
	own := label + s.infix
	_, err := s.names.resolve(ctx, strings.TrimSuffix(own, "."))
	var reason *dns.EDNS0_EDE
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case form == twice:
		return s.forwardFor(ctx, a, q, label+"."+domain)
	case err != nil:
		reason = s.failure(a, own, err)
	case form == suffixed:
		a.Authoritative = true
		a.Rcode = dns.RcodeNameError
	default:
		alias := s.alias(question.Name, own)
		question.Name = own
		a.Authoritative = true
		reason = s.answerPeer(ctx, a, question, own)
		if a.Rcode == dns.RcodeSuccess {
			a.Answer = append([]dns.RR{alias}, a.Answer...)
		}
	}
	addEDNS(a, q, reason)
	return a
}

// forwardFor answers q with what upstream says about another name.
func (s *Server) forwardFor(ctx context.Context, a, q *dns.Msg, name string) *dns.Msg {
	alias := s.alias(q.Question[0].Name, name)
	inner := q.Copy()
	inner.Question[0].Name = name
	a.Question[0].Name = name
	a = s.forward(ctx, a, inner)
	a.Question[0] = q.Question[0]
	if len(a.Answer) > 0 {
		a.Answer = append([]dns.RR{alias}, a.Answer...)
	}
	return a
}

func (s *Server) alias(owner, target string) dns.RR {
	return &dns.CNAME{
		Hdr:    dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: negativeSeconds},
		Target: target,
	}
}

// ofZones says whether a type is asked of top-level domains, by resolvers on
// their way to other names, and not of hosts.
func ofZones(t uint16) bool {
	switch t {
	case dns.TypeNS, dns.TypeSOA, dns.TypeDS, dns.TypeDNSKEY:
		return true
	}
	return false
}
