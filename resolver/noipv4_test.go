package resolver

import (
	"testing"

	"github.com/miekg/dns"
)

// TestNoIPv4: clients on sockets get members' IPv6 LSIs alone, also by a label alone, and all
// of other names and of this server; clients in this process get both families.
func TestNoIPv4(t *testing.T) {
	t.Parallel()
	s := testServer(t, upstream(t, make(chan string, 1)))
	s.cfg.NoIPv4 = true
	for _, test := range []struct {
		name   string
		qtype  uint16
		n, soa int
	}{
		{"mars.example.com.", dns.TypeA, 0, 1},
		{"mars.example.com.", dns.TypeAAAA, 1, 0},
		{"mars.example.com.", dns.TypeANY, 2, 0}, // TXT and AAAA
		{"mars.", dns.TypeA, 1, 1},               // CNAME
		{"mars.", dns.TypeAAAA, 2, 0},
		{"_dns.example.com.", dns.TypeA, 1, 0},
		{"good.net.", dns.TypeA, 1, 0},
	} {
		q := new(dns.Msg).SetQuestion(test.name, test.qtype)
		if a := s.Answer(t.Context(), q); a.Rcode != dns.RcodeSuccess || len(a.Answer) != test.n || len(a.Ns) != test.soa {
			t.Errorf("%s %s: %v", test.name, dns.TypeToString[test.qtype], a)
		}
	}
	if a := s.Answer(t.Context(), new(dns.Msg).SetQuestion("pluto.example.com.", dns.TypeA)); a.Rcode != dns.RcodeNameError {
		t.Errorf("nobody: %v", a)
	}
	for _, network := range []string{"ip4", "ip6"} {
		if at, err := s.NetResolver().LookupNetIP(t.Context(), network, "mars.example.com"); err != nil || len(at) != 1 {
			t.Errorf("in this process, %s: %v, %v", network, at, err)
		}
	}
}
