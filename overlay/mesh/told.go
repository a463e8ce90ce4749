package mesh

import (
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// Told notes that a peer has told of addresses, and returns those of them that
// may be kept (package hearsay). Charged is its invitation: keys of one share.
func (m *Mesh) Told(by peer.ID, addrs []ma.Multiaddr) []ma.Multiaddr {
	name := string(by)
	if who, ok := m.Member(by); ok && who.Invitation != (membership.Key{}) {
		name = string(who.Invitation[:])
	}
	return told(m.cfg.Hearsay, name, addrs)
}

func told(gate *hearsay.Gate, by string, addrs []ma.Multiaddr) []ma.Multiaddr {
	kept := make([]ma.Multiaddr, 0, len(addrs))
	for _, m := range addrs {
		if at, ok := p2p.Place(m); ok && gate.Told(by, at) {
			kept = append(kept, m)
		}
	}
	return kept
}

// Given notes addresses of members that the user has named, in a token, and
// returns them.
func (m *Mesh) Given(peers []peer.AddrInfo) []peer.AddrInfo {
	for _, ai := range peers {
		for _, a := range ai.Addrs {
			if at, ok := p2p.Place(a); ok {
				m.cfg.Hearsay.Given(at)
			}
		}
	}
	return peers
}
