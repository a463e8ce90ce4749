package directory

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

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
