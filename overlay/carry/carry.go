package carry

import (
	"net"
	"net/netip"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// Config says which carriers there are. The zero one: none.
type Config struct {
	// Set are those of the port, which has been given it as socket.Config.Carrier; nil:
	// there are none.
	Set *carrier.Set
	// Port is the TCP port at which they are served over TLS on this host's addresses; 0:
	// nowhere.
	Port uint16
	// At is how others reach them, if that is not to be found out from Port.
	At []carrier.Address
	// Forwarded are places of the outside, "host:port", whose UDP port is forwarded to the
	// node's.
	Forwarded []string
}

// Carriers are a peer's carriers. It is safe for concurrent use.
type Carriers struct {
	Config
	Socket *socket.Port
	// NAT is what is known of this host's addresses.
	NAT func() *nat.Addresses
	// Ways are the far ends of carriers that may lead to a peer.
	Ways func(p peerid.ID) []netip.AddrPort
	// Hidden says that this peer shows others no address.
	Hidden bool
}

// Addrs are the best n of this peer's addresses, carriers among them.
func (c *Carriers) Addrs(n int) []ma.Multiaddr {
	own := c.Own(n / 4)
	return append(p2p.QUICs(c.NAT().Own().Best(n-len(own))), own...)
}

// Texts are Addrs as records have them.
func (c *Carriers) Texts(n int) []string {
	var out []string
	for _, a := range c.Addrs(n) {
		out = append(out, a.String())
	}
	return out
}

// Own are up to n addresses at which this peer serves carriers: those that its user has
// named, else those of the best of its own addresses.
func (c *Carriers) Own(n int) (out []ma.Multiaddr) {
	at := c.At
	if len(at) == 0 && c.Port != 0 {
		at = c.servedAt()
	}
	for _, a := range at {
		if m, err := p2p.Carrier(a); err == nil && len(out) < n {
			out = append(out, m)
		}
	}
	return out
}

// servedAt are the carriers over TLS at this host's own addresses, the best first.
func (c *Carriers) servedAt() (out []carrier.Address) {
	var r nat.Ranking[netip.Addr]
	kinds := c.NAT().Kinds()
	for _, s := range c.Socket.Conns() { // not those of NATs, which map the UDP port alone
		r.Add(s.LocalAddr(), kinds[s.LocalAddr()], s.LocalAddr().Addr())
	}
	for _, ip := range r.Best(r.Len()) {
		out = append(out, carrier.Address{Form: carrier.TLS, Host: ip.String(), Port: c.Port})
	}
	return out
}

// Spare is pipe.Config.Spare: the carriers that may lead to a peer. Whoever hides its
// addresses has none but to its relays.
func (c *Carriers) Spare(p peerid.ID) (out []pipe.Path) {
	local := c.Socket.Carrier()
	if local == nil || c.Hidden {
		return nil
	}
	for _, at := range c.Ways(p) {
		out = append(out, pipe.Path{Local: local, Remote: at})
	}
	return out
}

// Conns adds the port's Conn of carriers, if it has one.
func (c *Carriers) Conns(conns []*socket.Conn) []*socket.Conn {
	if local := c.Socket.Carrier(); local != nil {
		conns = append(conns, local)
	}
	return conns
}

// Moved tells that the local addresses are others.
func (c *Carriers) Moved() {
	if c.Set == nil {
		return
	}
	if addrs, ok := hostAddrs(); ok {
		c.Set.NetworkChanged(addrs)
	}
}

// hostAddrs are this host's addresses, those included that the port does not listen on: a
// stream may come from any, a temporary one of IPv6 say. false: the system does not tell.
func hostAddrs() (out []netip.Addr, ok bool) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap().WithZone(""))
		}
	}
	return out, err == nil
}
