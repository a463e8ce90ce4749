package mesh

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
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
