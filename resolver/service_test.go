package resolver

import (
	"errors"
	"testing"

	"github.com/miekg/dns"
)

func TestService(t *testing.T) {
	t.Parallel()
	s := testServer(t)
	ask := func(name string, qtype uint16) *dns.Msg {
		return s.Answer(t.Context(), new(dns.Msg).SetQuestion(name, qtype))
	}
	if a := ask("_sip._udp.example.com.", dns.TypeSRV); a.Rcode != dns.RcodeNameError {
		t.Errorf("before: %v", a)
	}
	if err := s.SetService("_SIP._udp", "Mars.example.com", 5060); err != nil {
		t.Fatal(err)
	}
	_, addrs, err := s.NetResolver().LookupSRV(t.Context(), "sip", "udp", "example.com")
	if err != nil || len(addrs) != 1 || addrs[0].Target != "mars.example.com." || addrs[0].Port != 5060 {
		t.Errorf("LookupSRV: %v, %v", addrs, err)
	}
	for _, test := range []struct {
		name  string
		qtype uint16
		rcode int
		n     int
	}{
		{"_sip._udp.example.com.", dns.TypeSRV, dns.RcodeSuccess, 1},
		{"_sip._udp.EXAMPLE.com.", dns.TypeSRV, dns.RcodeSuccess, 1},
		{"_sip._udp.example.com.", dns.TypeA, dns.RcodeSuccess, 0},
		{"_udp.example.com.", dns.TypeSRV, dns.RcodeSuccess, 0},
		{"_tcp.example.com.", dns.TypeSRV, dns.RcodeNameError, 0},
		{"_sip._tcp.example.com.", dns.TypeSRV, dns.RcodeNameError, 0},
		{"_sip._udp.mars.example.com.", dns.TypeSRV, dns.RcodeNameError, 0},
		{"example.com.", dns.TypeNAPTR, dns.RcodeSuccess, 0},
	} {
		if a := ask(test.name, test.qtype); a.Rcode != test.rcode || len(a.Answer) != test.n || test.n == 0 && len(a.Ns) != 1 {
			t.Errorf("%s %s: %v", test.name, dns.TypeToString[test.qtype], a)
		}
	}
	for _, bad := range []string{"", "sip", "_sip", "_sip._udp._x", "sip._udp", "_s ip._udp", "_.-", "_abcdefghijklmnop._udp"} {
		if err := s.SetService(bad, "mars.example.com", 1); !errors.Is(err, ErrService) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := s.SetService("_sip._udp", "mars.example.org", 1); !errors.Is(err, ErrService) {
		t.Errorf("at a host elsewhere: %v", err)
	}
	if err := s.SetService("_sip._udp", "mars.example.com", 0); err != nil {
		t.Fatal(err)
	}
	if a := ask("_sip._udp.example.com.", dns.TypeSRV); a.Rcode != dns.RcodeNameError {
		t.Errorf("after: %v", a)
	}
}
