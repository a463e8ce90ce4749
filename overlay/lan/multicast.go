package lan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// The groups and the port of multicast DNS (RFC 6762 §3).
var (
	group4 = netip.MustParseAddrPort("224.0.0.251:5353")
	group6 = netip.MustParseAddrPort("[ff02::fb]:5353")
)

// hops is the TTL of all that is sent (RFC 6762 §11). What came from another network is
// not of this link and is dropped by its source address, as the same section has it.
const hops = 255

// conn is a socket that speaks to a group on one interface.
type conn interface {
	// Read returns a datagram and who sent it.
	Read(b []byte) (n int, from netip.Addr, err error)
	// Send sends to the group.
	Send(b []byte) error
	Close() error
}

// kernelConn is one of the kernel's.
type kernelConn struct {
	*net.UDPConn
	group *net.UDPAddr
}

// listen opens a socket on an interface.
func listen(index int, v6 bool) (conn, error) {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return nil, err
	}
	if i.Flags&(net.FlagUp|net.FlagMulticast) != net.FlagUp|net.FlagMulticast || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
		return nil, fmt.Errorf("%s is no interface to multicast on", i.Name)
	}
	network, group := "udp4", net.UDPAddrFromAddrPort(group4)
	if v6 {
		network, group = "udp6", net.UDPAddrFromAddrPort(group6)
		group.Zone = i.Name
	}
	c, err := net.ListenMulticastUDP(network, i, group)
	if err != nil {
		return nil, err
	}
	if v6 {
		p := ipv6.NewPacketConn(c)
		err = errors.Join(p.SetMulticastInterface(i), p.SetMulticastHopLimit(hops), p.SetMulticastLoopback(true))
	} else {
		p := ipv4.NewPacketConn(c)
		err = errors.Join(p.SetMulticastInterface(i), p.SetMulticastTTL(hops), p.SetMulticastLoopback(true))
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return kernelConn{c, group}, nil
}

func (c kernelConn) Read(b []byte) (int, netip.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	return n, from.Addr().Unmap(), err
}

func (c kernelConn) Send(b []byte) error {
	_, err := c.WriteToUDP(b, c.group)
	return err
}
