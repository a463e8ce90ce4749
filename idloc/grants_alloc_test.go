package idloc

import (
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/internal/yardstick"
)

// grantedPair is a founder with grants, and a peer that they are about.
func grantedPair(tb testing.TB) (earth *Node, peer PeerID) {
	tb.Helper()
	ctx, addrs := tb.Context(), []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	earth, err := Create(ctx, "example.com", Config{Name: "earth", Addrs: addrs})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { earth.Close() })
	token, err := earth.Invite(InviteOptions{Name: "mars", Tags: []string{"ci", "db", "web"}})
	if err != nil {
		tb.Fatal(err)
	}
	mars, err := Join(ctx, token, Config{Addrs: addrs})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mars.Close() })
	if err := earth.SetGrants(ctx, "allow tag:web to open tcp 5432, tcp 80-90 at earth\nallow venus to open tcp 22 at everybody"); err != nil {
		tb.Fatal(err)
	}
	return earth, mars.ID()
}

// A decision about a peer that has asked lately allocates nothing.
func TestGrantsAllocateNothing(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	earth, mars := grantedPair(t)
	for port, want := range map[uint16]bool{5432: true, 85: true, 22: false} {
		at := netip.AddrPortFrom(netip.Addr{}, port)
		if got := earth.grants(mars, "tcp", at); got != want {
			t.Errorf("port %d: %v", port, got)
		}
		if n := yardstick.Allocs(100, func() { earth.grants(mars, "tcp", at) }); n != 0 {
			t.Errorf("port %d: %v allocations", port, n)
		}
	}
}

func BenchmarkGrants(b *testing.B) {
	earth, mars := grantedPair(b)
	at := netip.AddrPortFrom(netip.Addr{}, 5432)
	b.ReportAllocs()
	for b.Loop() {
		if !earth.grants(mars, "tcp", at) {
			b.Fatal("refused")
		}
	}
}
