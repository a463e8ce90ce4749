package idloc

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
)

// Listen announces on an address of this node: "tcp", "tcp4" or "tcp6", with
// ":80" for all its LSIs, "mars.example.com:80" (its own name) or one of its
// own LSIs. Port 0 picks a free port; Addr tells which. Errors are
// *net.OpError, with syscall.EADDRINUSE or EADDRNOTAVAIL inside. Members of
// the overlay reach the listener as soon as Listen returns.
func (n *Node) Listen(network, address string) (net.Listener, error) {
	at, err := n.own("tcp", network, address)
	if err != nil {
		return nil, err
	}
	l, err := n.stack.ListenTCP(network, at, 0)
	if err != nil {
		return nil, opError("listen", network, address, err)
	}
	return l, nil
}

// ListenPacket announces on a UDP address of this node, as Listen does for
// TCP: "udp", "udp4" or "udp6". On a wildcard address the source of what
// WriteTo sends is the LSI of the family that it goes to.
func (n *Node) ListenPacket(network, address string) (net.PacketConn, error) {
	at, err := n.own("udp", network, address)
	if err != nil {
		return nil, err
	}
	c, err := n.stack.ListenUDP(network, at)
	if err != nil {
		return nil, opError("listen", network, address, err)
	}
	return c, nil
}

// own turns a local address of a network of protocol ("tcp" or "udp") into
// LSIs of this node. The zero address stands for the wildcard, as do both
// unspecified ones and an empty host; an empty address is port 0 of it.
func (n *Node) own(protocol, network, address string) (netip.AddrPort, error) {
	fail := func(err error) (netip.AddrPort, error) {
		return netip.AddrPort{}, opError("listen", network, address, err)
	}
	family, err := familyOf(network)
	if err != nil {
		return fail(err)
	}
	if !strings.HasPrefix(network, protocol) {
		return fail(&net.AddrError{Err: "unexpected address type", Addr: address})
	}
	if address == "" {
		address = ":0"
	}
	host, port, err := splitHostPort(context.Background(), network, address)
	if err != nil {
		return fail(err)
	}
	if err := n.alive(); err != nil {
		return fail(err)
	}
	at, err := n.ownAddr(host, family)
	if err != nil {
		return fail(err)
	}
	return netip.AddrPortFrom(at, port), nil
}

// ownAddr returns the LSI of this node that host stands for, of one family if
// that is 4 or 6, and the zero address for all of them.
func (n *Node) ownAddr(host string, family int) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, nil
	}
	v4, v6 := n.table.Self()
	if a, err := netip.ParseAddr(host); err == nil {
		switch plain := a.Unmap(); {
		case family == 6 && plain.Is4(), family == 4 && plain.Is6() && !plain.IsUnspecified():
			return netip.Addr{}, errNoSuitable(host)
		case plain.IsUnspecified():
			return netip.Addr{}, nil
		case plain == v4 || plain == v6:
			return plain, nil
		}
		return netip.Addr{}, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	label, err := n.label(host)
	if err != nil {
		return netip.Addr{}, err
	}
	if label+"."+n.ov.Domain() != n.Name() {
		return netip.Addr{}, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	if family == 6 || !v4.IsValid() {
		return v6, nil
	}
	return v4, nil
}
