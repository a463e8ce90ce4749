package resolver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// service is where clients of this server find one of the whole domain's.
type service struct {
	target string // canonical
	port   uint16
}

// ErrService: a text that names no service.
var ErrService = errors.New("not a service")

// SetService says that a service of the domain, "_sip._udp", is found at a port of a host
// of the overlay, "mars.example.com"; port 0: nowhere. It is true for the clients of this
// server only: each node has its own server for what belongs to the whole overlay (RFC
// 3263 §4.1, RFC 2782).
func (s *Server) SetService(name, host string, port uint16) error {
	first, second, ok := strings.Cut(strings.ToLower(name), ".")
	target := dns.CanonicalName(host)
	for _, l := range []string{first, second} {
		if l, underscore := strings.CutPrefix(l, "_"); !ok || !underscore || !isHostLabel(l) || len(l) > 15 {
			return fmt.Errorf("%w: %q is wanted as _sip._udp is", ErrService, name)
		}
	}
	if !dns.IsSubDomain(s.domain, target) {
		return fmt.Errorf("%w: %q: not at a host of the overlay: %q", ErrService, name, host)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if key := first + "." + second; port == 0 {
		delete(s.here, key)
	} else {
		s.here[key] = service{target, port}
	}
	return nil
}

// answerService answers for labels below the domain that are no host's, and says whether
// there is such a name.
func (s *Server) answerService(a *dns.Msg, q dns.Question, labels string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.here[labels]
	if ok && (q.Qtype == dns.TypeSRV || q.Qtype == dns.TypeANY) {
		a.Answer = append(a.Answer, &dns.SRV{
			Hdr:  dns.RR_Header{Name: q.Name, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: negativeSeconds},
			Port: at.port, Target: at.target,
		})
	}
	for name := range s.here {
		ok = ok || strings.HasSuffix(name, "."+labels) // "_udp" (RFC 8020)
	}
	return ok
}
