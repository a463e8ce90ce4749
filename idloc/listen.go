package idloc

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// Listen announces on an address of this node: "tcp", "tcp4" or "tcp6", with
// ":80" for all its LSIs, "mars.example.com:80" (its own name) or one of its
// own LSIs. Port 0 picks a free port; Addr tells which. Errors are
// *net.OpError, with syscall.EADDRINUSE or EADDRNOTAVAIL inside. Members of
// the overlay reach the listener as soon as Listen returns.
func (n *Node) Listen(network, address string) (net.Listener, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, &net.OpError{Op: "listen", Net: network, Err: net.UnknownNetworkError(network)}
	}
	at, err := n.own(network, address)
	if err != nil {
		return nil, err
	}
	l, err := n.stack.ListenTCP(at, 0)
	if err != nil {
		return nil, opError("listen", network, address, err)
	}
	return l, nil
}

// ListenPacket announces on a UDP address of this node, as Listen does for
// TCP: "udp", "udp4" or "udp6". On a wildcard address the source of what
// WriteTo sends is the LSI of the family that it goes to.
func (n *Node) ListenPacket(network, address string) (net.PacketConn, error) {
	switch network {
	case "udp", "udp4", "udp6":
	default:
		return nil, &net.OpError{Op: "listen", Net: network, Err: net.UnknownNetworkError(network)}
	}
	at, err := n.own(network, address)
	if err != nil {
		return nil, err
	}
	c, err := n.stack.ListenUDP(at)
	if err != nil {
		return nil, opError("listen", network, address, err)
	}
	return c, nil
}

// own turns a local address into LSIs of this node. The unspecified address
// of the family, or the zero address for both, stands for the wildcard.
func (n *Node) own(network, address string) (netip.AddrPort, error) {
	fail := func(err error) (netip.AddrPort, error) {
		return netip.AddrPort{}, opError("listen", network, address, err)
	}
	family, err := familyOf(network)
	if err != nil {
		return fail(err)
	}
	host, port, err := splitHostPort(context.Background(), network, address)
	if err != nil {
		return fail(err)
	}
	if err := n.alive(); err != nil {
		return fail(err)
	}
	v4, v6 := n.table.Self()
	var at netip.Addr
	switch a, err := netip.ParseAddr(host); {
	case host == "" || (err == nil && a.IsUnspecified()):
		if family == 4 || (err == nil && a.Is4()) {
			at = netip.IPv4Unspecified()
		} else if family == 6 {
			at = netip.IPv6Unspecified()
		}
	case err == nil && (a.Unmap() == v4 || a == v6):
		at = a.Unmap()
		if (family == 4 && !at.Is4()) || (family == 6 && at.Is4()) {
			return fail(&net.AddrError{Err: "address of another family than " + network, Addr: host})
		}
	case err == nil:
		return fail(syscall.EADDRNOTAVAIL)
	default:
		label, err := n.label(host)
		if err != nil {
			return fail(err)
		}
		if label+"."+n.ov.Domain() != n.Name() {
			return fail(syscall.EADDRNOTAVAIL)
		}
		if at = v4; family == 6 || !v4.IsValid() {
			at = v6
		}
	}
	return netip.AddrPortFrom(at, port), nil
}

func opError(op, network, address string, err error) error {
	if o, ok := err.(*net.OpError); ok {
		return o
	}
	return &net.OpError{Op: op, Net: network, Addr: textAddr{network, address}, Err: err}
}
