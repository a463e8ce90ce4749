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
	v4, v6 := n.table.Self()
	var at netip.Addr
	switch a, err := netip.ParseAddr(host); {
	case host == "":
	case err == nil && family == 6 && a.Unmap().Is4(), err == nil && family == 4 && a.Is6() && !a.Is4In6() && !a.IsUnspecified():
		return fail(errNoSuitable(host))
	case err == nil && a.Unmap().IsUnspecified():
	case err == nil && (a.Unmap() == v4 || a == v6):
		at = a.Unmap()
	case err == nil:
		return fail(os.NewSyscallError("bind", syscall.EADDRNOTAVAIL))
	default:
		label, err := n.label(host)
		if err != nil {
			return fail(err)
		}
		if label+"."+n.ov.Domain() != n.Name() {
			return fail(os.NewSyscallError("bind", syscall.EADDRNOTAVAIL))
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
