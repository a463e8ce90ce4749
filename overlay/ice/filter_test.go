package ice

import (
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/wire"
)

func TestCandidateFilter(t *testing.T) {
	t.Parallel()
	behind := func(a netip.Addr) bool { return netip.MustParsePrefix("64:ff9b::/96").Contains(a) }
	plain := Filter{Indirect: behind, Never: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}}
	local := Filter{Loopback: true}
	for _, c := range []struct {
		addr        string
		plain, loop bool
		what        string
	}{
		{"192.0.2.1:5000", true, true, "an ordinary address"},
		{"[2001:db8::1]:5000", true, true, "an ordinary IPv6 address"},
		{"10.0.0.1:5000", true, true, "a private one"},
		{"127.0.0.1:5000", false, true, "loopback"},
		{"[::1]:5000", false, true, "loopback"},
		{"192.0.2.1:443", true, true, "a port that firewalls let through"},
		{"192.0.2.1:0", false, false, "no port"},
		{"0.0.0.0:5000", false, false, "unspecified"},
		{"0.1.2.3:5000", false, false, "this network"},
		{"224.0.0.1:5000", false, false, "multicast"},
		{"[ff02::1]:5000", false, false, "multicast"},
		{"169.254.1.1:5000", false, false, "link-local"},
		{"[fe80::1]:5000", false, false, "link-local"},
		{"[::ffff:192.0.2.1]:5000", false, false, "v4-mapped"},
		{"255.255.255.255:5000", false, false, "broadcast"},
		{"198.18.0.7:5000", false, false, "an LSI"},
		{"192.0.0.4:5000", false, false, "of each host that translates"},
		{"[64:ff9b::7f00:1]:5000", false, true, "IPv4 behind a NAT64"},
		{"[2001:20::7]:5000", false, false, "an LSI"},
		{"10.77.1.1:5000", false, true, "an LSI of this node's prefix"},
	} {
		a := netip.MustParseAddrPort(c.addr)
		if got := plain.Allowed(a); got != c.plain {
			t.Errorf("%s, %s: allowed %v", c.addr, c.what, got)
		}
		if got := local.Allowed(a); got != c.loop {
			t.Errorf("%s, %s, with loopback: allowed %v", c.addr, c.what, got)
		}
	}
	var many []wire.Candidate
	for i := range 300 {
		many = append(many, wire.Candidate{Type: wire.Host, Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(2000+i/2))})
	}
	if got := plain.Keep(many); len(got) != wire.MaxCandidates || got[0].Addr == got[1].Addr {
		t.Errorf("%d of 300 candidates kept", len(got))
	}
}

// A node that has a loopback address takes others'.
func TestNewFilter(t *testing.T) {
	t.Parallel()
	lo, lsi := netip.MustParseAddrPort("127.0.0.1:4000"), netip.MustParseAddrPort("10.77.1.1:4000")
	never := []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}
	for _, tt := range []struct {
		links    string
		loopback bool
		want     bool
	}{{"eth0 20.0.0.1/24", false, false}, {"eth0 20.0.0.1/24", true, true}, {"lo 127.0.0.1/8", false, true}} {
		f := NewFilter(socketsOf(t, tt.links), never, tt.loopback)
		if f.Allowed(lo) != tt.want || f.Allowed(lsi) {
			t.Errorf("%+v: loopback %v, LSI %v", tt, f.Allowed(lo), f.Allowed(lsi))
		}
	}
}
