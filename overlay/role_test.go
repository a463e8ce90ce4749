package overlay

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// TestAloneServesNobody: whoever is connected to nobody does not take the
// database over; of those that are connected to each other one does at once.
func TestAloneServesNobody(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 2)
	a, b := peers[0], peers[1]
	if a.Self().Compare(b.Self()) > 0 {
		a, b = b, a
	}
	addrs := b.mesh.Host().Addrs()
	for _, p := range peers { // their upkeep is left out of it: nobody is remembered
		p.mesh.Known().Forget(earth.Self())
		for _, q := range peers {
			p.mesh.Known().Forget(q.Self())
		}
	}
	earth.shut()
	for _, p := range peers {
		await(t, "alone", 30*time.Second, func() bool { return len(p.Peers()) == 0 })
		p.directory.DecideRole()
		if p.Server() {
			t.Error("a peer that is alone keeps the database")
		}
	}
	if _, err := a.mesh.Connect(t.Context(), peer.AddrInfo{ID: b.mesh.Host().ID(), Addrs: addrs}); err != nil {
		t.Fatal(err)
	}
	await(t, "the first of the two is a server, and the other knows", 30*time.Second, func() bool { return a.Server() && len(b.directory.Servers()) == 1 })
}
