package mesh

import (
	"context"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/p2p"
)

// A pipe that lives proves addresses: those that its peer has answered from.
// They are the peer's one port, where QUIC listens too, and behind NATs the
// 5-tuple of the pipe is the one that lets packets through. So whoever has a
// pipe to a member finds the overlay again by it, whatever addresses are known.

// Pipes are the live pipes of this peer, whose peers have proven addresses. Its
// methods may be called concurrently.
type Pipes interface {
	// Peers returns to whom there is a live pipe, in no order.
	Peers() []peerid.ID
	// Remotes returns where the peer of a live pipe has answered on it, the
	// address in use first; nothing if there is none.
	Remotes(peerid.ID) []netip.AddrPort
	// Source returns the local address of a pipe's path to a remote one; zero if
	// there is none.
	Source(remote netip.AddrPort) netip.Addr
}

// fewMembers is below how many connected members a peer whose pipe moves is
// connected to at once, without anybody having asked for it.
const fewMembers = 8

// pipeAddrs are the addresses of a member's port that a pipe to it has proven.
func (m *Mesh) pipeAddrs(id peerid.ID) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, at := range m.cfg.Pipes.Remotes(id) {
		m.cfg.Hearsay.Proven(string(p2p.ID(id)), at)
		out = append(out, p2p.QUIC(at))
	}
	return out
}

// Ways are addresses of a peer that libp2p may not know: those of its pipe, and
// those known, which others may have told.
func (m *Mesh) Ways(p peer.ID) []ma.Multiaddr {
	id, err := p2p.PeerID(p)
	if err != nil {
		return nil
	}
	return append(m.pipeAddrs(id), m.known.Addrs(id)...)
}

// WaysBack are whom a peer without a member tries: those whose pipes live, then
// those known.
func (m *Mesh) WaysBack() []peer.AddrInfo {
	var out []peer.AddrInfo
	at := map[peer.ID]int{}
	for _, id := range m.cfg.Pipes.Peers() {
		if addrs := m.pipeAddrs(id); len(addrs) > 0 {
			p := p2p.ID(id)
			at[p] = len(out)
			out = append(out, peer.AddrInfo{ID: p, Addrs: addrs})
		}
	}
	m.ClearBackoff(out)
	for _, ai := range m.known.AddrInfos() {
		if i, ok := at[ai.ID]; ok {
			out[i].Addrs = append(out[i].Addrs, ai.Addrs...)
		} else {
			out = append(out, ai)
		}
	}
	return out
}

// ClearBackoff makes libp2p try at once whom it could not reach before.
func (m *Mesh) ClearBackoff(peers []peer.AddrInfo) {
	if sw, ok := m.host.Network().(*swarm.Swarm); ok {
		for _, ai := range peers {
			sw.Backoff().Clear(ai.ID)
		}
	}
}

// PipeMoved is called when the path of a pipe has changed. The connection to its
// peer may have ended by what moved the pipe: it is asked whether it lives, and one
// that is gone is made anew, where few others are connected. carried: the path is a
// carrier.
func (m *Mesh) PipeMoved(id peerid.ID, carried bool) {
	if carried {
		m.pipeCarried(id)
		return
	}
	if _, ok := m.Member(p2p.ID(id)); ok {
		m.Suspect(p2p.ID(id))
		return
	}
	m.Go(func() { m.reconnect(id) })
}

// reconnect connects to a peer by its pipe if few members are connected.
func (m *Mesh) reconnect(id peerid.ID) {
	ai := peer.AddrInfo{ID: p2p.ID(id), Addrs: m.pipeAddrs(id)}
	if len(ai.Addrs) == 0 || len(m.Members()) >= fewMembers {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, DialTimeout)
	defer cancel()
	if err := m.try(ctx, ai); err != nil {
		m.cfg.Log.Debug("no connection where the pipe is", "peer", id, "err", err)
	}
}

// try connects to a member whatever has failed before.
func (m *Mesh) try(ctx context.Context, ai peer.AddrInfo) error {
	m.ClearBackoff([]peer.AddrInfo{ai})
	_, err := m.Connect(ctx, ai)
	return err
}
