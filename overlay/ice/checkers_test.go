package ice

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/sockettest"
	"github.com/idloc/idloc/internal/wire"
)

// socketsOf opens a port on these interfaces.
func socketsOf(t *testing.T, list ...string) []*socket.Conn {
	t.Helper()
	p, _ := sockettest.Listen(t, list...)
	return p.Conns()
}

func addrsOfConns(conns []*socket.Conn) string {
	var out []string
	for _, c := range conns {
		out = append(out, c.LocalAddr().Addr().String())
	}
	return strings.Join(out, " ")
}

func candidatesAt(list string) []wire.Candidate {
	var out []wire.Candidate
	for _, a := range strings.Fields(list) {
		out = append(out, wire.Candidate{Type: wire.Host, Addr: netip.AddrPortFrom(netip.MustParseAddr(a), 4000)})
	}
	return out
}

// TestCheckers: from which sockets a peer is checked, and at which of its
// addresses.
func TestCheckers(t *testing.T) {
	t.Parallel()
	docker := []string{"docker0 172.17.0.1/16", "br-000000000001 172.18.0.1/16", "br-000000000002 172.19.0.1/16",
		"br-000000000003 172.20.0.1/16", "br-000000000004 172.21.0.1/16", "br-000000000005 172.22.0.1/16"}
	for _, tt := range []struct {
		what  string
		links []string
		peer  string
		from  string
		at    string
	}{
		{"both have Docker", append([]string{"eth0 192.168.1.2/24"}, docker...), "20.0.0.9 192.168.1.2 172.17.0.1 172.18.0.1",
			"192.168.1.2 172.17.0.1 172.18.0.1", "20.0.0.9 192.168.1.2"},
		{"a peer in a container", append([]string{"eth0 192.168.1.2/24"}, docker...), "172.17.0.2",
			"192.168.1.2 172.17.0.1", "172.17.0.2"},
		{"many subnets in common", append([]string{"eth0 192.168.1.2/24"}, docker...), "20.0.0.9 172.17.0.2 172.18.0.2 172.19.0.2 172.20.0.2 172.21.0.2 172.22.0.2",
			"192.168.1.2 172.17.0.1 172.18.0.1 172.19.0.1 172.20.0.1", "20.0.0.9 172.17.0.2 172.18.0.2 172.19.0.2 172.20.0.2 172.21.0.2 172.22.0.2"},
		{"two uplinks", []string{"eth0 192.168.1.2/24", "wlan0 10.0.0.7/24"}, "20.0.0.9", "192.168.1.2 10.0.0.7", "20.0.0.9"},
		{"another family", []string{"eth0 192.168.1.2/24"}, "2001:db8::9", "192.168.1.2", ""},
	} {
		conns := socketsOf(t, tt.links...)
		candidates := candidatesAt(tt.peer)
		from := checkers(conns, candidates)
		if got := addrsOfConns(from); got != tt.from {
			t.Errorf("%s: checks from %s, want %s", tt.what, got, tt.from)
		}
		var at []string
		for _, c := range reachable(conns, from, candidates) {
			at = append(at, c.Addr.Addr().String())
		}
		if got := strings.Join(at, " "); got != tt.at {
			t.Errorf("%s: checks of %s, want %s", tt.what, got, tt.at)
		}
	}
}

// TestCandidatesOfManyInterfaces: what an offer names when there is more than
// fits: the useful ones, and few of the others.
func TestCandidatesOfManyInterfaces(t *testing.T) {
	t.Parallel()
	links := []string{"docker0 10.17.0.1/16"}
	for i := range 20 {
		links = append(links, "br-00000000000"+string(rune('a'+i%6))+" 10."+string(rune('1'+i/10))+string(rune('0'+i%10))+".0.1/24")
	}
	links = append(links, "eth0 192.168.1.2/24", "eth1 fd00::2/64")
	conns := socketsOf(t, links...)
	mapped := netip.MustParseAddrPort("203.0.113.7:4000")
	got := LocalCandidates(conns, func(c *socket.Conn) []netip.AddrPort {
		if c.LocalAddr().Addr() == netip.MustParseAddr("192.168.1.2") {
			return []netip.AddrPort{mapped}
		}
		return nil
	}, nil)
	if len(got) != 3+lonelyMax {
		t.Fatalf("%d candidates: %s", len(got), Describe(got))
	}
	if got[0].Addr != mapped || got[1].Addr.Addr().String() != "192.168.1.2" || got[2].Addr.Addr().String() != "fd00::2" {
		t.Errorf("not the best first: %s", Describe(got))
	}
	if !slices.IsSortedFunc(got[1:], func(a, b wire.Candidate) int { return int(int64(b.Priority>>8&0xffff) - int64(a.Priority>>8&0xffff)) }) {
		t.Errorf("priorities do not follow the ranking: %s", Describe(got))
	}
}
