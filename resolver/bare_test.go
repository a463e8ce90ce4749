package resolver

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// corp is a DNS server of a network whose hosts are called like members, and
// notes what it was asked.
type corp struct {
	mu    sync.Mutex
	asked []string
}

var corpHosts = map[string]string{
	"mars.corp.example.":    "192.0.2.66",
	"down.corp.example.":    "192.0.2.67",
	"www.corp.example.":     "192.0.2.80",
	"printer.corp.example.": "192.0.2.99",
	"mars.":                 "192.0.2.1",
}

func (c *corp) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	c.mu.Lock()
	c.asked = append(c.asked, name)
	c.mu.Unlock()
	a := new(dns.Msg).SetReply(q)
	a.RecursionAvailable = true
	if ip, ok := corpHosts[name]; !ok {
		a.Rcode = dns.RcodeNameError
	} else if q.Question[0].Qtype == dns.TypeA {
		a.Answer = append(a.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   netip.MustParseAddr(ip).AsSlice(),
		})
	}
	w.WriteMsg(a)
}

// take returns the names that were asked, each once.
func (c *corp) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.asked)
	out := strings.Join(slices.Compact(c.asked), " ")
	c.asked = nil
	return out
}

// serveDNS serves h at a loopback port.
func serveDNS(t *testing.T, h dns.Handler) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan struct{})
	u := &dns.Server{PacketConn: pc, Handler: h, NotifyStartedFunc: func() { close(started) }}
	go func() { u.ActivateAndServe(); close(ended) }()
	<-started
	t.Cleanup(func() { u.Shutdown(); <-ended })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// stub asks for host as package net's own resolver does with a search list.
func stub(ask func(context.Context, *dns.Msg) *dns.Msg, host string, qtype uint16, ndots int, search ...string) (answer string) {
	names := []string{host}
	if !strings.HasSuffix(host, ".") {
		names = nil
		for _, d := range search {
			names = append(names, host+"."+d+".")
		}
		if strings.Count(host, ".") >= ndots {
			names = append([]string{host + "."}, names...)
		} else {
			names = append(names, host+".")
		}
	}
	last := "none"
	for _, name := range names {
		a := ask(context.Background(), new(dns.Msg).SetQuestion(name, qtype))
		for _, rr := range a.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				return rr.A.String()
			case *dns.AAAA:
				return rr.AAAA.String()
			}
		}
		last = strings.ToLower(dns.RcodeToString[a.Rcode])
	}
	return last
}

// A label that a member has is the member, whatever the host's search list
// makes of it, and is not sent outside; names that were asked for with a
// domain, and labels that no member has, are looked up as on any host.
func TestBareLabel(t *testing.T) {
	t.Parallel()
	outside := new(corp)
	search := []string{"corp.example", "Lab.example."}
	s := serverOf(t, Config{
		Upstream: Static(serveDNS(t, outside)), Prefixes: prefixes,
		Search: func() []string { return search },
	})
	for _, c := range []struct {
		host  string
		qtype uint16
		ndots int
		want  string
		asked string // outside
	}{
		{"mars", dns.TypeA, 1, "198.18.0.2", ""},
		{"MARS", dns.TypeA, 1, "198.18.0.2", ""},
		{"mars.", dns.TypeA, 1, "198.18.0.2", ""},
		{"mars", dns.TypeAAAA, 1, "2001:21::2", ""},
		{"mars", dns.TypeMX, 1, "noerror", ""},
		{"mars", dns.TypeA, 0, "198.18.0.2", ""},
		{"mars", dns.TypeA, 5, "198.18.0.2", ""},
		{mars.Label(), dns.TypeA, 1, "198.18.0.2", ""},
		{"mars.example.com", dns.TypeA, 1, "198.18.0.2", ""},
		{"mars.example.com", dns.TypeA, 5, "198.18.0.2", ""},
		{"localhost", dns.TypeA, 1, "127.0.0.1", "localhost.corp.example. localhost.lab.example."},

		{"mars.corp.example", dns.TypeA, 1, "192.0.2.66", "mars.corp.example."},
		{"mars.corp.example", dns.TypeA, 5, "192.0.2.66", "mars.corp.example."},
		{"mars.corp.example", dns.TypeAAAA, 1, "noerror", "mars.corp.example."},
		{"www.corp.example", dns.TypeA, 1, "192.0.2.80", "www.corp.example."},
		{"printer", dns.TypeA, 1, "192.0.2.99", "printer.corp.example."},
		{"nobody", dns.TypeA, 1, "nxdomain", "nobody. nobody.corp.example. nobody.lab.example."},
		{"mars.elsewhere.example", dns.TypeA, 1, "nxdomain",
			"mars.elsewhere.example. mars.elsewhere.example.corp.example. mars.elsewhere.example.lab.example."},
		{"_sip._udp.mars", dns.TypeSRV, 1, "nxdomain",
			"_sip._udp.mars. _sip._udp.mars.corp.example. _sip._udp.mars.lab.example."},

		// Whether down is a member is not known: it must not be told outside,
		// but a host of the network that was asked for is.
		{"down", dns.TypeA, 1, "servfail", ""},
		{"down.corp.example", dns.TypeA, 1, "192.0.2.67", "down.corp.example."},
		{"full", dns.TypeA, 1, "servfail", ""},
	} {
		got := stub(s.answerInside, c.host, c.qtype, c.ndots, "corp.example", "lab.example")
		if asked := outside.take(); got != c.want || asked != c.asked {
			t.Errorf("%s %s, ndots %d: %s, outside was asked %q; want %s, %q",
				c.host, dns.TypeToString[c.qtype], c.ndots, got, asked, c.want, c.asked)
		}
	}
}

// Clients that ask by a socket have search lists of their own: they mean the
// names that they ask. A label alone is the member for them too.
func TestBareLabelBySocket(t *testing.T) {
	t.Parallel()
	outside := new(corp)
	s := serverOf(t, Config{
		Upstream: Static(serveDNS(t, outside)), Prefixes: prefixes,
		Search: func() []string { return []string{"corp.example"} },
	})
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
		asked string
	}{
		{"mars.", dns.TypeA, "198.18.0.2", ""},
		{"mars.corp.example.", dns.TypeA, "192.0.2.66", "mars.corp.example."},
		{"com.", dns.TypeA, "nxdomain", "com."},
		{"mars.", dns.TypeDS, "noerror", "mars."}, // of a top-level domain
	} {
		got := stub(s.Answer, c.name, c.qtype, 1)
		if asked := outside.take(); got != c.want || asked != c.asked {
			t.Errorf("%s %s: %s, outside was asked %q; want %s, %q", c.name, dns.TypeToString[c.qtype], got, asked, c.want, c.asked)
		}
	}
}

// The canonical name of a label is the member's full one.
func TestBareLabelCanonical(t *testing.T) {
	t.Parallel()
	s := testServer(t)
	name, err := s.NetResolver().LookupCNAME(t.Context(), "mars")
	if err != nil || name != "mars.example.com." {
		t.Errorf("LookupCNAME(mars) = %q, %v", name, err)
	}
}

// A search domain that the host has no more is believed for as long as package
// net may still append it.
func TestSearchChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var search []string
		read := searchOf(func() []string { return search })
		check := func(want ...string) {
			t.Helper()
			if got := read(); !slices.Equal(got, want) {
				t.Errorf("search domains %q, want %q", got, want)
			}
		}
		check()
		search = []string{"corp.example"}
		check("corp.example")
		time.Sleep(time.Minute)
		search = []string{"lab.example"}
		check("lab.example", "corp.example")
		time.Sleep(systemMaxAge)
		check("lab.example", "corp.example")
		time.Sleep(time.Minute)
		check("lab.example")
	})
}
