package netstack

import (
	"net"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/idloc/idloc/internal/netconn"
)

// A conn's traffic class is in the IP header of each packet that gVisor makes.
// That header goes no further than the shim, which reads the class there and
// has the pipe's datagrams carry it, on the real network.

// SetTrafficClass gives what is sent from now on a traffic class, the second
// byte of an IPv4 header (type of service): a DSCP, which is the upper six bits
// (RFC 2474), 0xb8 for EF. The lower two are ignored. The routers between the
// peers see it, the peer does not: inside the pipe there is none.
func (c *tcpConn) SetTrafficClass(class int) error {
	if err := c.alive("set"); err != nil {
		return err
	}
	k, err := netconn.CheckClass(class)
	if err != nil {
		return c.opError("set", syscallError("setsockopt", err))
	}
	return c.option(func(*tcpip.SocketOptions) tcpip.Error {
		return c.ep.SetSockOptInt(tcpip.IPv4TOSOption, int(k)) // of either family
	})
}

// TrafficClass returns what SetTrafficClass has set, 0 at first.
func (c *tcpConn) TrafficClass() (int, error) {
	if err := c.alive("get"); err != nil {
		return 0, err
	}
	class, err := c.ep.GetSockOptInt(tcpip.IPv4TOSOption)
	if err != nil {
		return 0, c.opError("get", syscallError("getsockopt", sysError(err)))
	}
	return class, nil
}

// SetTrafficClass is as for TCP; datagrams of both families get it.
func (c *udpConn) SetTrafficClass(class int) error {
	if isClosed(c.closed) {
		return setError(c.network, c.laddr)
	}
	k, err := netconn.CheckClass(class)
	if err != nil {
		return c.opError("set", "setsockopt", c.opAddr(), err)
	}
	for _, o := range [...]tcpip.SockOptInt{tcpip.IPv4TOSOption, tcpip.IPv6TrafficClassOption} {
		if err := c.ep.SetSockOptInt(o, int(k)); err != nil {
			return c.opError("set", "setsockopt", c.opAddr(), sysError(err))
		}
	}
	c.class.Store(uint32(k))
	return nil
}

// TrafficClass returns what SetTrafficClass has set, 0 at first.
func (c *udpConn) TrafficClass() (int, error) {
	if isClosed(c.closed) {
		return 0, c.opError("get", "getsockopt", c.opAddr(), net.ErrClosed)
	}
	return int(c.class.Load()), nil
}
