package nat

import (
	"net/netip"

	"github.com/idloc/idloc/internal/socket"
)

// Kind is of what use an address is to others; the smaller one is the better.
type Kind uint8

const (
	Proven  Kind = iota // somebody outside has reached the host there
	Mapped              // seen by a server, or lent by the router or a server: what a NAT shows of the host
	Global              // one of the internet's
	Uplink              // a private one on the network that leads to the internet: neighbours share it
	Private             // another private one
	Bridge              // for containers and virtual machines of the host
	Host                // of the host alone
	Tunnel              // of a link between two
	Loopback
	Useless // none that a datagram from another host can have
	kinds
)

var kindNames = [kinds]string{"proven", "mapped", "global", "uplink", "private", "bridge", "host", "tunnel", "loopback", "useless"}

func (k Kind) String() string { return kindNames[k] }

// Lonely says whether nobody but the host itself, or the other end of one
// link, has use of the address.
func (k Kind) Lonely() bool { return k >= Bridge }

// carrier is what carriers use behind their own translation (RFC 6598), and
// some for networks over others.
var carrier = netip.MustParsePrefix("100.64.0.0/10")

// ofHost are addresses that a host has for translating between IPv4 and IPv6 (RFC 7335):
// each may have the same.
var ofHost = netip.MustParsePrefix("192.0.0.0/29")

// private says whether an address means something on its own network only.
func private(a netip.Addr) bool { return a.IsPrivate() || carrier.Contains(a) }

// Of returns the kind of another host's address by the address alone: Global,
// Private, Bridge, Loopback or Useless. Bridge are those that programs for
// containers and virtual machines give their bridges where nobody tells them
// otherwise.
func Of(a netip.Addr) Kind {
	a = a.Unmap()
	switch {
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || ofHost.Contains(a):
		return Useless
	case a.IsLoopback():
		return Loopback
	case !private(a):
		return Global
	case bridged(a):
		return Bridge
	}
	return Private
}

// bridges are the networks whose first address a bridge has unless told
// otherwise: Docker's 172.17.0.0/16 to 172.31.0.0/16, libvirt's, Podman's.
var bridges = []struct {
	within netip.Prefix
	bits   int
}{
	{netip.MustParsePrefix("172.16.0.0/12"), 16},
	{netip.MustParsePrefix("192.168.122.0/24"), 24},
	{netip.MustParsePrefix("10.88.0.0/16"), 16},
}

func bridged(a netip.Addr) bool {
	for _, b := range bridges {
		if b.within.Contains(a) {
			p, err := a.Prefix(b.bits)
			return err == nil && a == p.Addr().Next()
		}
	}
	return false
}

// Local returns the kind of an address of this host. uplink says whether its
// interface leads to the internet.
func Local(a netip.Addr, i socket.Interface, uplink bool) Kind {
	k := Of(a)
	if k != Private && k != Bridge {
		return k // what the interface is does not matter
	}
	switch i.Kind {
	case socket.LinkBridge:
		return Bridge
	case socket.LinkHost:
		return Host
	case socket.LinkTunnel:
		return Tunnel
	}
	if uplink {
		return Uplink
	}
	return Private
}

// OfConn is Local for the address of a socket.
func OfConn(c *socket.Conn) Kind {
	return Local(c.LocalAddr().Addr(), c.Interface(), c.Uplink())
}
