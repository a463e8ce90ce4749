package overlay

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// dialBackQuestion asks a member as package mesh does.
func (n *node) dialBackQuestion(ctx context.Context, p peer.ID, q []byte) ([]byte, error) {
	return n.mesh.Ask(ctx, p, mesh.Protocol{Name: "dialback", MaxAnswer: 1, Timeout: time.Second}, q)
}

// TestDialBackSaysWhatCameOfIt: somebody came through, somebody tried in vain,
// and nobody was there to try are three answers.
func TestDialBackSaysWhatCameOfIt(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars := earth.join(t, "mars")
	ask := func(from *node, q []byte) byte {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for {
			a, err := from.dialBackQuestion(ctx, earth.mesh.Host().ID(), q)
			if err == nil {
				return a[0]
			}
			t.Log(err) // a busy machine has no time for it within the protocol's
			if !pause.For(ctx, time.Second) {
				t.Fatal(err)
			}
		}
	}
	if a := ask(mars, []byte{1}); a != 0 {
		t.Errorf("with nobody else there: %d", a)
	}
	// earth is asked to try somebody who is not there.
	stranger := newNode(t, nil)
	t.Cleanup(stranger.shut)
	id, err := admission.PeerID(stranger.key)
	if err != nil {
		t.Fatal(err)
	}
	m := p2p.QUIC(stranger.sock.Conns()[0].LocalAddr()).Bytes()
	q := append(append([]byte{0}, id[:]...), 1, byte(len(m)))
	if a := ask(mars, append(q, m...)); a != 2 {
		t.Errorf("with nobody at the address: %d", a)
	}
	if p := earth.nat.Probes().List(); len(p) > 0 && nat.UDP(p, false, time.Now()) == nat.UDPSilent {
		t.Errorf("what was tried for others counts as this peer's own: %+v", p)
	}
}
