package nat

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/idloc/idloc/internal/socket"
)

func TestKinds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		addr   string
		link   socket.LinkKind
		uplink bool
		of     Kind
		local  Kind
	}{
		{"203.0.113.7", socket.LinkOrdinary, true, Global, Global},
		{"203.0.113.7", socket.LinkTunnel, true, Global, Global}, // PPPoE
		{"2001:db8::7", socket.LinkBridge, false, Global, Global},
		{"192.168.1.5", socket.LinkOrdinary, true, Private, Uplink},
		{"192.168.1.5", socket.LinkOrdinary, false, Private, Private},
		{"100.72.1.5", socket.LinkOrdinary, true, Private, Uplink},
		{"100.72.1.5", socket.LinkTunnel, false, Private, Tunnel},
		{"10.8.0.2", socket.LinkTunnel, true, Private, Tunnel},
		{"fd00::5", socket.LinkOrdinary, true, Private, Uplink},
		{"fd00::5", socket.LinkBridge, false, Private, Bridge},
		{"172.17.0.1", socket.LinkBridge, false, Bridge, Bridge},
		{"172.17.0.1", socket.LinkOrdinary, true, Bridge, Uplink}, // the interface is known
		{"172.17.0.2", socket.LinkOrdinary, true, Private, Uplink},
		{"172.16.5.1", socket.LinkOrdinary, false, Private, Private},
		{"192.168.122.1", socket.LinkBridge, false, Bridge, Bridge},
		{"192.168.122.7", socket.LinkOrdinary, true, Private, Uplink},
		{"10.88.0.1", socket.LinkBridge, false, Bridge, Bridge},
		{"10.1.2.3", socket.LinkHost, false, Private, Host},
		{"127.0.0.1", socket.LinkLoopback, false, Loopback, Loopback},
		{"::ffff:10.1.2.3", socket.LinkOrdinary, true, Private, Uplink},
		{"fe80::1", socket.LinkOrdinary, true, Useless, Useless},
		{"0.0.0.0", socket.LinkOrdinary, true, Useless, Useless},
	} {
		a := netip.MustParseAddr(tt.addr)
		if got := Of(a); got != tt.of {
			t.Errorf("%s of another host is %v, want %v", a, got, tt.of)
		}
		if got := Local(a, socket.Interface{Kind: tt.link}, tt.uplink); got != tt.local {
			t.Errorf("%s here on a link of kind %v, uplink %v, is %v, want %v", a, tt.link, tt.uplink, got, tt.local)
		}
	}
	if got := Of(netip.Addr{}); got != Useless {
		t.Errorf("no address is %v", got)
	}
}

// The one table for all lists: what there is, in the order in which it was
// found (an address's text, a slash and its kind), and what stays of it.
func TestBest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what string
		have string
		max  int
		want string
	}{
		{"a server with docker0, two bridges and virbr0",
			"172.17.0.1/bridge 172.18.0.1/bridge 172.19.0.1/bridge 192.168.122.1/bridge 203.0.113.5/global", 4,
			"203.0.113.5 172.17.0.1 172.18.0.1 172.19.0.1"},
		{"a home behind a NAT",
			"10.8.0.2/tunnel 172.17.0.1/bridge 192.168.1.5/uplink 203.0.113.9/mapped", 2,
			"203.0.113.9 192.168.1.5"},
		{"all kinds",
			"127.0.0.1/loopback 10.8.0.2/tunnel 10.9.0.1/host 172.17.0.1/bridge 10.1.0.1/private 192.168.1.5/uplink 203.0.113.1/global 203.0.113.2/mapped 203.0.113.3/proven", 9,
			"203.0.113.3 203.0.113.2 203.0.113.1 192.168.1.5 10.1.0.1 172.17.0.1 10.9.0.1 10.8.0.2 127.0.0.1"},
		{"equal ones in the order found",
			"10.3.0.1/private 10.1.0.1/private 10.2.0.1/private", 2, "10.3.0.1 10.1.0.1"},
		{"both families", "203.0.113.1/global 203.0.113.2/global 203.0.113.3/global 2001:db8::1/global", 3,
			"203.0.113.1 203.0.113.2 2001:db8::1"},
		{"both families, the second of a worse kind", "203.0.113.1/proven 203.0.113.2/proven fd00::1/uplink 10.0.0.1/uplink", 2,
			"203.0.113.1 fd00::1"},
		{"both families, IPv6 first", "2001:db8::1/global 2001:db8::2/global 2001:db8::3/global 192.168.1.5/uplink", 2,
			"2001:db8::1 192.168.1.5"},
		{"both families, but a better kind would lose its last", "203.0.113.1/proven 203.0.113.2/mapped 10.0.0.1/uplink fd00::1/private", 3,
			"203.0.113.1 203.0.113.2 10.0.0.1"},
		{"both families, but of the other there is a bridge's only", "203.0.113.1/global 203.0.113.2/global fd00::1/bridge", 2,
			"203.0.113.1 203.0.113.2"},
		{"the worse of equals gives way, not the last of a better kind", "203.0.113.1/proven 203.0.113.2/proven 192.168.1.5/uplink 2001:db8::1/private", 3,
			"203.0.113.1 192.168.1.5 2001:db8::1"},
		{"one place", "10.0.0.1/uplink 2001:db8::1/global", 1, "2001:db8::1"},
		{"no place", "10.0.0.1/uplink", 0, ""},
		{"room for all", "10.0.0.1/uplink 2001:db8::1/global", 9, "2001:db8::1 10.0.0.1"},
		{"one twice, the better counts", "10.0.0.1/private 10.0.0.2/uplink 10.0.0.1/proven", 9, "10.0.0.1 10.0.0.2"},
		{"one twice, mapped to IPv6", "::ffff:10.0.0.1/private 10.0.0.1/private", 9, "::ffff:10.0.0.1"},
		{"none", "", 4, ""},
	} {
		var r Ranking[string]
		for _, f := range strings.Fields(tt.have) {
			text, kind, _ := strings.Cut(f, "/")
			k := slices.Index(kindNames[:], kind)
			if k < 0 {
				t.Fatalf("%s: kind %q", tt.what, kind)
			}
			r.Add(netip.AddrPortFrom(netip.MustParseAddr(text), 4000), Kind(k), text)
		}
		if got := strings.Join(r.Best(tt.max), " "); got != tt.want {
			t.Errorf("%s: %d of %s: %s, want %s", tt.what, tt.max, tt.have, got, tt.want)
		}
	}
}

// Of whatever list, what is cut off is not better than all that stays.
func FuzzBest(f *testing.F) {
	f.Add([]byte{0, 7, 3, 130, 2, 255}, 3)
	f.Fuzz(func(t *testing.T, list []byte, max int) {
		var r Ranking[int]
		kinds := make([]Kind, len(list))
		six := make([]bool, len(list))
		for i, b := range list {
			kinds[i], six[i] = Kind(b&0x7f)%Useless, b&0x80 != 0
			a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			if six[i] {
				a = netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})
			}
			r.Add(netip.AddrPortFrom(a, 1), kinds[i], i)
		}
		if max < 0 || max > 1<<10 || len(list) > 1<<16 {
			return
		}
		best := r.Best(max)
		if len(best) != min(max, len(list)) {
			t.Fatalf("%d of %d, want at most %d", len(best), len(list), max)
		}
		kept := map[Kind]int{}
		worst := Proven
		for _, i := range best {
			kept[kinds[i]]++
			worst = kinds[i]
		}
		for i, k := range kinds {
			if k < worst && kept[k] == 0 {
				t.Errorf("%v: the last of kind %v (%d) was cut, %v stays", best, k, i, worst)
			}
		}
	})
}
