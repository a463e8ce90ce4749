package overlay

import (
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/adapter"
)

// forgetAll makes a node forget where others are, as one that never had the
// time to hear of it or whose knowledge is outdated.
func (n *node) forgetAll() {
	for _, p := range n.mesh.Known().List() {
		n.mesh.Known().Forget(p.Peer)
	}
	for _, p := range n.mesh.Host().Peerstore().PeersWithAddrs() {
		if p != n.mesh.Host().ID() {
			n.mesh.Host().Peerstore().ClearAddrs(p)
		}
	}
}

func (n *node) hangUpAll(t testing.TB) {
	t.Helper()
	had := n.mesh.Host().Network().Conns()
	for _, p := range n.mesh.Host().Network().Peers() {
		_ = n.mesh.Host().Network().ClosePeer(p)
	}
	// Not that no member is connected: one may be back before anybody looks.
	await(t, "the connections closed", 5*time.Second, func() bool {
		return !slices.ContainsFunc(had, func(c network.Conn) bool { return !c.IsClosed() })
	})
}

// direct makes a pipe and waits until its peer has answered on a path.
func (n *node) direct(t testing.TB, to *node) *pipe.Pipe {
	t.Helper()
	pp, err := n.Connect(t.Context(), to.Self())
	if err != nil {
		t.Fatal(err)
	}
	await(t, "a direct path", 5*time.Second, func() bool { return len(pp.Direct()) > 0 })
	return pp
}

func has(a, b *node) bool { _, ok := a.mesh.Member(b.mesh.Host().ID()); return ok }

// TestBackThroughPipe: two peers that have a pipe and nothing else, no
// connection and no address of anybody, meet in the overlay again.
func TestBackThroughPipe(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars := earth.join(t, "mars")
	mars.direct(t, earth)
	earth.forgetAll()
	mars.forgetAll()
	mars.hangUpAll(t)
	earth.forgetAll() // what the connection's end has left
	mars.forgetAll()
	await(t, "both members connected", 10*time.Second, func() bool { return has(earth, mars) && has(mars, earth) })
}

// TestConnectThroughPipe: a peer with a pipe is connected to when it is needed,
// though no address of it is known but the pipe's.
func TestConnectThroughPipe(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars, venus := earth.join(t, "mars"), earth.join(t, "venus")
	mars.direct(t, venus)
	_ = mars.mesh.Host().Network().ClosePeer(venus.mesh.Host().ID())
	mars.forgetAll()
	if _, err := mars.mesh.Connect(t.Context(), peer.AddrInfo{ID: venus.mesh.Host().ID()}); err != nil {
		t.Error(err)
	}
}

// TestPipeSource: a QUIC packet to an address of a pipe leaves by the pipe's
// socket.
func TestPipeSource(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars := earth.join(t, "mars")
	at := mars.direct(t, earth).Direct()
	if got := (adapter.Pipes{Endpoint: mars.Overlay.pipes}).Source(at[0].Remote); got != at[0].Local.LocalAddr().Addr() {
		t.Errorf("pipeSource = %v", got)
	}
}
