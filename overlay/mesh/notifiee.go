package mesh

import (
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

// gateNotifiee is the gate as libp2p's network sees it.
type gateNotifiee gate

func (n *gateNotifiee) Listen(network.Network, ma.Multiaddr)      {}
func (n *gateNotifiee) ListenClose(network.Network, ma.Multiaddr) {}
func (n *gateNotifiee) Connected(_ network.Network, c network.Conn) {
	(*gate)(n).connected(c)
}
func (n *gateNotifiee) Disconnected(_ network.Network, c network.Conn) {
	(*gate)(n).disconnected(c)
}
