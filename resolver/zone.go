package resolver

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/idloc/idloc/internal/event"
)

const (
	ttlSeconds      = uint32(TTL / time.Second)
	negativeSeconds = uint32(NegativeTTL / time.Second)

	// serverLabel is this server in its own zone. No peer can have it: host
	// labels have no underscore.
	serverLabel = "_dns"
)

// answerZone answers for name, which is the domain or lies below it. The
// reason is for clients that understand extended errors.
func (s *Server) answerZone(ctx context.Context, a *dns.Msg, q dns.Question, name string) *dns.EDNS0_EDE {
	a.Authoritative = true
	label := strings.TrimSuffix(strings.TrimSuffix(name, s.domain), ".")
	switch {
	case label == "":
		s.appendApex(a, q.Name, q.Qtype)
	case label == serverLabel:
		if s.cfg.Addr.IsValid() {
			appendAddrs(a, q, s.cfg.Addr.Unmap())
		}
	case !isHostLabel(label):
		if !s.answerService(a, q, label) {
			a.Rcode = dns.RcodeNameError
		}
	default:
		return s.answerPeer(ctx, a, q, name)
	}
	s.finishNegative(a, s.domain)
	return nil
}

// answerPeer answers for one label below the domain.
func (s *Server) answerPeer(ctx context.Context, a *dns.Msg, q dns.Question, name string) *dns.EDNS0_EDE {
	found, err := s.names.resolve(ctx, strings.TrimSuffix(name, "."))
	if errors.Is(err, ErrNotFound) {
		a.Rcode = dns.RcodeNameError
		s.finishNegative(a, s.domain)
		return nil
	}
	if err != nil {
		return s.failure(a, name, err)
	}
	if q.Qtype == dns.TypeTXT || q.Qtype == dns.TypeANY {
		a.Answer = append(a.Answer, &dns.TXT{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttlSeconds},
			Txt: []string{txtPrefix + found.peer.String()},
		})
	}
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY {
		v4, v6, err := s.assign(found)
		if err != nil {
			return s.failure(a, name, err)
		}
		appendAddrs(a, q, v4, v6)
	}
	s.finishNegative(a, s.domain)
	return nil
}

// searched returns the part of name that is a name of the overlay, if the
// rest looks like a search domain of the host, else "". One label is taken
// for a search domain only if it is no public top-level domain: an overlay
// called example.com must not hide example.com.br.
func (s *Server) searched(name string) string {
	i := strings.Index("."+name, s.infix)
	if i < 0 {
		return ""
	}
	own, rest := name[:i+len(s.domain)], name[i+len(s.domain):]
	if dns.CountLabel(rest) >= 2 || privateTop[rest] {
		return own
	}
	return ""
}

// privateTop are the top-level domains that hosts and routers use as search
// domains on their own.
var privateTop = map[string]bool{
	"corp.": true, "home.": true, "internal.": true, "intranet.": true, "lan.": true,
	"local.": true, "localdomain.": true, "private.": true, "test.": true,
}

// answerSearched answers for a name of the overlay behind which the client's
// host has put a search domain. There is no such name, and nobody outside may
// be asked. But a client that tries several names reports what it heard about
// the last one, so this one must fail where the name itself fails.
func (s *Server) answerSearched(ctx context.Context, a *dns.Msg, name string) *dns.EDNS0_EDE {
	a.Authoritative = true
	a.Rcode = dns.RcodeNameError
	own := s.searched(name)
	if label := strings.TrimSuffix(own, s.infix); !isHostLabel(label) {
		return nil
	}
	if _, err := s.names.resolve(ctx, strings.TrimSuffix(own, ".")); err != nil && !errors.Is(err, ErrNotFound) {
		return s.failure(a, name, err)
	}
	return nil
}

// failure makes a the answer that nothing is known now.
func (s *Server) failure(a *dns.Msg, name string, err error) *dns.EDNS0_EDE {
	s.cfg.Logger.Debug("name not resolved", "name", name, "err", err)
	a.Rcode = dns.RcodeServerFailure
	a.Authoritative = false
	a.Answer = nil
	code := dns.ExtendedErrorCodeOther
	if errors.Is(err, context.DeadlineExceeded) {
		code = dns.ExtendedErrorCodeNoReachableAuthority
	}
	return &dns.EDNS0_EDE{InfoCode: code, ExtraText: clip(err.Error())}
}

// clip cuts a text to what an extended error has room for.
func clip(text string) string {
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "")
	}
	return text
}

// appendApex answers for the domain itself.
func (s *Server) appendApex(a *dns.Msg, owner string, qtype uint16) {
	if qtype == dns.TypeSOA || qtype == dns.TypeANY {
		a.Answer = append(a.Answer, s.soa(owner))
	}
	if qtype == dns.TypeNS || qtype == dns.TypeANY {
		a.Answer = append(a.Answer, s.ns(owner))
	}
}

func (s *Server) ns(owner string) dns.RR {
	return &dns.NS{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: ttlSeconds},
		Ns:  serverLabel + "." + s.domain,
	}
}

// soa is the start of authority of a zone of ours. Its last field is how long
// a client may remember that a name does not exist (RFC 2308 §4).
func (s *Server) soa(owner string) dns.RR {
	return &dns.SOA{
		Hdr:     dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negativeSeconds},
		Ns:      serverLabel + "." + s.domain,
		Mbox:    "hostmaster." + s.domain,
		Serial:  s.serial,
		Refresh: 3600,
		Retry:   600,
		Expire:  86400,
		Minttl:  negativeSeconds,
	}
}

// finishNegative puts the SOA of a zone into an answer without records, be it
// no such name or no such type (RFC 2308 §2).
func (s *Server) finishNegative(a *dns.Msg, zone string) {
	if len(a.Answer) == 0 {
		a.Ns = append(a.Ns, s.soa(zone))
	}
}

// isHostLabel says whether label is one label that a host may have (RFC 1123
// §2.1), in lower case.
func isHostLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for i := range len(label) {
		c := label[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// emitAssigned tells that a peer got its LSIs.
func (s *Server) emitAssigned(f found) {
	s.cfg.Events.Emit(event.Event{Kind: event.LSIAssigned, Peer: f.peer, Name: f.name, LSI: f.v4})
}
