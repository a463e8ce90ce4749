package mesh

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pconnmgr "github.com/libp2p/go-libp2p/p2p/net/connmgr"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// A connection through which a member is found is spared at both ends, as long as
// it says so and is there.
func TestKeep(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	mars, venus := f.launch(), f.launch()
	spared := func(at, of *ship, why string) bool { return at.Host().ConnManager().IsProtected(of.peer(), why) }
	venus.meet(mars)
	if spared(mars, venus, protectTheirs) {
		t.Error("mars spares what venus does not need")
	}
	venus.KeepNearest([]peer.ID{mars.peer()})
	await(t, "mars spares what venus needs", func() bool { return spared(mars, venus, protectTheirs) })
	if !spared(venus, mars, protectMine) || len(venus.Nearest()) != 1 {
		t.Error("venus does not spare what it needs")
	}
	venus.KeepNamed([]peerid.ID{mars.id})
	venus.KeepNearest(nil)
	if !spared(venus, mars, protectMine) {
		t.Error("what is named is not needed")
	}
	venus.KeepNamed(nil)
	await(t, "mars spares venus no longer", func() bool { return !spared(mars, venus, protectTheirs) })
	if spared(venus, mars, protectMine) {
		t.Error("venus spares mars without need")
	}
	venus.KeepNearest([]peer.ID{mars.peer()})
	await(t, "mars spares venus again", func() bool { return spared(mars, venus, protectTheirs) })
	_ = venus.Host().Network().ClosePeer(mars.peer())
	await(t, "mars forgets venus", func() bool { return !spared(mars, venus, protectTheirs) })
}

// TestKeepForOneToken is the attack: 1,000 keys say in their hellos that they are found through
// this peer. Those of one token, or of one delegate's tokens, have their share; who came by
// another is spared, and so are others of the token when some are gone.
func TestKeepForOneToken(t *testing.T) {
	t.Parallel()
	conns, err := libp2pconnmgr.NewConnManager(ConnsLow, connsHigh)
	if err != nil {
		t.Fatal(err)
	}
	defer conns.Close()
	k := newKeeper(conns, func(peer.ID) {})
	spared := func(of func(n int) account.Account) (n int) {
		for i := range 1000 {
			p := peer.ID(fmt.Sprint(of(0), i))
			k.heard(p, of(i), true)
			k.heard(p, of(i), true)
			if conns.IsProtected(p, protectTheirs) {
				n++
			}
		}
		return n
	}
	of := func(int) account.Account { return account.Account{Invitation: "a token"} }
	if n := spared(of); n != keepShare {
		t.Errorf("%d of one token", n)
	}
	if n := spared(func(i int) account.Account {
		return account.Account{Invitation: fmt.Sprint("token ", i), Delegate: "a delegate"}
	}); n != 2*keepShare {
		t.Errorf("%d of one delegate", n)
	}
	k.heard("venus", account.Account{Invitation: "another token"}, true)
	if !conns.IsProtected("venus", protectTheirs) {
		t.Error("another member is not spared")
	}
	k.heard("mars", of(0), true)
	if conns.IsProtected("mars", protectTheirs) {
		t.Error("one more of the token is spared")
	}
	k.left(peer.ID(fmt.Sprint(of(0), 0)))
	k.heard("mars", of(0), true)
	if !conns.IsProtected("mars", protectTheirs) || conns.IsProtected(peer.ID(fmt.Sprint(of(0), 0)), protectTheirs) {
		t.Error("when one is gone another is not spared, or that one is")
	}
}

// TestConnsOfOneToken is the attack: keys of one token open all connections that a node takes.
// Where there is little room those of one token have a share of it, and others come in.
func TestConnsOfOneToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	earth := f.launch()
	earth.gate.mu.Lock()
	earth.gate.crowdedAt, earth.gate.connsShare = 4, 2
	earth.gate.mu.Unlock()
	sail := func(token *membership.Token) (*ship, error) {
		s := f.quiet()
		chain, err := token.SelfIssue(s.key, "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s.say(Hello{Chain: chain, Keep: true})
		s.Start()
		_, err = s.Connect(t.Context(), earth.info())
		return s, err
	}
	invite := func() *membership.Token {
		token, err := f.root.Issuer().Invite(membership.InviteOptions{Uses: membership.AnyNumber}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	bad, good := invite(), invite()
	var first *ship
	for i := range 8 {
		s, err := sail(bad)
		var refused *RefusedError
		switch {
		case i == 0:
			first = s
			fallthrough
		case i < 4:
			if err != nil {
				t.Errorf("%d of one token, while there is room: %v", i, err)
			}
		case !errors.As(err, &refused) || refused.Final:
			t.Errorf("%d of one token: %v", i, err)
		}
	}
	for i := range 2 {
		if _, err := sail(good); err != nil {
			t.Errorf("%d of another: %v", i, err)
		}
	}
	if _, err := sail(good); err == nil {
		t.Error("more than its share of another")
	}
	// Who is in stays, whatever it says next.
	first.say(Hello{Chain: first.cfg.Hello().Chain, Revocation: 9})
	first.Greet()
	await(t, "another hello", func() bool {
		earth.mu.Lock()
		defer earth.mu.Unlock()
		return slices.ContainsFunc(earth.heard, func(h Hello) bool { return h.Revocation == 9 })
	})
	if n := len(earth.Members()); n != 6 {
		t.Errorf("%d are connected", n)
	}
}

// Both ends know a trimmed connection from one that was closed.
func TestTrimmed(t *testing.T) {
	t.Parallel()
	for _, code := range []network.ConnErrorCode{network.ConnGarbageCollected, network.ConnNoError} {
		f := newFleet(t)
		earth, mars := f.launch(), f.launch()
		mars.meet(earth)
		conns := append(mars.Host().Network().ConnsToPeer(earth.peer()), earth.Host().Network().ConnsToPeer(mars.peer())...)
		if len(conns) != 2 {
			t.Fatalf("%d ends of connections", len(conns))
		}
		_ = conns[0].CloseWithError(code)
		for _, c := range conns {
			await(t, "the connection ends", c.IsClosed)
			if got := trimmed(c); got != (code == network.ConnGarbageCollected) {
				t.Errorf("closed with %#x: trimmed is %v", code, got)
			}
		}
		for _, s := range []*ship{earth, mars} {
			await(t, "it is told", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return len(s.left) == 1
			})
			for _, trimmed := range s.left {
				if trimmed != (code == network.ConnGarbageCollected) {
					t.Errorf("closed with %#x: told %v", code, trimmed)
				}
			}
		}
	}
}
