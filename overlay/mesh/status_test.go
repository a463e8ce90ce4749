package mesh

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// What a mesh tells of its members is what they have said and what its connections
// measure, in an order that does not change.
func TestPeersDescribed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	if got := a.Mesh.Peers(); len(got) != 0 {
		t.Errorf("alone, peers %v", got)
	}
	var others []*ship
	for range 3 {
		b := f.launch()
		a.meet(b)
		others = append(others, b)
	}
	got := a.Mesh.Peers()
	if len(got) != 3 || !slices.IsSortedFunc(got, func(x, y PeerInfo) int { return x.Peer.Compare(y.Peer) }) {
		t.Fatalf("%v", got)
	}
	for _, b := range others {
		i := slices.IndexFunc(got, func(p PeerInfo) bool { return p.Peer == b.id })
		if i < 0 {
			t.Fatalf("%v is missing", b.id)
		}
		p := got[i]
		if !strings.HasPrefix(p.Label, "ship") || p.Remote != b.port.Conns()[0].LocalAddr() || p.Server || p.RTT <= 0 {
			t.Errorf("%+v", p)
		}
	}
	others[0].serve()
	await(t, "one says that it is a server", func() bool {
		return len(slices.DeleteFunc(a.Mesh.Peers(), func(p PeerInfo) bool { return !p.Server })) == 1
	})
	if a.RTT("nobody") != 0 {
		t.Error("a round trip to nobody")
	}
	if m, err := a.Metrics().Gather(); err != nil || len(m) == 0 {
		t.Errorf("libp2p's metrics: %d, %v", len(m), err)
	}
	if a.Held() != 0 {
		t.Errorf("%d datagrams held back", a.Held())
	}
}

// A member's word of others is charged to it: what is more than its share is held
// back, and counted.
func TestHeldIsCounted(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	at := netip.MustParseAddrPort("192.0.2.1:9")
	a.Told("liar", p2p.QUICs([]netip.AddrPort{at}))
	for range 10 {
		a.cfg.Hearsay.Pass("victim", at, 100)
	}
	if a.Held() == 0 {
		t.Error("ten datagrams a second to an address that a stranger has named")
	}
}

// A token names this peer first, then servers that others reach, and what hardly
// anybody reaches only for want of better; never more than a token holds.
func TestTokenAddrs(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	own := []netip.AddrPort{
		netip.MustParseAddrPort("192.168.7.1:4000"), netip.MustParseAddrPort("203.0.113.1:4000"), netip.MustParseAddrPort("[2001:db8::1]:4000"),
	}
	lonely := func(at netip.AddrPort) bool { return at == own[0] }
	ending := "/p2p/" + a.id.String()
	want := []string{p2p.QUIC(own[1]).String() + ending, p2p.QUIC(own[2]).String() + ending, p2p.QUIC(own[0]).String() + ending}
	if got := a.TokenAddrs(own, nil, lonely); !slices.Equal(got, want) {
		t.Errorf("alone: %v", got)
	}
	client, server := f.launch(), f.launch()
	a.meet(client)
	server.serve()
	a.meet(server)
	theirs := server.Host().Addrs()[0].String() + "/p2p/" + server.id.String()
	want = []string{want[0], want[1], theirs, want[2]}
	if got := a.TokenAddrs(own, nil, lonely); !slices.Equal(got, want) {
		t.Errorf("with a server: %v, want %v", got, want)
	}
	for range membership.MaxAddrs {
		b := f.launch()
		b.serve()
		a.meet(b)
	}
	if got := a.TokenAddrs(own, nil, lonely); len(got) != membership.MaxAddrs || !slices.Equal(got[:2], want[:2]) || slices.Contains(got, want[3]) {
		t.Errorf("with many servers: %v", got)
	}
	many := slices.Repeat(own[1:], 3)
	if got := a.TokenAddrs(many, nil, lonely); len(got) != membership.MaxAddrs {
		t.Errorf("with many addresses of its own: %v", got)
	}
	if got := a.TokenAddrs(nil, nil, lonely); len(got) != membership.MaxAddrs || !strings.Contains(got[0], "/p2p/") {
		t.Errorf("without one: %v", got)
	}
	tok, err := f.root.Issuer().Invite(membership.InviteOptions{Label: membership.AnyLabel, Addrs: a.TokenAddrs(own, nil, lonely)}, time.Now())
	if err != nil || len(tok.Addrs()) != membership.MaxAddrs {
		t.Errorf("a token of them: %v", err)
	}
}

// Only what came in proves an address; both sides know where the other is.
func TestArrivals(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	b.serve()
	a.meet(b)
	at := func(s *ship) netip.AddrPort { return s.port.Conns()[0].LocalAddr() }
	if in := a.Arrivals(); len(in.Open) != 0 || in.Unasked.From.IsValid() {
		t.Errorf("at the one that dialled: %+v", in)
	}
	in := b.Arrivals()
	if len(in.Open) != 1 || in.Open[0].Local != at(b) || in.Open[0].From != at(a) || in.Unasked != in.Open[0] {
		t.Errorf("%+v", in)
	}
	if r := a.Mesh.Remotes(); len(r) != 1 || r[0].At != at(b) || !r[0].Server {
		t.Errorf("remotes %v", r)
	}
	if r := b.Mesh.Remotes(); len(r) != 1 || r[0].At != at(a) || r[0].Server {
		t.Errorf("remotes %v", r)
	}
	if r := f.launch().Mesh.Remotes(); len(r) != 0 {
		t.Errorf("remotes of nobody: %v", r)
	}
}

// What is remembered can be asked for mapped addresses, and what a record says of its
// peer is learned for a while, within the share of who says it.
func TestRememberedAndLearned(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	at := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:9"), netip.MustParseAddrPort("[2001:db8::1]:9")}
	mars := peerid.ID{4}
	a.Known().Note(mars, p2p.QUICs(at), true, peerid.ID{})
	if got := a.Remembered(); !slices.Equal(got, at) {
		t.Errorf("%v", got)
	}
	a.Known().Forget(mars)
	if got := a.Remembered(); len(got) != 0 {
		t.Errorf("forgotten, and remembered: %v", got)
	}
	a.Learn(p2p.ID(mars), p2p.QUICs(at))
	if got := a.Host().Peerstore().Addrs(p2p.ID(mars)); len(got) != 2 {
		t.Errorf("learned %v", got)
	}
}

// A list of the revoked removes who is on it, and nobody else; none removes nobody.
func TestForgetRevoked(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	known, err := LoadKnown(nil, peerid.ID{9}, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := p2p.QUICs([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:9")})
	mars, venus := peerid.ID{4}, peerid.ID{5}
	known.Note(mars, at, false, peerid.ID{})
	known.Note(venus, at, false, peerid.ID{})
	if known.ForgetRevoked(nil); len(known.List()) != 2 {
		t.Errorf("without a list: %v", known.List())
	}
	now := time.Now()
	l, err := f.root.Revoke(nil, now,
		membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(mars), Until: now.Add(time.Hour)},
		membership.Revocation{Kind: membership.RevokeInvitation, Key: membership.KeyOf(venus), Until: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	known.ForgetRevoked(l)
	if got := known.List(); len(got) != 1 || got[0].Peer != venus {
		t.Errorf("%v", got)
	}
}

// A socket that is given up takes no connection any more, and one that is taken up
// does, on the same address.
func TestListenAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	at := []netip.AddrPort{b.port.Conns()[0].LocalAddr()}
	b.Listen(nil, at)
	if got := b.Host().Network().ListenAddresses(); len(got) != 0 {
		t.Errorf("still listening on %v", got)
	}
	b.Listen(at, nil)
	if got := b.Host().Network().ListenAddresses(); len(got) != 1 || got[0].String() != p2p.QUIC(at[0]).String() {
		t.Fatalf("listening on %v", got)
	}
	a.meet(b)
	// One that this host does not have is said, and nothing else changes.
	b.Listen([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:9")}, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:9")})
	if got := b.Host().Network().ListenAddresses(); len(got) != 1 {
		t.Errorf("listening on %v", got)
	}
}

// A peer that knows nobody has not just come back, one that knows somebody has for a
// while.
func TestJustBack(t *testing.T) {
	t.Parallel()
	known, err := LoadKnown(nil, peerid.ID{9}, nil)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		m := &Mesh{known: known, made: time.Now()}
		if m.JustBack() {
			t.Error("back at nobody")
		}
		known.Note(peerid.ID{4}, p2p.QUICs([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:9")}), false, peerid.ID{})
		if !m.JustBack() {
			t.Error("at the start")
		}
		time.Sleep(AloneAfter)
		if m.JustBack() {
			t.Error("after a while")
		}
		m.tries.pause() // alone again
		if !m.JustBack() {
			t.Error("alone anew")
		}
	})
}

func TestPrefix(t *testing.T) {
	t.Parallel()
	a, b := Prefix([32]byte{1, 2, 3, 4, 5, 6, 7, 8}), Prefix([32]byte{1, 2, 3, 4, 5, 6, 7, 9})
	if a != "/idloc/0102030405060708" || a == b {
		t.Errorf("%s and %s", a, b)
	}
}
