package mesh

import (
	"context"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/p2p"
)

// neighbourhood is the teller of all that is heard on local networks: whoever is on one
// may say something there.
const neighbourhood = "local network"

// Meet tries to reach a member that has said on a local network where it is, until that
// is done or ctx ends. Where it may be dialled is for the gate to say. A refusal counts for
// nothing: anybody who knows the overlay's ID may have sent it.
func (m *Mesh) Meet(ctx context.Context, id peerid.ID, at []netip.AddrPort) {
	p := p2p.ID(id)
	if _, in := m.Member(p); in || p == m.host.ID() || m.ctx.Err() != nil {
		return
	}
	addrs := told(m.cfg.Hearsay, neighbourhood, p2p.QUICs(at))
	if len(addrs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	stop := context.AfterFunc(m.ctx, cancel)
	defer stop()
	ai := peer.AddrInfo{ID: p, Addrs: addrs}
	m.ClearBackoff([]peer.AddrInfo{ai})
	m.host.Peerstore().AddAddrs(p, addrs, peerstore.TempAddrTTL)
	if _, err := m.Connect(ctx, ai); err != nil {
		m.cfg.Log.Debug("a member on the local network was not reached", "peer", id, "err", err)
	}
}
