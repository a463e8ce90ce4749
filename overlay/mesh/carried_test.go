package mesh

import (
	"net/netip"
	"slices"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/overlay/p2p"
)

func carrierAt(t *testing.T, s string) ma.Multiaddr {
	t.Helper()
	a, err := carrier.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	m, err := p2p.Carrier(a)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Carriers wait for UDP, unless there is none to wait for.
func TestCarriersAreDialledLast(t *testing.T) {
	udp, tcp := p2p.QUIC(netip.MustParseAddrPort("192.0.2.1:443")), carrierAt(t, "tls://192.0.2.1")
	for name, c := range map[string]struct {
		addrs  []ma.Multiaddr
		silent bool
		wait   bool
	}{
		"both": {[]ma.Multiaddr{tcp, udp}, false, true}, "UDP is silent": {[]ma.Multiaddr{tcp, udp}, true, false}, "no UDP": {[]ma.Multiaddr{tcp}, false, false},
	} {
		got := carrierDialer{silent: func() bool { return c.silent }}.rank(slices.Clone(c.addrs))
		if len(got) != len(c.addrs) {
			t.Fatalf("%s: %v", name, got)
		}
		for _, a := range got {
			if a.Addr.Equal(udp) && a.Delay != 0 || a.Addr.Equal(tcp) && (a.Delay == carrierAfter) != c.wait {
				t.Errorf("%s: %v after %v", name, a.Addr, a.Delay)
			}
		}
	}
}

// However many UDP addresses there are, a carrier is among the best, and never in the place of
// the only one.
func TestCarriersAreNotCrowdedOut(t *testing.T) {
	var addrs []ma.Multiaddr
	for i := range 10 {
		addrs = append(addrs, p2p.QUIC(netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 443)))
	}
	addrs = append(addrs, carrierAt(t, "tls://a.example.org"), carrierAt(t, "wss://a.example.org/x"), carrierAt(t, "tls://b.example.org"))
	for n, want := range map[int]int{1: 0, 2: 1, 4: 1, 8: 2, 12: 3, 13: 3} {
		carriers := 0
		got := BestOf(addrs, n)
		for _, m := range got {
			if p2p.Carried(m) {
				carriers++
			}
		}
		if len(got) != n || carriers != want {
			t.Errorf("of %d places %d, %d of carriers, want %d", n, len(got), carriers, want)
		}
	}
	if got := BestOf(addrs[10:], 2); len(got) != 2 {
		t.Errorf("of carriers alone: %v", got)
	}
	if got := BestOf(nil, 4); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
