package adapter

import (
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/carry"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/nat"
)

// What an offer names are the port's sockets, and an agent is made to check from them;
// without carriers and TURN servers there are no pairs through any.
func TestLocal(t *testing.T) {
	t.Parallel()
	port, err := socket.Listen(socket.Config{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}})
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	demux := ice.NewDemux(ice.DemuxConfig{})
	l := Local{
		Demux: demux, Port: port, Carriers: &carry.Carriers{Socket: port},
		Addresses: nat.New(nat.Config{Sockets: port, Asker: demux, Servers: func() []netip.AddrPort { return nil }}),
	}
	candidates, senders := l.Candidates(), Senders(port)
	if len(candidates) != 2 || len(senders) != 2 {
		t.Fatalf("candidates %v of %d sockets", candidates, len(senders))
	}
	for _, s := range senders {
		found := false
		for _, c := range candidates {
			found = found || c.Addr == s.LocalAddr()
		}
		if !found {
			t.Errorf("no candidate for %v among %v", s.LocalAddr(), candidates)
		}
	}
	checks := l.Checks()
	for _, turn := range []bool{false, true} {
		if got := checks.Pairs(turn, candidates); len(got) != 0 {
			t.Errorf("pairs %v", got)
		}
		a, err := checks.New(turn, true)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
	}
	if got := checks.Allocated(candidates); checks.Carriers || len(got) != 0 {
		t.Errorf("carriers %v, allocated %v", checks.Carriers, got)
	}
}
