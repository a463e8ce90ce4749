package nat

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/sockettest"
)

// seenAs is an Asker of servers that see sockets as this says.
func seenAs(pairs ...string) Asker {
	return asker(func(_ context.Context, c *socket.Conn, server netip.AddrPort) (netip.AddrPort, bool, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if c.LocalAddr().Addr().String() == pairs[i] {
				return netip.MustParseAddrPort(pairs[i+1]), true, true
			}
		}
		return netip.AddrPort{}, true, false
	})
}

func kindsText(t *testing.T, a *Addresses) string {
	t.Helper()
	kinds := a.Kinds()
	var out []string
	r := a.Own()
	for _, at := range r.Best(r.Len()) {
		out = append(out, at.String()+"/"+kinds[at].String())
	}
	return strings.Join(out, " ")
}

// What an address is worth: by its interface, by who sees it, and by who has come
// in there.
func TestKindsOfAddresses(t *testing.T) {
	t.Parallel()
	at := func(local, from string) Arrival {
		return Arrival{Local: netip.MustParseAddrPort(local), From: netip.MustParseAddrPort(from)}
	}
	home := []string{"eth0 192.168.1.2/24", "docker0 172.17.0.1/16"}
	host := []string{"eth0 198.51.100.2/24"}
	for _, tt := range []struct {
		what  string
		links []string
		asker Asker
		in    Arrivals
		want  string
	}{
		{"nobody is there to say", home, seenAs(), Arrivals{}, "192.168.1.2:4000/uplink 172.17.0.1:4000/bridge"},
		{"behind a NAT", home, seenAs("192.168.1.2", "203.0.113.9:5000"), Arrivals{},
			"203.0.113.9:5000/mapped 192.168.1.2:4000/uplink 172.17.0.1:4000/bridge"},
		{"and a stranger has come through it unasked", home, seenAs("192.168.1.2", "203.0.113.9:5000"),
			Arrivals{Unasked: at("192.168.1.2:4000", "198.51.100.7:1")},
			"203.0.113.9:5000/proven 192.168.1.2:4000/uplink 172.17.0.1:4000/bridge"},
		{"but a neighbour proves nothing", home, seenAs("192.168.1.2", "203.0.113.9:5000"),
			Arrivals{Unasked: at("192.168.1.2:4000", "192.168.1.7:1")},
			"203.0.113.9:5000/mapped 192.168.1.2:4000/uplink 172.17.0.1:4000/bridge"},
		{"nor an answer", home, seenAs("192.168.1.2", "203.0.113.9:5000"),
			Arrivals{Open: []Arrival{at("192.168.1.2:4000", "198.51.100.7:1")}},
			"203.0.113.9:5000/mapped 192.168.1.2:4000/uplink 172.17.0.1:4000/bridge"},
		{"on the internet", host, seenAs("198.51.100.2", "198.51.100.2:4000"), Arrivals{}, "198.51.100.2:4000/global"},
		{"and somebody has come in", host, seenAs("198.51.100.2", "198.51.100.2:4000"),
			Arrivals{Open: []Arrival{at("198.51.100.2:4000", "203.0.113.7:1")}}, "198.51.100.2:4000/proven"},
		{"or a neighbour", host, seenAs("198.51.100.2", "198.51.100.2:4000"),
			Arrivals{Open: []Arrival{at("198.51.100.2:4000", "10.0.0.7:1")}}, "198.51.100.2:4000/global"},
	} {
		p, nw := sockettest.Listen(t, tt.links...)
		a := New(Config{Sockets: p, Net: nw, Asker: tt.asker, Servers: serverAt("192.0.2.1:3478"),
			Arrivals: func() Arrivals { return tt.in }, Seen: func() {}, Changed: func() {}})
		a.Mapped().Measure(t.Context())
		if got := kindsText(t, a); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
	}
}

// What is told of it all, and that Run ends.
func TestAddressesStatus(t *testing.T) {
	t.Parallel()
	p, nw := sockettest.Listen(t, "eth0 192.168.1.2/24")
	seen := make(chan struct{}, 1)
	a := New(Config{Sockets: p, Net: nw, Asker: seenAs("192.168.1.2", "203.0.113.9:5000"), Servers: serverAt("192.0.2.1:3478"),
		Seen: func() { seen <- struct{}{} }, Changed: func() { t.Error("nobody gives an address") }})
	if s := a.Status(false); s.UDP != "" || s.Translation != "" || len(s.Mapped) > 0 || s.PortMapping.Err == nil {
		t.Errorf("before anything was asked: %+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	<-a.Mapped().Remeasure()
	<-seen
	s := a.Status(false)
	if s.UDP != UDPWorks || s.Translation != "translated" || len(s.Mapped) != 1 || s.Mapped[0].String() != "203.0.113.9:5000" || len(s.Probes) != 1 {
		t.Errorf("after a measurement: %+v", s)
	}
	if c := p.Conns()[0]; len(a.Outer(c)) != 1 || len(a.AllocatedAddrs()) != 0 {
		t.Errorf("outer %v, lent %v", a.Outer(c), a.AllocatedAddrs())
	}
	a.NetworkChanged()
	if len(a.Probes().List()) != 1 {
		t.Error("a change that leaves the socket has it forgotten")
	}
	cancel()
	<-ended
}

// Local addresses by their worth, what leads where, and what a listener of the
// port should tell.
func TestLocalAddresses(t *testing.T) {
	t.Parallel()
	p, nw := sockettest.Listen(t, "docker0 172.17.0.1/16", "eth0 192.168.1.2/24", "eth1 2a00::2/64", "eth2 20.0.0.2/24")
	a := New(Config{Sockets: p, Net: nw, Asker: seenAs("192.168.1.2", "203.0.113.9:5000"), Servers: serverAt("192.0.2.1:3478"),
		Seen: func() {}, Changed: func() {}})
	a.Mapped().Measure(t.Context())
	var got []string
	for _, l := range a.Local() {
		got = append(got, l.String())
	}
	if want := "2a00::2 20.0.0.2 192.168.1.2 172.17.0.1"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		local, remote string
		want          bool
	}{
		{"192.168.1.2", "20.0.9.9", true}, {"192.168.1.2", "2a00::9", false}, {"2a00::2", "2a00::9", true},
		{"192.168.1.2", "127.0.0.1", false}, {"192.168.9.9", "20.0.9.9", false},
	} {
		if a.Reaches(addr(tt.local), addr(tt.remote)) != tt.want {
			t.Errorf("from %s to %s: %v", tt.local, tt.remote, !tt.want)
		}
	}
}
