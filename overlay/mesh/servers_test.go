package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// TestServersOfOneToken is the attack: keys of one token say that they are servers, and are
// connected: as many as a peer looks for, and more. It looks for others all the same, among
// those that it knows and those that it is told of, and for no more of that token; where all
// that are connected, and it itself, came by one token there is nobody to look for.
func TestServersOfOneToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	is := func(of account.Account) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.account = of
	}
	sail := func(token *membership.Token, server bool) *ship {
		s := f.quiet()
		chain, err := token.SelfIssue(s.key, "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s.say(Hello{Chain: chain, Roles: Roles{Server: server}})
		s.Start()
		return s
	}
	invite := func() *membership.Token {
		token, err := f.root.Issuer().Invite(membership.InviteOptions{Uses: membership.AnyNumber}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	bad := invite()
	for range 4 {
		sail(bad, true).meet(a)
	}
	await(t, "servers are connected", func() bool { return servers(a.Members()) == 4 })
	theirs := a.Members()[0].Member.Account()
	if is(theirs); !a.enoughServers() {
		t.Error("where all are of one token, it looks for others")
	}
	if is(account.Account{Invitation: "its own"}); a.enoughServers() {
		t.Error("keys of one token are enough servers")
	}
	nowhere := []ma.Multiaddr{p2p.QUIC(netip.MustParseAddrPort("127.0.0.2:9"))}
	for i := range 30 {
		a.known.NoteMet(peerid.ID{1, byte(i)}, nowhere, true, theirs)
	}
	known, companion, far := sail(invite(), true), sail(invite(), false), sail(invite(), true)
	a.known.Note(known.id, known.Host().Addrs(), true, peerid.ID{})
	if list := a.lacking(a.known.Servers()); len(list) != 1 || list[0].ID != known.peer() {
		t.Errorf("%d servers are to be tried", len(list))
	}
	in := func(s *ship) func() bool { return func() bool { _, in := a.Member(s.peer()); return in } }
	await(t, "a server that is known", func() bool {
		a.tryServers()
		return in(known)()
	})
	await(t, "the round over", func() bool { return !a.tryingServers.Load() })
	if a.enoughServers() {
		t.Error("servers of two tokens are enough where there are members of three")
	}
	far.meet(companion)
	companion.meet(a)
	await(t, "a server that it is told of", func() bool {
		a.AskPeers(t.Context())
		return in(far)()
	})
	if !a.enoughServers() {
		t.Error("servers of three tokens are not enough")
	}
	before := len(a.Members())
	a.dialServers(t.Context(), []peer.AddrInfo{sail(invite(), true).info()})
	if len(a.Members()) != before {
		t.Error("dialled without need")
	}
}

// TestServersToTry: where there are too few servers all are tried; where there are too few
// accounts of theirs, a few at a time, each in its turn.
func TestServersToTry(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	var list []peer.AddrInfo
	for i := range 4 * serversAtOnce {
		list = append(list, peer.AddrInfo{ID: p2p.ID(peerid.ID{2, byte(i)})})
	}
	if got := a.lacking(slices.Clone(list)); len(got) != len(list) {
		t.Errorf("%d of %d", len(got), len(list))
	}
	a.gate.mu.Lock()
	for i := range 5 {
		id := peerid.ID{1, byte(i)}
		a.gate.doors[p2p.ID(id)] = &door{Neighbor: Neighbor{Peer: p2p.ID(id), ID: id, Roles: Roles{Server: true},
			Member: &membership.Member{Peer: id, Invitation: membership.Key{byte(i), 1}, Inviter: membership.Key{1}}}, open: make(chan struct{}), gone: make(chan struct{})}
	}
	a.gate.mu.Unlock()
	tried := map[peer.ID]bool{}
	await(t, fmt.Sprint("all of ", len(list)), func() bool {
		got := a.lacking(slices.Clone(list))
		for _, ai := range got {
			tried[ai.ID] = true
		}
		return len(got) == serversAtOnce && len(tried) == len(list)
	})
}
