package mesh

import (
	"context"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/p2p"
	"github.com/idloc/idloc/overlay/quictransport"
)

// dialGate is the gate as libp2p asks it: before a dial, which addresses it may
// try, and as the transport does, for each datagram.
type dialGate struct{ *hearsay.Gate }

var (
	_ connmgr.ConnectionGater = dialGate{}
	_ quictransport.Gate      = dialGate{}
)

// InterceptAddrDial implements connmgr.ConnectionGater.
func (g dialGate) InterceptAddrDial(_ peer.ID, m ma.Multiaddr) bool {
	at, ok := p2p.Place(m)
	return ok && g.Allowed(at)
}

// Begin implements quictransport.Gate.
func (g dialGate) Begin(ctx context.Context, p peer.ID, to netip.AddrPort, packets, bytes int) error {
	return g.Gate.Begin(ctx, string(p), to, packets, bytes)
}

// Pass implements quictransport.Gate.
func (g dialGate) Pass(p peer.ID, to netip.AddrPort, n int) bool {
	return g.Gate.Pass(string(p), to, n)
}

// Proven implements quictransport.Gate.
func (g dialGate) Proven(p peer.ID, at netip.AddrPort) { g.Gate.Proven(string(p), at) }

// Who comes in is judged by its hello.
func (dialGate) InterceptPeerDial(peer.ID) bool              { return true }
func (dialGate) InterceptAccept(network.ConnMultiaddrs) bool { return true }
func (dialGate) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}
func (dialGate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
