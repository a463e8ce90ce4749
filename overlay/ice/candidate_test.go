package ice

import (
	"net/netip"
	"slices"
	"testing"

	pion "github.com/pion/ice/v3"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
)

// RFC 8445 §5.1.2.1: the type decides, then the family and the order of the
// sockets, loopback before all.
func TestPriorities(t *testing.T) {
	t.Parallel()
	v4, v6, lo := netip.MustParseAddr("20.0.0.1"), netip.MustParseAddr("2a00::1"), loopback
	host, srflx, relay := pion.CandidateTypeHost, pion.CandidateTypeServerReflexive, pion.CandidateTypeRelay
	ordered := []uint32{
		priority(host, preference(lo, 0)), priority(host, preference(v6, 0)), priority(host, preference(v4, 0)),
		priority(host, preference(v6, 1)), priority(host, preference(v4, 1)), priority(host, preference(v4, 1000)),
		priority(srflx, preference(v6, 0)), priority(srflx, preference(v4, 0)),
		priority(relay, preference(v6, 0)), priority(relay, preference(v4, 0)),
	}
	for i := range ordered[1:] {
		if ordered[i] <= ordered[i+1] {
			t.Errorf("priority %d: %d, the next %d", i, ordered[i], ordered[i+1])
		}
	}
	if got := priority(host, preference(v4, 5000)); got != priority(host, preference(v4, 1000)) {
		t.Errorf("the preference of socket 5000 has run over: %d", got)
	}
}

// What is shown: lent addresses first, what a socket is mapped to with it as the
// base, and each foundation once for what shares a base and a kind.
func TestLocalCandidates(t *testing.T) {
	t.Parallel()
	conns := socketsOf(t, "eth0 192.168.1.2/24", "eth1 2a00::2/64")
	mapped := []netip.AddrPort{netip.MustParseAddrPort("20.0.0.9:7"), netip.MustParseAddrPort("20.0.0.9:8")}
	lent := []netip.AddrPort{netip.MustParseAddrPort("20.0.5.1:1")}
	got := LocalCandidates(conns, func(c *socket.Conn) []netip.AddrPort {
		if c.LocalAddr().Addr().Is4() {
			return mapped
		}
		return nil
	}, lent)
	var text []string
	foundations := map[string]bool{}
	for _, c := range got {
		text = append(text, c.Type.String()+" "+c.Addr.String()+" "+c.Related.String())
		if foundations[c.Foundation] {
			t.Errorf("two candidates have the foundation %s", c.Foundation)
		}
		foundations[c.Foundation] = true
		if c.Priority&0xff != 255 {
			t.Errorf("%v has priority %x", c.Addr, c.Priority)
		}
	}
	want := []string{
		wire.Relayed.String() + " 20.0.5.1:1 invalid AddrPort",
		wire.ServerReflexive.String() + " 20.0.0.9:7 192.168.1.2:4000",
		wire.ServerReflexive.String() + " 20.0.0.9:8 192.168.1.2:4000",
		wire.Host.String() + " [2a00::2]:4000 invalid AddrPort",
		wire.Host.String() + " 192.168.1.2:4000 invalid AddrPort",
	}
	if !slices.Equal(text, want) {
		t.Errorf("\n%q, want\n%q", text, want)
	}
	direct, relayed := SplitRelayed(got)
	if len(direct) != 4 || len(relayed) != 1 || relayed[0].Addr != lent[0] {
		t.Errorf("%d direct, %d relayed", len(direct), len(relayed))
	}
}

// What pion makes of a peer's candidates; TCP and what nobody knows are refused.
func TestRemoteCandidates(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("20.0.0.1:4000")
	for _, c := range []wire.Candidate{
		{Type: wire.Host, Addr: at, Priority: 7, Foundation: "h"},
		{Type: wire.ServerReflexive, Addr: at, Related: netip.MustParseAddrPort("192.168.1.2:4000"), Priority: 7, Foundation: "s"},
		{Type: wire.PeerReflexive, Addr: at, Priority: 7, Foundation: "p"},
		{Type: wire.Relayed, Addr: netip.MustParseAddrPort("[2a00::1]:1"), Priority: 7, Foundation: "r"},
	} {
		rc, err := remoteCandidate(c)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := candidateAddr(rc); err != nil || a != c.Addr || rc.Priority() != c.Priority || rc.Foundation() != c.Foundation {
			t.Errorf("%v is %v, priority %d, %s, %v", c, a, rc.Priority(), rc.Foundation(), err)
		}
	}
	for _, c := range []wire.Candidate{{Type: wire.Host, TCP: wire.Passive, Addr: at}, {Type: 99, Addr: at}} {
		if _, err := remoteCandidate(c); err == nil {
			t.Errorf("%v is a candidate", c)
		}
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("20.0.0.1:4000")
	for want, list := range map[string][]wire.Candidate{
		"":                   nil,
		"host/20.0.0.1:4000": {{Type: wire.Host, Addr: at}},
		"host/20.0.0.1:4000 host/20.0.0.1:4000/tcp-passive": {{Type: wire.Host, Addr: at}, {Type: wire.Host, TCP: wire.Passive, Addr: at}},
	} {
		if got := Describe(list); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
