package overlay

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/p2p"
)

// TestIdentity holds internal/peerid to what libp2p says of the same keys.
func TestIdentity(t *testing.T) {
	for range 200 {
		_, pub, err := crypto.GenerateEd25519Key(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := peer.IDFromPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		id, err := p2p.PeerID(p)
		if err != nil {
			t.Fatal(err)
		}
		if id.String() != p.String() {
			t.Errorf("String %q, libp2p %q", id, p)
		}
		label, err := peer.ToCid(p).StringOfBase('k')
		if err != nil {
			t.Fatal(err)
		}
		if id.Label() != label {
			t.Errorf("Label %q, libp2p %q", id.Label(), label)
		}
		if p2p.ID(id) != p {
			t.Errorf("%v comes back as %v", p, p2p.ID(id))
		}
		if back, err := peerid.Parse(label); err != nil || back != id {
			t.Errorf("Parse(%q) = %v, %v", label, back, err)
		}
	}
}
