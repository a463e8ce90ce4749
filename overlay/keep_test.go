package overlay

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A connection through which a member is found is spared at both ends, as long
// as it says so and is there.
func TestKeeper(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	// No contact record names mars, which forwards nothing.
	mars := newNode(t, nil)
	token, err := earth.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := mars.config("mars")
	cfg.NoRelay = true
	mars.run(Join(t.Context(), token, cfg))
	venus := earth.join(t, "venus")
	spared := func(at, of *node) bool { return at.host.ConnManager().IsProtected(of.host.ID(), protectTheirs) }
	const soon = 10 * time.Second
	await(t, "the server spares whom it is named by", soon, func() bool {
		return spared(earth, mars) && spared(earth, venus) && mars.host.ConnManager().IsProtected(earth.host.ID(), protectMine)
	})
	if _, err := venus.gate.connect(t.Context(), peer.AddrInfo{ID: mars.host.ID(), Addrs: mars.host.Addrs()}); err != nil {
		t.Fatal(err)
	}
	if spared(mars, venus) {
		t.Error("mars spares what venus does not need")
	}
	venus.keeper.setNear([]peer.ID{mars.host.ID()})
	await(t, "mars spares what venus needs", soon, func() bool { return spared(mars, venus) })
	venus.keeper.setNear(nil)
	await(t, "mars spares venus no longer", soon, func() bool { return !spared(mars, venus) })
	venus.keeper.setNear([]peer.ID{mars.host.ID()})
	await(t, "mars spares venus again", soon, func() bool { return spared(mars, venus) })
	venus.shut()
	await(t, "mars forgets venus", soon, func() bool { return !spared(mars, venus) })
}

// Both ends know a trimmed connection from one that was closed.
func TestTrimmed(t *testing.T) {
	t.Parallel()
	for _, code := range []network.ConnErrorCode{network.ConnGarbageCollected, network.ConnNoError} {
		earth := founded(t, "earth")
		mars := earth.join(t, "mars")
		var ours, theirs []network.Conn
		await(t, "there is one connection", 10*time.Second, func() bool {
			ours = mars.host.Network().ConnsToPeer(earth.host.ID())
			theirs = earth.host.Network().ConnsToPeer(mars.host.ID())
			return len(ours) == 1 && len(theirs) == 1
		})
		_ = ours[0].CloseWithError(code)
		for _, c := range append(ours, theirs...) {
			await(t, "the connection ends", 10*time.Second, c.IsClosed)
			if got := trimmed(c); got != (code == network.ConnGarbageCollected) {
				t.Errorf("closed with %#x: trimmed is %v", code, got)
			}
		}
	}
}
