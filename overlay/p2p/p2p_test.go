package p2p

import (
	"bytes"
	"net/netip"
	"testing"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
)

func TestIDs(t *testing.T) {
	id := peerid.ID{1, 2, 3}
	if got, err := PeerID(ID(id)); err != nil || got != id {
		t.Errorf("there and back: %v, %v", got, err)
	}
	for _, p := range []peer.ID{"", "x", ID(id)[:20]} {
		if got, err := PeerID(p); err == nil {
			t.Errorf("%q is %v", string(p), got)
		}
	}
}

func TestAddrs(t *testing.T) {
	for _, s := range []string{"192.0.2.1:443", "[2001:db8::1]:1", "127.0.0.1:65535"} {
		a := netip.MustParseAddrPort(s)
		if got, ok := AddrPort(QUIC(a)); !ok || got != a {
			t.Errorf("%s there and back: %v, %v", s, got, ok)
		}
	}
	if got, ok := AddrPort(QUIC(netip.MustParseAddrPort("[fe80::1%eth0]:1"))); !ok || got != netip.MustParseAddrPort("[fe80::1]:1") {
		t.Errorf("an address with a zone: %v, %v", got, ok)
	}
	for _, s := range []string{"/ip4/192.0.2.1/tcp/443", "/dns/example.com/udp/1", "/ip4/192.0.2.1", "/udp/1"} {
		m, err := ma.NewMultiaddr(s)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := AddrPort(m); ok {
			t.Errorf("%s is %v", s, got)
		}
	}
}

func TestParse(t *testing.T) {
	id := ID(peerid.ID{7})
	good := "/ip4/192.0.2.1/udp/443/quic-v1"
	if got := Parse([]string{"nonsense", good, ""}); len(got) != 1 || got[0].String() != good {
		t.Errorf("Parse: %v", got)
	}
	got := ParseInfos([]string{good + "/p2p/" + id.String(), "nonsense", "/ip4/192.0.2.2/udp/443/quic-v1/p2p/" + id.String()})
	if len(got) != 1 || got[0].ID != id || len(got[0].Addrs) != 2 {
		t.Errorf("ParseInfos: %v", got)
	}
	if got := ParseInfos([]string{good}); len(got) != 0 {
		t.Errorf("an address without a peer ID: %v", got)
	}
}

// TestCompare: it orders as kad-dht does.
func TestCompare(t *testing.T) {
	far := func(a, target peerid.ID) kb.ID {
		x, y := kb.ConvertPeerID(ID(a)), kb.ConvertPeerID(ID(target))
		for i := range x {
			x[i] ^= y[i]
		}
		return x
	}
	for a := range byte(8) {
		for b := range byte(8) {
			x, y, target := peerid.ID{a}, peerid.ID{b}, peerid.ID{3, 7}
			if got, want := Compare(x, y, target), bytes.Compare(far(x, target), far(y, target)); got != want {
				t.Errorf("%d and %d: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestQUICs(t *testing.T) {
	at := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("[2001:db8::1]:1")}
	got := QUICs(at)
	if len(got) != 2 || got[0].String() != "/ip4/192.0.2.1/udp/443/quic-v1" || got[1].String() != "/ip6/2001:db8::1/udp/1/quic-v1" {
		t.Errorf("%v", got)
	}
	if got := QUICs(nil); got != nil {
		t.Errorf("of nothing %v", got)
	}
}
