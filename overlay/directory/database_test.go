package directory

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// TestRecordsOfOneMember is the attack: a member whose token had no name signs records for
// any number of labels, and keys of that token do so together. A server keeps as many as a
// member needs, and as many as one invitation may have; those of others are taken, and so
// are new versions, and others where some have ended.
func TestRecordsOfOneMember(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	n := o.node(o.member("earth"))
	defer n.cancel()
	store := n.db.store.(*boundedStore)
	store.perAccount = 2 * keptPerMember
	token := invite(t, o.root.Issuer(), membership.AnyNumber)
	enter := func() member { return enterBy(t, token) }
	put := func(m member, label string, seq uint64) int { return n.put(m, label, seq) }
	first := enter()
	flood := func(m member, name string) (taken int) {
		for i := range keptPerMember {
			taken += put(m, fmt.Sprintf("%s-%d", name, i), 0)
		}
		return taken
	}
	if taken := flood(first, "x"); taken != keptPerMember {
		t.Errorf("%d records of one member, of %d", taken, keptPerMember*naming.Replicas)
	}
	if taken := put(first, "x-0", naming.Seq(time.Now().Add(time.Second), 0)); taken != naming.Replicas {
		t.Errorf("%d of a new version's", taken)
	}
	all := keptPerMember
	for i := range 4 {
		all += flood(enter(), fmt.Sprintf("y%d", i))
	}
	if all != store.perAccount {
		t.Errorf("%d records of one invitation", all)
	}
	if taken := put(o.member("mars"), "mars", 0); taken != naming.Replicas {
		t.Errorf("of another member %d", taken)
	}
	for key := range store.of {
		if err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if len(store.members) != 0 || store.accounts.Len() != 0 {
		t.Errorf("charged when there is none: %v, %+v", store.members, store.accounts)
	}
	if taken := put(first, "z", 0); taken != naming.Replicas {
		t.Errorf("%d when there is room again", taken)
	}
}

// invite makes a token for any label.
func invite(t *testing.T, by *membership.Issuer, uses int) *membership.Token {
	t.Helper()
	token, err := by.Invite(membership.InviteOptions{Uses: uses}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// enterBy makes a provisional member.
func enterBy(t *testing.T, token *membership.Token) member {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := token.SelfIssue(key, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return member{key, peerid.ID(key.Public().(ed25519.PublicKey)), chain, ""}
}

// put has a member's record of a name kept under its keys, and returns under how many of
// them it was.
func (n *node) put(m member, label string, seq uint64) (taken int) {
	n.o.t.Helper()
	value := n.o.sign(m, naming.Record{Label: label, Seq: seq})
	for _, key := range naming.Keys(n.o.ov.ID, label) {
		switch err := n.db.local.Put(n.o.t.Context(), key, record.MakePutRecord(key, value)); { // as kad-dht does
		case err == nil:
			taken++
		case !errors.Is(err, errStoreFull):
			n.o.t.Fatal(err)
		}
	}
	return taken
}

// TestRecordsOfOneDelegate is the attack: a delegate writes tokens, and each of the keys that
// come by them, provisional, confirmed by the founder or by the delegate itself, signs the
// records of a name. Together they have what two invitations may; others' are taken.
func TestRecordsOfOneDelegate(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	n := o.node(o.member("earth"))
	defer n.cancel()
	store := n.db.store.(*boundedStore)
	store.perAccount, store.most = 2*naming.Replicas, 8*naming.Replicas
	now := time.Now()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	delegation, err := o.root.Delegate(peerid.ID(key.Public().(ed25519.PublicKey)), membership.RoleDelegate, "", time.Time{}, now)
	if err != nil {
		t.Fatal(err)
	}
	delegate, err := membership.NewDelegate(key, delegation, o.ov, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := 0
	for i := range 12 {
		m, label := enterBy(t, invite(t, delegate, 1)), fmt.Sprint("x", i)
		if by := [...]*membership.Issuer{nil, o.root.Issuer(), delegate}[i%3]; by != nil {
			if m.chain, err = membership.Confirm(by, m.chain, label, 0, now, nil); err != nil {
				t.Fatal(err)
			}
			// Renewed by the founder, it is the delegate's as before.
			if m.chain, err = membership.Confirm(o.root.Issuer(), m.chain, label, 0, now, nil); err != nil {
				t.Fatal(err)
			}
		}
		all += n.put(m, label, 0)
	}
	if all != 2*store.perAccount {
		t.Errorf("%d records of one delegate, of %d", all, store.most)
	}
	if taken := n.put(enterBy(t, invite(t, o.root.Issuer(), 1)), "mars", 0); taken != naming.Replicas {
		t.Errorf("of another member %d", taken)
	}
}

// TestTableOfOneToken is the attack: a thousand keys of one token, or of one delegate's tokens,
// say that they are servers. Sixteen servers by tokens of their own, of which some were there
// before and some come later, are all in the routing table.
func TestTableOfOneToken(t *testing.T) {
	t.Parallel()
	for what, hostileOf := range map[string]func(i int) membership.Member{
		"token": func(int) membership.Member { return membership.Member{Invitation: membership.Key{1}} },
		"delegate": func(i int) membership.Member {
			return membership.Member{Invitation: membership.Key{1, byte(i), byte(i >> 8)}, Inviter: membership.Key{1}}
		},
	} {
		o := newOverlay(t)
		n := o.node(o.member("earth"))
		come := func(name string, m membership.Member) peer.ID {
			m.Peer = peerid.ID(sha256.Sum256([]byte(name)))
			n.roster.members[m.Peer] = &m
			p := toPeer(m.Peer)
			o.servers[p] = &server{} // it is connected
			if _, ok := n.db.roomFor(p); ok {
				n.db.tryServer(p)
			}
			return p
		}
		var honest []peer.ID
		friend := func() {
			i := len(honest)
			honest = append(honest, come(fmt.Sprint("honest ", i), membership.Member{Invitation: membership.Key{2, byte(i)}}))
		}
		for range 8 {
			friend()
		}
		for i := range 1000 {
			come(fmt.Sprint("hostile ", i), hostileOf(i))
		}
		for range 8 {
			friend()
		}
		for i := range 1000 {
			come(fmt.Sprint("hostile ", i), hostileOf(i))
		}
		in := 0
		for _, p := range honest {
			if n.db.table.Find(p) != "" {
				in++
			}
		}
		if in != len(honest) {
			t.Errorf("one %s: %d of %d servers are in the table, of %d", what, in, len(honest), n.db.table.Size())
		}
		n.cancel()
	}
}

// Who is revoked while the DHT is about to add it does not stay in the table; a member
// whose connection has just ended does.
func TestStrangersStayOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		n := o.node(o.member("earth"))
		defer n.cancel()
		n.db.keepStrangersOut()
		members := map[string]member{}
		for _, label := range []string{"mars", "venus", "pluto"} {
			m := o.member(label)
			members[label] = m
			who, err := membership.VerifyChain(m.chain, o.ov, time.Now(), nil)
			if err != nil {
				t.Fatal(err)
			}
			n.roster.Note(who)
		}
		now := time.Now()
		list, err := o.root.Revoke(nil, now, membership.Revocation{
			Kind: membership.RevokePeer, Key: membership.KeyOf(members["pluto"].id), Until: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		o.mu.Lock()
		o.revoked = list
		o.mu.Unlock()
		n.Dismiss(members["pluto"].id, true)
		for _, m := range members { // none of them is connected
			if ok, err := n.db.table.TryAddPeer(toPeer(m.id), true, false); !ok || err != nil {
				t.Fatalf("%v, %v", ok, err)
			}
		}
		stranger := o.member("stranger")
		if _, err := n.db.table.TryAddPeer(toPeer(stranger.id), true, false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for label, m := range members {
			if n.db.knows(toPeer(m.id)) != (label != "pluto") {
				t.Errorf("%s in the table: %v", label, n.db.knows(toPeer(m.id)))
			}
		}
		if n.db.knows(toPeer(stranger.id)) {
			t.Error("a stranger is in the table")
		}
	})
}
