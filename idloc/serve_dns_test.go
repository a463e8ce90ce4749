package idloc_test

import (
	"net"
	"testing"

	"github.com/miekg/dns"
)

// A member may serve DNS to others on port 53 of its wildcard address, UDP and
// TCP, though the node's own resolver has that port; and that goes on to answer.
func TestServeDNS(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	pc, err := mars.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	l, err := mars.Listen("tcp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"served by mars"}}}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: answer}, {Listener: l, Handler: answer}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	for _, network := range []string{"udp", "tcp"} {
		c, err := venus.Dial(t.Context(), network, "mars:53")
		if err != nil {
			t.Fatal(err)
		}
		conn := &dns.Conn{Conn: c}
		in, _, err := (&dns.Client{Timeout: patience}).ExchangeWithConn(new(dns.Msg).SetQuestion("zone.test.", dns.TypeTXT), conn)
		if err != nil || len(in.Answer) != 1 {
			t.Errorf("%s: %v, %v", network, in, err)
		}
		c.Close()
	}
	addrs, err := mars.Resolver().LookupHost(t.Context(), "venus.example.com")
	if err != nil || len(addrs) == 0 || net.ParseIP(addrs[0]) == nil {
		t.Errorf("the node's resolver: %v, %v", addrs, err)
	}
}
