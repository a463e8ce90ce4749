package mesh

import (
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// BestOf are the best n of another peer's addresses, by what they are.
func BestOf(addrs []ma.Multiaddr, n int) []ma.Multiaddr {
	return withCarriers(rank(addrs, new(nat.Ranking[ma.Multiaddr])), addrs, n)
}

// withCarriers are the best n of a ranking and of the carriers among addrs, for which a
// quarter of the places is kept, one at least: they lead through networks that none of
// the others does.
func withCarriers(r *nat.Ranking[ma.Multiaddr], addrs []ma.Multiaddr, n int) []ma.Multiaddr {
	var carriers []ma.Multiaddr
	for _, m := range addrs {
		if _, ok := p2p.CarrierAddress(m); ok && !slices.ContainsFunc(carriers, m.Equal) {
			carriers = append(carriers, m)
		}
	}
	keep := min(len(carriers), max(1, n/4, n-r.Len()), n)
	if n == 1 && r.Len() > 0 {
		keep = 0
	}
	return append(r.Best(n-keep), carriers[:keep]...)
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
	var all []ma.Multiaddr
	for _, c := range m.host.Network().ConnsToPeer(p) {
		at := c.RemoteMultiaddr()
		all = append(all, at)
		if a, ok := p2p.AddrPort(at); ok {
			r.Add(a, kindOf(nat.Of(a.Addr()), c.Stat().Direction, forOthers), at)
		}
	}
	all = append(all, m.host.Peerstore().Addrs(p)...)
	return withCarriers(rank(all, &r), all, n)
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

// Learn keeps for a while where a peer says that it is itself, in a record that it
// has signed.
func (m *Mesh) Learn(p peer.ID, addrs []ma.Multiaddr) {
	m.host.Peerstore().AddAddrs(p, m.Told(p, addrs), peerstore.TempAddrTTL)
}

// TokenAddrs are up to four ways into the overlay, as a token has them: those of this
// peer first, which are given the best first, then those of other servers, one of
// each; addresses that hardly anybody else has use of only where there is nothing
// else to fill the places with. Carriers of this peer have up to half of the places.
func (m *Mesh) TokenAddrs(own []netip.AddrPort, carriers []ma.Multiaddr, lonely func(netip.AddrPort) bool) []string {
	var out, last []string
	carriers = carriers[:min(len(carriers), membership.MaxAddrs/2)]
	own = own[:min(len(own), membership.MaxAddrs-len(carriers))]
	for _, c := range carriers {
		out = append(out, tokenAddr(c, m.host.ID()))
	}
	for _, a := range own {
		if text := tokenAddr(p2p.QUIC(a), m.host.ID()); lonely(a) {
			last = append(last, text)
		} else {
			out = append(out, text)
		}
	}
	for _, n := range m.Members() {
		if len(out) == membership.MaxAddrs {
			break
		}
		if !n.Server {
			continue
		}
		if addrs := m.Addrs(n.Peer, 1, true); len(addrs) > 0 {
			out = append(out, tokenAddr(addrs[0], n.Peer))
		}
	}
	out = append(out, last...)
	return out[:min(len(out), membership.MaxAddrs)]
}

func tokenAddr(at ma.Multiaddr, p peer.ID) string { return at.String() + "/p2p/" + p.String() }

// Arrivals says where members have come in.
func (m *Mesh) Arrivals() nat.Arrivals {
	var in nat.Arrivals
	for _, c := range m.host.Network().Conns() {
		at, ok := p2p.AddrPort(c.LocalMultiaddr())
		from, fromOK := p2p.AddrPort(c.RemoteMultiaddr())
		if ok && fromOK && c.Stat().Direction == network.DirInbound {
			in.Open = append(in.Open, nat.Arrival{Local: at, From: from})
		}
	}
	if r := m.Reached(); r.From.IsValid() {
		in.Unasked = nat.Arrival{Local: r.Local, From: r.From}
	}
	return in
}

// Remotes are where the connected members are.
func (m *Mesh) Remotes() []nat.Remote {
	var out []nat.Remote
	for _, n := range m.Members() {
		if at, ok := p2p.AddrPort(n.Remote); ok {
			out = append(out, nat.Remote{At: at, Server: n.Server})
		}
	}
	return out
}

// Remembered are where the members that this peer remembers may be.
func (m *Mesh) Remembered() []netip.AddrPort {
	var out []netip.AddrPort
	for _, ai := range m.known.AddrInfos() {
		for _, a := range ai.Addrs {
			if at, ok := p2p.AddrPort(a); ok {
				out = append(out, at)
			}
		}
	}
	return out
}
