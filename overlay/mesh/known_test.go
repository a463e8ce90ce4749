package mesh

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/p2p"
)

func testID(i int) (out peerid.ID) { out[0], out[1] = byte(i), 1; return out }

func testAddrs(i int) []ma.Multiaddr {
	return []ma.Multiaddr{p2p.QUIC(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 443))}
}

func ids(k *Known) (out []peerid.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.sortedLocked() {
		out = append(out, p.Peer)
	}
	return out
}

// Servers that came later do not displace the founder among those that a peer tries
// in each round; whom this peer was connected to comes before what it was told of.
func TestKnownOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, err := LoadKnown(nil, testID(0), nil)
		if err != nil {
			t.Fatal(err)
		}
		k.Note(testID(1), testAddrs(1), true, peerid.ID{})
		k.NoteIssuer(testID(1))
		k.Note(testID(2), testAddrs(2), false, peerid.ID{})
		k.Note(testID(3), testAddrs(3), true, testID(1))
		time.Sleep(2 * time.Hour)
		k.Note(testID(4), testAddrs(4), true, peerid.ID{})
		k.Note(testID(5), testAddrs(5), false, peerid.ID{})
		k.Note(testID(0), testAddrs(9), true, peerid.ID{}) // itself
		k.Note(testID(9), nil, true, peerid.ID{})          // nowhere
		want := []peerid.ID{testID(1), testID(4), testID(5), testID(2), testID(3)}
		if got := ids(k); !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
		if n := len(k.Servers()); n != 2 {
			t.Errorf("%d servers", n)
		}
		if n := len(k.Met()); n != 4 {
			t.Errorf("%d met", n)
		}
		k.Note(testID(1), testAddrs(1), false, peerid.ID{})
		if !k.peers[testID(1)].Issuer {
			t.Error("that it is the founder was forgotten")
		}
		time.Sleep(forgetAfter - time.Hour)
		if n := len(k.AddrInfos()); n != 5 {
			t.Errorf("%d after a month in which nobody was seen", n)
		}
		k.Note(testID(6), testAddrs(6), false, peerid.ID{})
		if n := len(k.AddrInfos()); n != 4 {
			t.Errorf("%d after a month in which one was", n)
		}
		time.Sleep(400 * 24 * time.Hour)
		if n := len(k.AddrInfos()); n != 4 {
			t.Errorf("%d after a year in which nobody was seen", n)
		}
		k.Note(testID(7), testAddrs(7), false, peerid.ID{})
		if n := len(k.AddrInfos()); n != 1 {
			t.Errorf("%d after a year in which one was", n)
		}
	})
}

// What one member tells changes nothing about those that this peer knows itself,
// and crowds out nothing but what it has told before.
func TestKnownHearsay(t *testing.T) {
	t.Parallel()
	k, err := LoadKnown(nil, testID(0), nil)
	if err != nil {
		t.Fatal(err)
	}
	k.Note(testID(1), testAddrs(1), true, peerid.ID{})
	k.Note(testID(1), testAddrs(66), true, testID(2))
	if got := k.Addrs(testID(1)); len(got) != 1 || !got[0].Equal(testAddrs(1)[0]) {
		t.Errorf("hearsay has replaced what is known: %v", got)
	}
	k.Note(testID(3), testAddrs(3), true, testID(4))
	for i := range 3 * knownMax {
		var id peerid.ID
		copy(id[:], fmt.Sprintf("told %d", i))
		k.Note(id, testAddrs(i), true, testID(2))
	}
	k.mu.Lock()
	n := len(k.peers)
	_, own := k.peers[testID(1)]
	_, other := k.peers[testID(3)]
	k.mu.Unlock()
	if n != knownMax || !own || !other {
		t.Errorf("%d known; its own: %v, another's: %v", n, own, other)
	}
	k.Forget(testID(2))
	if got := ids(k); len(got) != 2 {
		t.Errorf("%d are left of one that was put out", len(got))
	}
}

// TestKnownOfOneToken is the attack: a thousand keys of one token, or of one delegate's tokens,
// connect and say that they are servers. Members of other invitations are remembered, those
// from before and those that come later, and are after a restart.
func TestKnownOfOneToken(t *testing.T) {
	t.Parallel()
	for what, hostileOf := range map[string]func(i int) account.Account{
		"token": func(int) account.Account { return account.Account{Invitation: "a token"} },
		"delegate": func(i int) account.Account {
			return account.Account{Invitation: fmt.Sprint(i, " token"), Delegate: "a delegate"}
		},
	} {
		dir, err := state.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		k, err := LoadKnown(dir, testID(0), nil)
		if err != nil {
			t.Fatal(err)
		}
		met := func(name string, server bool, of account.Account) (id peerid.ID) {
			copy(id[:], name)
			k.NoteMet(id, testAddrs(1), server, of)
			return id
		}
		var honest []peerid.ID
		friends := func() {
			for range 50 {
				honest = append(honest, met(fmt.Sprint("honest ", len(honest)), false, account.Account{Invitation: fmt.Sprint(len(honest), " of others")}))
			}
		}
		flood := func() {
			for i := range 1000 {
				met(fmt.Sprint("hostile ", i), true, hostileOf(i))
			}
		}
		friends()
		flood()
		friends()
		flood()
		k.Save(slog.New(slog.DiscardHandler))
		if k, err = LoadKnown(dir, testID(0), nil); err != nil {
			t.Fatal(err)
		}
		_ = dir.Close()
		known := ids(k)
		lost := 0
		for _, id := range honest {
			if !slices.Contains(known, id) {
				lost++
			}
		}
		if lost > 0 || len(known) != knownMax {
			t.Errorf("one %s: %d of %d others are forgotten, %d known", what, lost, len(honest), len(known))
		}
		k.mu.Lock()
		hostile := account.Counts{}
		for _, p := range k.peers {
			hostile.Add(p.account())
		}
		if part := (account.Account{Delegate: shortly("a delegate")}); what == "delegate" && hostile.Of(part) != knownMax-len(honest) {
			t.Errorf("%d of the delegate's", hostile.Of(part))
		}
		k.mu.Unlock()
	}
}

// What is known is there after a restart, with the addresses that have answered; a
// damaged file is said and begun anew.
func TestKnownSaved(t *testing.T) {
	t.Parallel()
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	gate := func() *hearsay.Gate { return hearsay.New(func(netip.AddrPort) bool { return true }, time.Now) }
	g := gate()
	k, err := LoadKnown(dir, testID(0), g)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("192.0.2.1:443")
	g.Proven(string(p2p.ID(testID(1))), at)
	k.Note(testID(1), testAddrs(1), true, peerid.ID{})
	k.Note(testID(2), testAddrs(2), false, testID(1))
	k.Save(slog.New(slog.DiscardHandler))
	g = gate()
	again, err := LoadKnown(dir, testID(0), g)
	if err != nil || !slices.Equal(ids(again), ids(k)) {
		t.Fatalf("%v, %v", ids(again), err)
	}
	if !g.Knows(string(p2p.ID(testID(1))), at) || g.Knows(string(p2p.ID(testID(2))), netip.MustParseAddrPort("192.0.2.2:443")) {
		t.Error("what has answered before is not what the gate knows")
	}
	if err := dir.Save(KnownFile, "nonsense"); err != nil {
		t.Fatal(err)
	}
	if damaged, err := LoadKnown(dir, testID(0), g); err == nil || len(ids(damaged)) != 0 {
		t.Errorf("a damaged file: %v, %v", ids(damaged), err)
	}
}

// TestHearsay: what a member tells of others displaces nobody that this peer
// was connected to, changes nothing about them, and crowds out only what the
// same member told before.
func TestHearsay(t *testing.T) {
	t.Parallel()
	id := func(i int) (p peerid.ID) { p[0], p[1] = byte(i), byte(i>>8); return p }
	addr := func(i int) []ma.Multiaddr {
		return []ma.Multiaddr{ma.StringCast(fmt.Sprintf("/ip4/192.0.2.1/udp/%d/quic-v1", 1000+i))}
	}
	r, err := LoadKnown(nil, id(9999), nil)
	if err != nil {
		t.Fatal(err)
	}
	const met = 20
	liar, honest := id(5000), id(5001)
	for i := range met {
		r.Note(id(i+1), addr(i), false, peerid.ID{})
	}
	r.Note(id(3000), addr(3000), true, honest)
	for i := range 500 {
		r.Note(id(100+i), addr(i), true, liar)
		r.Note(id(i%met+1), addr(9999), true, liar)
	}
	list := r.AddrInfos()
	if len(list) != knownMax {
		t.Errorf("%d remembered", len(list))
	}
	for i, ai := range list[:met] {
		p, _ := p2p.PeerID(ai.ID)
		if n := int(p[0]) | int(p[1])<<8; n > met || !ai.Addrs[0].Equal(addr(n - 1)[0]) {
			t.Errorf("place %d is %v at %v: it was only heard of", i, ai.ID, ai.Addrs)
		}
	}
	found := false
	for _, ai := range list {
		found = found || ai.ID == p2p.ID(id(3000))
	}
	if !found {
		t.Error("what another member told is gone")
	}
	r.Forget(liar)
	if n := len(r.AddrInfos()); n != met+1 {
		t.Errorf("%d left without the liar's", n)
	}
}

// TestFounderFirst: servers that came later do not displace the founder among
// those that a peer tries in each round.
func TestFounderFirst(t *testing.T) {
	id := func(i int) (out peerid.ID) { out[0], out[1] = byte(i), 1; return out }
	addrs := []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/udp/443/quic-v1")}
	r, err := LoadKnown(nil, id(0), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Note(id(1), addrs, true, peerid.ID{})
	r.NoteIssuer(id(1))
	for i := range 40 {
		r.Note(id(2+i), addrs, true, peerid.ID{})
	}
	r.peers[id(1)] = func(p KnownMember) KnownMember { p.Seen = p.Seen.Add(-time.Hour); return p }(r.peers[id(1)])
	if first := r.sortedLocked()[0]; first.Peer != id(1) {
		t.Errorf("%v is tried first", first)
	}
	if r.Note(id(1), addrs, false, peerid.ID{}); !r.peers[id(1)].Issuer {
		t.Error("that it is the founder was forgotten")
	}
}
