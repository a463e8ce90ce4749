package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var (
	mars     = peerid.ID{1}
	full     = peerid.ID{2}
	marsV4   = netip.MustParseAddr("198.18.0.2")
	marsV6   = netip.MustParseAddr("2001:21::2")
	prefixes = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("2001:20::/28")}
)

// database knows mars, a peer that gets no LSI, and a name it cannot find out.
type database struct{}

func (database) Resolve(_ context.Context, name string) (peerid.ID, string, error) {
	switch name {
	case "mars.example.com", mars.Label() + ".example.com":
		return mars, "mars.example.com", nil
	case "full.example.com":
		return full, "full.example.com", nil
	case "down.example.com":
		return peerid.ID{}, "", errors.New("too few replicas answered")
	}
	return peerid.ID{}, "", ErrNotFound
}

type lsis struct{}

func (lsis) Assign(id peerid.ID) (v4, v6 netip.Addr, fresh bool, err error) {
	if id == full {
		return v4, v6, false, errors.New("no LSI left")
	}
	return marsV4, marsV6, false, nil
}

func (lsis) Peer(a netip.Addr) (peerid.ID, bool) { return mars, a == marsV4 || a == marsV6 }

func testServer(t testing.TB, upstream ...netip.AddrPort) *Server {
	t.Helper()
	s, err := New(Config{
		Domain: "Example.com", Names: database{}, LSIs: lsis{}, Prefixes: prefixes,
		Addr: netip.MustParseAddr("198.18.0.53"), Upstream: Static(upstream...),
		NameOf: func(peerid.ID) string { return "mars.example.com" },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// serve serves s on UDP and TCP of one loopback port.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	pc, l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- s.Serve(pc) }()
	go func() { done <- s.ServeListener(l) }()
	t.Cleanup(func() {
		s.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Errorf("serving ended with %v", err)
			}
		}
	})
	return l.Addr().String()
}

// upstream is a DNS server that answers every A question for *.net.
func upstream(t *testing.T, asked chan<- string) netip.AddrPort {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		select {
		case asked <- q.Question[0].Name:
		default:
		}
		a := new(dns.Msg).SetReply(q)
		add := func(s string) {
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Error(err)
			}
			a.Answer = append(a.Answer, rr)
		}
		name := q.Question[0].Name
		switch strings.ToLower(name) {
		case "good.net.":
			add(name + " 60 A 192.0.2.1")
		case "rebind.net.":
			add(name + " 60 A 198.18.0.2")
			add(name + " 60 AAAA ::ffff:198.18.0.2")
			add(name + " 60 AAAA 64:ff9b::c612:2")
			add(name + " 60 HTTPS 1 . ipv4hint=198.18.0.2")
			add("mars.example.com. 60 A 192.0.2.9")
			add(name + " 60 A 192.0.2.2")
		case "big.net.":
			if _, tcp := w.RemoteAddr().(*net.TCPAddr); !tcp {
				a.Truncated = true
			} else {
				for range 100 {
					add(name + ` 60 TXT "` + strings.Repeat("x", 200) + `"`)
				}
			}
		default:
			a.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(a)
	})
	pc, l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{}, 2)
	up := func() { started <- struct{}{} }
	u := &dns.Server{PacketConn: pc, Handler: handler, NotifyStartedFunc: up}
	v := &dns.Server{Listener: l, Handler: handler, NotifyStartedFunc: up}
	ended := make(chan struct{}, 2)
	for _, srv := range []*dns.Server{u, v} {
		go func() { srv.ActivateAndServe(); ended <- struct{}{} }()
	}
	<-started
	<-started
	t.Cleanup(func() { u.Shutdown(); v.Shutdown(); <-ended; <-ended })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func ask(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func TestAnswers(t *testing.T) {
	asked := make(chan string, 100)
	addr := serve(t, testServer(t, upstream(t, asked)))
	ok, nx, fail, refused, form := dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeFormatError
	for _, c := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answers string // the records' data, space separated
		soa     bool
		up      bool // upstream must be asked; if not, it must not
	}{
		{"mars.example.com.", dns.TypeA, ok, "198.18.0.2", false, false},
		{"mArS.eXample.COM.", dns.TypeAAAA, ok, "2001:21::2", false, false},
		{mars.Label() + ".example.com.", dns.TypeA, ok, "198.18.0.2", false, false},
		{"mars.example.com.", dns.TypeTXT, ok, `"idloc=` + mars.String() + `"`, false, false},
		{"mars.example.com.", dns.TypeANY, ok, `"idloc=` + mars.String() + `" 198.18.0.2 2001:21::2`, false, false},
		{"mars.example.com.", dns.TypeMX, ok, "", true, false},
		{"venus.example.com.", dns.TypeA, nx, "", true, false},
		{"venus.example.com.", dns.TypeMX, nx, "", true, false},
		{"_sip._udp.mars.example.com.", dns.TypeSRV, nx, "", true, false},
		{"down.example.com.", dns.TypeA, fail, "", false, false},
		{"full.example.com.", dns.TypeA, fail, "", false, false},
		{"example.com.", dns.TypeA, ok, "", true, false},
		{"example.com.", dns.TypeNS, ok, "_dns.example.com.", false, false},
		{"_dns.example.com.", dns.TypeA, ok, "198.18.0.53", false, false},
		{"2.0.18.198.in-addr.arpa.", dns.TypePTR, ok, "mars.example.com.", false, false},
		{"2.0.18.198.in-addr.arpa.", dns.TypeA, ok, "", true, false},
		{"9.0.18.198.in-addr.arpa.", dns.TypePTR, nx, "", true, false},
		{"x.18.198.in-addr.arpa.", dns.TypePTR, nx, "", true, false},
		{"0.18.198.in-addr.arpa.", dns.TypePTR, ok, "", true, false},
		{"53.0.18.198.in-addr.arpa.", dns.TypePTR, ok, "_dns.example.com.", false, false},
		{"18.198.in-addr.arpa.", dns.TypeNS, ok, "_dns.example.com.", false, false},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.2.0.0.1.0.0.2.ip6.arpa.", dns.TypePTR, ok, "mars.example.com.", false, false},
		{"mars.example.com.corp.example.", dns.TypeA, nx, "", false, false},
		{"down.example.com.lan.", dns.TypeA, fail, "", false, false},
		{"www.example.com.br.", dns.TypeA, nx, "", false, true},
		{"localhost.", dns.TypeA, ok, "127.0.0.1", false, false},
		{"x.onion.", dns.TypeA, nx, "", false, false},
		{"example.com.", dns.TypeAXFR, refused, "", false, false},
		{"example.com.", dns.TypeOPT, form, "", false, false},
		{"good.net.", dns.TypeA, ok, "192.0.2.1", false, true},
		{"rebind.net.", dns.TypeA, ok, "192.0.2.2", false, true},
		{"bad.net.", dns.TypeA, nx, "", false, true},
		{"1.2.0.192.in-addr.arpa.", dns.TypePTR, nx, "", false, true},
	} {
		for _, network := range []string{"udp", "tcp"} {
			q := ask(c.name, c.qtype)
			q.SetEdns0(1232, false)
			if c.qtype == dns.TypeOPT {
				q.Extra = nil
			}
			a, _, err := (&dns.Client{Net: network, Timeout: 2 * time.Minute}).Exchange(q, addr)
			if err != nil {
				t.Errorf("%s %s: %v", c.name, network, err)
				continue
			}
			var data []string
			for _, rr := range a.Answer {
				data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
				if rr.Header().Ttl > 60 {
					t.Errorf("%s: TTL %d", c.name, rr.Header().Ttl)
				}
			}
			soa := len(a.Ns) == 1 && a.Ns[0].Header().Rrtype == dns.TypeSOA
			if a.Rcode != c.rcode || strings.Join(data, " ") != c.answers || soa != c.soa || a.Question[0].Name != c.name {
				t.Errorf("%s %s %s: got\n%v", c.name, dns.TypeToString[c.qtype], network, a)
			}
			up := len(asked) > 0
			for len(asked) > 0 {
				<-asked
			}
			if up != c.up {
				t.Errorf("%s: upstream asked: %v", c.name, up)
			}
		}
	}
}

func TestTruncation(t *testing.T) {
	addr := serve(t, testServer(t, upstream(t, nil)))
	a, _, err := (&dns.Client{}).Exchange(ask("big.net.", dns.TypeTXT), addr)
	if err != nil || !a.Truncated || a.Len() > dns.MinMsgSize {
		t.Fatalf("UDP: %v, %v", a, err)
	}
	a, _, err = (&dns.Client{Net: "tcp"}).Exchange(ask("big.net.", dns.TypeTXT), addr)
	if err != nil || a.Truncated || len(a.Answer) != 100 {
		t.Fatalf("TCP: %v", err)
	}
}

func TestMalformed(t *testing.T) {
	s := testServer(t)
	edit := func(f func(*dns.Msg)) []byte {
		q := ask("mars.example.com.", dns.TypeA)
		f(q)
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := edit(func(*dns.Msg) {})
	for _, c := range []struct {
		name  string
		raw   []byte
		rcode int // -1: no reply
	}{
		{"good", good, dns.RcodeSuccess},
		{"short", good[:11], -1},
		{"response", edit(func(q *dns.Msg) { q.Response = true }), -1},
		{"cut", good[:20], dns.RcodeFormatError},
		{"no question", edit(func(q *dns.Msg) { q.Question = nil }), dns.RcodeFormatError},
		{"two questions", edit(func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }), dns.RcodeFormatError},
		{"notify", edit(func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		{"opcode 9", edit(func(q *dns.Msg) { q.Opcode = 9 }), dns.RcodeNotImplemented},
		{"chaos", edit(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"no upstream", edit(func(q *dns.Msg) { q.Question[0].Name = "x.net." }), dns.RcodeRefused},
		{"two OPT", edit(func(q *dns.Msg) { q.SetEdns0(512, false); q.SetEdns0(512, false) }), dns.RcodeFormatError},
		{"EDNS 1", edit(func(q *dns.Msg) { q.SetEdns0(512, false); q.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
	} {
		out := s.reply(t.Context(), c.raw, true)
		if out == nil || c.rcode < 0 {
			if out != nil || c.rcode >= 0 {
				t.Errorf("%s: reply %x", c.name, out)
			}
			continue
		}
		a := new(dns.Msg)
		if err := a.Unpack(out); err != nil || a.Rcode != c.rcode || !a.Response {
			t.Errorf("%s: %v %v", c.name, err, a)
		}
	}
}

func TestNetResolver(t *testing.T) {
	s := testServer(t)
	r := s.NetResolver()
	addrs, err := r.LookupNetIP(t.Context(), "ip", "mars.example.com")
	if err != nil || len(addrs) != 2 {
		t.Errorf("LookupNetIP = %v, %v", addrs, err)
	}
	if hosts, err := r.LookupHost(t.Context(), "MARS.example.com"); err != nil || len(hosts) != 2 {
		t.Errorf("LookupHost = %v, %v", hosts, err)
	}
	for _, a := range addrs {
		if names, err := r.LookupAddr(t.Context(), a.String()); err != nil || len(names) != 1 || names[0] != "mars.example.com." {
			t.Errorf("LookupAddr(%v) = %v, %v", a, names, err)
		}
	}
	var e *net.DNSError
	if _, err := r.LookupHost(t.Context(), "venus.example.com"); !errors.As(err, &e) || !e.IsNotFound {
		t.Errorf("unknown name: %v", err)
	}
	if _, err := r.LookupHost(t.Context(), "down.example.com"); !errors.As(err, &e) || !e.IsTemporary || e.IsNotFound {
		t.Errorf("failing name: %v", err)
	}
	if id, v4, v6, err := s.Lookup(t.Context(), "mars.example.com."); id != mars || v4 != marsV4 || v6 != marsV6 || err != nil {
		t.Errorf("Lookup = %v, %v, %v, %v", id, v4, v6, err)
	}
	s.Close()
	if _, err := r.LookupHost(t.Context(), "mars.example.com"); err == nil {
		t.Error("lookup after Close")
	}
}

func TestZoneLine(t *testing.T) {
	line, err := ZoneLine("mars.example.com", mars, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	rr, err := dns.NewRR(line)
	if err != nil {
		t.Fatal(err)
	}
	if txt := rr.(*dns.TXT).Txt; len(txt) != 1 || txt[0] != txtPrefix+mars.String() || rr.Header().Ttl != 3600 {
		t.Errorf("%s: %q", line, txt)
	}
	for _, bad := range []string{"", "mars", "a b.com", "x;y.com", "mars.example.com\n"} {
		if line, err := ZoneLine(bad, mars, 0); err == nil {
			t.Errorf("ZoneLine(%q) = %q", bad, line)
		}
	}
}

func FuzzReply(f *testing.F) {
	for _, name := range []string{"mars.example.com.", "2.0.18.198.in-addr.arpa.", "x.net.", "a.example.com.lan."} {
		q := ask(name, dns.TypeANY)
		q.SetEdns0(512, true)
		b, _ := q.Pack()
		f.Add(b)
	}
	s := testServer(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		out := s.reply(context.Background(), raw, true)
		if out == nil {
			return
		}
		a := new(dns.Msg)
		if err := a.Unpack(out); err != nil || !a.Response || len(out) > udpSize || a.Id != uint16(raw[0])<<8|uint16(raw[1]) {
			t.Fatalf("%x → %x: %v", raw, out, err)
		}
	})
}
