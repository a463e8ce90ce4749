package mesh

import (
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// BestOf are the best n of another peer's addresses, by what they are.
func BestOf(addrs []ma.Multiaddr, n int) []ma.Multiaddr {
	return rank(addrs, new(nat.Ranking[ma.Multiaddr])).Best(n)
}

// rank puts another peer's addresses after those that are known to be of use.
func rank(addrs []ma.Multiaddr, r *nat.Ranking[ma.Multiaddr]) *nat.Ranking[ma.Multiaddr] {
	for _, m := range addrs {
		if a, ok := p2p.AddrPort(m); ok {
			r.Add(a, nat.Of(a.Addr()), m)
		}
	}
	return r
}

// Addrs are the best n addresses of another member: the ones that this peer has
// reached it at, then the ones that it has come from, then what it says of itself.
// For others a private address that has worked is one of the neighbourhood, no
// more.
func (m *Mesh) Addrs(p peer.ID, n int, forOthers bool) []ma.Multiaddr {
	var r nat.Ranking[ma.Multiaddr]
	for _, c := range m.host.Network().ConnsToPeer(p) {
		at := c.RemoteMultiaddr()
		if a, ok := p2p.AddrPort(at); ok {
			r.Add(a, kindOf(nat.Of(a.Addr()), c.Stat().Direction, forOthers), at)
		}
	}
	return rank(m.host.Peerstore().Addrs(p), &r).Best(n)
}

// kindOf is what an address is worth that a connection goes to.
func kindOf(what nat.Kind, dir network.Direction, forOthers bool) nat.Kind {
	k := nat.Mapped
	if dir == network.DirOutbound {
		k = nat.Proven
	}
	switch {
	case what == nat.Global, !forOthers && k == nat.Proven:
		return k
	case what == nat.Loopback:
		return what
	}
	return min(what, nat.Uplink)
}
