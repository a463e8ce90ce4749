package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// member is one that answers, with a direct pipe if it has an MTU.
func member(name, at string, mtu int) idloc.PeerStatus {
	p := idloc.PeerStatus{Peer: idloc.Peer{Name: name + ".example.com"}, Contact: idloc.ContactStatus{Addr: ap(at), RTT: 12 * time.Millisecond}}
	if mtu > 0 {
		p.Connected, p.RTT = true, 11*time.Millisecond
		p.Paths = []idloc.PathStatus{{Kind: "direct", Remote: ap(at), MTU: mtu, Active: true}}
	}
	return p
}

func sees(by, own, as string) idloc.ProbeStatus {
	return idloc.ProbeStatus{Addr: ap(by), By: "STUN", Local: ap(own), Seen: ap(as), Heard: true, At: noon.Add(-time.Second)}
}

func silentAt(a string) idloc.ProbeStatus {
	return idloc.ProbeStatus{Addr: ap(a), By: "QUIC", At: noon.Add(-time.Second)}
}

// TestNetcheckSays: the sentences of situations that users meet.
func TestNetcheckSays(t *testing.T) {
	t.Parallel()
	const public, home = "20.0.0.2:4000", "192.168.1.2:4000"
	self := func(own string) idloc.SelfStatus {
		return idloc.SelfStatus{Port: 4000, Addrs: []netip.AddrPort{ap(own)}, Ported: idloc.PortMapping{Error: "no router answers to NAT-PMP or UPnP"}}
	}
	reached := idloc.ReachStatus{From: ap("20.0.0.5:1"), Local: ap(public), At: noon.Add(-time.Minute)}
	for _, c := range []struct {
		what string
		s    func(*idloc.Status)
		own  string
		want []string // text of the report, each
	}{
		{"a founder that is alone", func(s *idloc.Status) {}, home, []string{
			"UDP not measured, because no member or server is known to send to",
			"NAT not measured, because there is nobody to ask", "private",
			"from outside not measured, because no member is connected",
			"path MTU not measured, because no pipe is up",
			"members none is known: this node is alone",
			"what will work not measured, because no other member was there yet",
		}},
		{"a public founder, and a member behind a NAT", func(s *idloc.Status) {
			s.Self.UDP, s.Self.NAT, s.Self.Reached, s.Self.ReachedBy = "works", "none", true, reached
			s.Self.Members, s.Self.Probes = 1, []idloc.ProbeStatus{sees("20.0.0.5:1", public, public)}
			s.Peers = []idloc.PeerStatus{member("mars", "20.0.0.5:1", 1472)}
		}, public, []string{
			"UDP works", "answers came from 20.0.0.5:1 (mars.example.com)",
			"NAT none: the node's own address is seen from outside", "mars.example.com sees 20.0.0.2:4000 as 20.0.0.2:4000",
			"from outside reachable", "a member at 20.0.0.5:1, to whom nothing had been sent, connected to 20.0.0.2:4000 1m0s ago",
			"path MTU mars.example.com 1500 bytes (1472 of UDP payload)",
			"members 1 answers", "mars.example.com in 11ms, direct pipe",
			"what will work direct pipes to every member that can send UDP",
		}},
		{"the same, and nobody has told anything", func(s *idloc.Status) {
			s.Self.Members = 1
			s.Peers = []idloc.PeerStatus{member("mars", "20.0.0.5:1", 0)}
		}, public, []string{"UDP works", "NAT not measured, because no member has yet told", "one of them is global", "what will work pipes to the members that answer"}},
		{"UDP is blocked, and a carrier leads out", func(s *idloc.Status) {
			s.Self.UDP, s.Self.Members, s.Self.Carried, s.Self.CarriedBy = "silent", 1, 1, []string{"tls://vpn.example.org:443"}
			s.Self.Probes = []idloc.ProbeStatus{silentAt("20.0.0.9:443")}
			p := member("earth", "20.0.0.9:443", 0)
			p.Contact = idloc.ContactStatus{Carrier: "tls://vpn.example.org:443"}
			p.Paths = []idloc.PathStatus{{Kind: "tcp", Carrier: "tls://vpn.example.org:443", Active: true}}
			s.Peers = []idloc.PeerStatus{p}
		}, home, []string{
			"UDP seems blocked: nothing comes back", "carriers in use, because UDP does not work: tls://vpn.example.org:443",
			"1 of 1 members are connected over TCP only", "what will work pipes over TCP through members that serve carriers",
		}},
		{"UDP is blocked", func(s *idloc.Status) {
			s.Self.UDP, s.Self.Probes = "silent", []idloc.ProbeStatus{silentAt("20.0.0.9:443"), silentAt("20.0.0.8:4000")}
		}, home, []string{
			"UDP seems blocked: nothing comes back", "sent from port 4000 to 20.0.0.9:443, 20.0.0.8:4000",
			"NAT not measured, because nothing comes back over UDP", "members none answers", "what will work nothing, while UDP does not get through",
		}},
		{"a clock a day ahead", func(s *idloc.Status) {
			s.Self.Clocks, s.Self.ClockOff, s.Self.UDP = 2, 24*time.Hour, "works"
			s.Self.Alone, s.Self.AloneWhy = true, "2 members tried: refused"
			p := silentAt("20.0.0.9:443")
			p.Heard = true
			s.Self.Probes = []idloc.ProbeStatus{p}
		}, home, []string{"UDP works", "answers came from 20.0.0.9:443", "clock wrong, by those of the members met: 24h0m0s ahead of them", "members none has let this node in", "2 members tried: refused", "what will work nothing before the clocks agree"}},
		{"a clock three seconds behind", func(s *idloc.Status) {
			s.Self.Clocks, s.Self.ClockOff = 1, -3*time.Second
			s.Peers = []idloc.PeerStatus{member("earth", "20.0.0.9:443", 0)}
		}, home, []string{"clock right, by those of the members met: 3s behind them", "1 told the time"}},
		{"there is no route", func(s *idloc.Status) {
			p := silentAt("20.0.0.9:443")
			p.Error = "network is unreachable"
			s.Self.UDP, s.Self.Probes = "unsent", []idloc.ProbeStatus{p}
		}, home, []string{"UDP cannot be sent by this system", "to 20.0.0.9:443: network is unreachable"}},
		{"at home, with a mapped port", func(s *idloc.Status) {
			s.Self.UDP, s.Self.NAT, s.Self.Members = "works", "translated", 1
			s.Self.Ported = idloc.PortMapping{Protocol: "UPnP", Addr: ap("20.0.0.7:4000")}
			s.Self.Probes = []idloc.ProbeStatus{sees("20.0.0.9:443", home, "20.0.0.7:4000"), silentAt("20.0.0.8:1")}
			s.Peers = []idloc.PeerStatus{member("earth", "20.0.0.9:443", 0)}
		}, home, []string{
			"none from 20.0.0.8:1", "NAT there is one; its kind is not measured, because", "earth.example.com sees 192.168.1.2:4000 as 20.0.0.7:4000",
			"port mapping the router maps 20.0.0.7:4000 to this node", "asked by UPnP", "if the router does what it said",
		}},
		{"behind two routers", func(s *idloc.Status) {
			s.Self.Ported = idloc.PortMapping{Protocol: "NAT-PMP", Addr: ap("100.64.0.7:4000")}
		}, home, []string{"which is a private address: another NAT stands before the router"}},
		{"behind a symmetric NAT", func(s *idloc.Status) {
			s.Self.UDP, s.Self.NAT, s.Self.Members = "works", "endpoint-dependent", 2
			s.Self.DialBack = idloc.DialBackStatus{At: noon.Add(-time.Hour), Result: "in vain"}
			s.Self.Probes = []idloc.ProbeStatus{sees("20.0.0.9:443", home, "20.0.0.7:1"), sees("20.0.0.8:443", home, "20.0.0.7:2")}
			s.Peers = []idloc.PeerStatus{member("earth", "20.0.0.9:443", 0), member("venus", "20.0.0.8:443", 1200)}
		}, home, []string{"NAT a mapping for each destination (symmetric)", "as 20.0.0.7:1; venus", "from outside not reachable", "1h0m0s ago", "members 2 answer", "others need a member that relays"}},
		{"one mapping", func(s *idloc.Status) {
			s.Self.NAT, s.Self.DialBack = "endpoint-independent", idloc.DialBackStatus{At: noon, Result: "nobody to try"}
			s.Peers = []idloc.PeerStatus{member("earth", "20.0.0.9:443", 0)}
		}, home, []string{"NAT one mapping for all destinations", "there is none", "not behind a symmetric NAT"}},
		{"members in the same office only", func(s *idloc.Status) {
			s.Self.NAT, s.Self.Reached = "none", true
			s.Self.ReachedBy = idloc.ReachStatus{From: ap("192.168.1.9:1"), Local: ap(home), At: noon}
			s.Self.Probes = []idloc.ProbeStatus{sees("192.168.1.9:1", home, home)}
			s.Peers = []idloc.PeerStatus{member("mars", "192.168.1.9:1", 0)}
		}, home, []string{"UDP works within this network; beyond it not measured, because", "NAT none on the way to members in the same network", "reachable from the same network; from beyond it not measured, because", "direct pipes in this network"}},
	} {
		s := idloc.Status{Self: self(c.own)}
		c.s(&s)
		text := flat(report(s, noon))
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", c.what, want, text)
			}
		}
		consistent(t, s, report(s, noon))
	}
}

// flat is a report with single spaces.
func flat(r netReport) string {
	var b strings.Builder
	r.print(&b)
	var out []string
	for line := range strings.Lines(b.String()) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(out, "\n")
}

// consistent holds a report to rules that no output may break, whatever the
// Status says.
func consistent(t *testing.T, s idloc.Status, r netReport) {
	t.Helper()
	text := flat(r)
	line := map[string]finding{}
	for _, f := range r.Findings {
		if line[f.What].What != "" || f.Result == "" {
			t.Errorf("%q twice, or without a result", f.What)
		}
		line[f.What] = f
	}
	bad := func(why string) { t.Helper(); t.Errorf("%s:\n%s\nof %+v", why, text, s) }
	starts := func(what, with string) bool { return strings.HasPrefix(line[what].Result, with) }
	answering, carried := 0, 0
	for _, p := range s.Peers {
		if p.Connected || p.Contact.Addr.IsValid() || p.Contact.Carrier != "" {
			answering++
			if p.Contact.Carrier != "" {
				carried++
			}
			if !strings.Contains(line["members"].How, p.Name) && answering <= 8 {
				bad(p.Name + " answers and is not named")
			}
		}
	}
	for _, nonsense := range []string{"invalid", "%!", "0001-01-01", "zero", "<nil>", "is the network up"} {
		if strings.Contains(text, nonsense) {
			bad("it says " + nonsense)
		}
	}
	if n := strings.Count(text, "not measured"); n != strings.Count(text, "not measured, because ") {
		bad("not measured, and no reason")
	}
	if answering > carried {
		for _, lie := range []string{"alone", "blocked", "nothing comes back", "nobody to ask", "none answers", "nothing yet", "no member is connected", "cannot be sent"} {
			if strings.Contains(text, lie) {
				bad("members answer, and it says " + lie)
			}
		}
		if !starts("UDP", "works") || !strings.HasPrefix(line["members"].Result, fmt.Sprint(answering, " answer")) {
			bad("members answer")
		}
	} else if answering == 0 && !starts("members", "none") {
		bad("no member answers")
	}
	if gone := starts("UDP", "seems blocked") || starts("UDP", "cannot"); gone != (starts("what will work", "nothing, while") || starts("what will work", "pipes over TCP")) {
		bad("UDP and what works disagree")
	} else if gone && (!starts("NAT", "not measured") || !starts("from outside", "not measured")) {
		bad("without UDP nothing else can be measured")
	}
	works := line["what will work"].Result
	if line["from outside"].Result == "reachable" && (strings.Contains(works, "firewall") || strings.Contains(works, "symmetric") || strings.Contains(works, "if the router")) {
		bad("reachable, and what works doubts it")
	}
	if starts("from outside", "not reachable") && strings.Contains(works, "unless a firewall") {
		bad("not reachable, and what works does not know")
	}
	for _, how := range strings.Split(line["NAT"].How, "; ") {
		f := strings.Fields(how)
		if i := slices.Index(f, "sees"); i >= 0 && (f[i+1] == f[i+3]) != starts("NAT", "none") {
			bad("the NAT's kind and what members see disagree")
		}
	}
	if a := s.Self.Ported.Addr; a.IsValid() != starts("port mapping", "the router maps") {
		bad("a port is mapped or not")
	}
	if clock := line["clock"].Result; s.Self.Clocks == 0 != strings.HasPrefix(clock, "not measured") || answering > 0 && strings.Contains(works, "clocks") {
		bad("the clock")
	}
	for _, p := range s.Self.Probes {
		for _, q := range s.Peers {
			if q.Contact.Addr == p.Addr && strings.Contains(line["UDP"].How, "none from "+p.Addr.String()) {
				bad("it is connected, and called silent")
			}
		}
	}
}

// TestNetcheckNeverContradictsItself: of any Status, also of one that is itself
// in two minds.
func TestNetcheckNeverContradictsItself(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Log("seed", seed)
		}
	}()
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 20_000 {
		if s := randomStatus(rng); !t.Failed() {
			consistent(t, s, report(s, noon))
		}
	}
}

func randomStatus(rng *rand.Rand) idloc.Status {
	pick := func(all ...string) string { return all[rng.IntN(len(all))] }
	maybe := func() bool { return rng.IntN(2) == 0 }
	addr := func() netip.AddrPort {
		return ap(pick("192.168.1.2:4000", "10.0.0.3:1", "127.0.0.1:5", "20.0.0.2:4000", "20.0.0.3:1", "20.0.0.4:443", "[2a00::1]:4000", "100.64.0.2:7"))
	}
	when := func() time.Time {
		return noon.Add(-time.Duration(rng.IntN(int(2*maxAge/time.Second))) * time.Second)
	}
	s := idloc.Status{Self: idloc.SelfStatus{
		Port: 4000, UDP: pick("", "works", "silent", "unsent"),
		NAT:      pick("", "none", "translated", "endpoint-independent", "endpoint-dependent"),
		DialBack: idloc.DialBackStatus{At: when(), Result: pick("", "reached", "in vain", "nobody to try", "no answer")},
	}}
	if maybe() {
		s.Self.Clocks, s.Self.ClockOff = 1+rng.IntN(3), time.Duration(rng.IntN(7200)-3600)*time.Second
	}
	if maybe() {
		s.Self.Alone, s.Self.AloneWhy = true, "1 member tried"
	}
	for range rng.IntN(3) {
		s.Self.Addrs = append(s.Self.Addrs, addr())
	}
	if maybe() {
		s.Self.Reached, s.Self.ReachedBy = true, idloc.ReachStatus{From: addr(), Local: addr(), At: when()}
	}
	if maybe() {
		s.Self.Ported = idloc.PortMapping{Protocol: "UPnP", Addr: addr()}
	} else {
		s.Self.Ported.Error = pick("", "no router answers")
	}
	for range rng.IntN(4) {
		p := idloc.ProbeStatus{Addr: addr(), By: pick("STUN", "QUIC"), Heard: maybe(), At: when()}
		if p.By == "STUN" {
			p.Local = addr()
			if p.Heard {
				p.Seen = pick2(rng, p.Local, addr())
			}
		}
		if !p.Heard && maybe() {
			p.Error = "network is unreachable"
		}
		s.Self.Probes = append(s.Self.Probes, p)
	}
	for i := range rng.IntN(12) {
		p := member(fmt.Sprint("peer", i), addr().String(), 0)
		if maybe() {
			p.Contact = idloc.ContactStatus{}
		}
		if maybe() {
			p.Connected = maybe()
			p.Paths = []idloc.PathStatus{{Kind: pick("direct", "relayed", "turn"), Remote: addr(), MTU: rng.IntN(2) * 1452, Active: maybe()}}
		}
		if p.Contact.Addr.IsValid() {
			s.Self.Members++
		}
		s.Peers = append(s.Peers, p)
	}
	return s
}

func pick2[T any](rng *rand.Rand, a, b T) T {
	if rng.IntN(2) == 0 {
		return a
	}
	return b
}
