package netstack

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// The methods of *net.UDPConn that read and write, with its errors. File is not
// there, because there is no descriptor: who asks for it with a type assertion
// must learn that.

// errMissingAddress is package net's.
var errMissingAddress = errors.New("missing address")

// flagTruncated is Linux's MSG_TRUNC: a datagram did not fit.
const flagTruncated = 0x20

// Read implements net.Conn.
func (c *udpConn) Read(b []byte) (int, error) {
	if len(b) == 0 && !isClosed(c.closed) {
		return 0, nil // takes no datagram, as in package net
	}
	n, _, _, err := c.read(b)
	if err != nil {
		return 0, c.opError("read", "read", c.opAddr(), err)
	}
	return n, nil
}

// ReadFrom implements net.PacketConn; the address is a *net.UDPAddr.
func (c *udpConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDP is net.UDPConn's.
func (c *udpConn) ReadFromUDP(b []byte) (int, *net.UDPAddr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is net.UDPConn's: ReadFrom without an allocation. The
// address is never an IPv4-mapped one.
func (c *udpConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, _, from, err := c.read(b)
	if err != nil {
		return 0, netip.AddrPort{}, c.opError("read", "recvfrom", c.opAddr(), err)
	}
	return n, from, nil
}

// ReadMsgUDP is net.UDPConn's. There are no control messages: oobn is 0.
func (c *udpConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	n, oobn, flags, from, err := c.ReadMsgUDPAddrPort(b, oob)
	if err == nil {
		addr = net.UDPAddrFromAddrPort(from)
	}
	return n, oobn, flags, addr, err
}

// ReadMsgUDPAddrPort is net.UDPConn's. There are no control messages: oobn is 0.
func (c *udpConn) ReadMsgUDPAddrPort(b, _ []byte) (n, oobn, flags int, addr netip.AddrPort, err error) {
	n, size, addr, err := c.read(b)
	if err != nil {
		return 0, 0, 0, netip.AddrPort{}, c.opError("read", "recvmsg", c.opAddr(), err)
	}
	if size > n {
		flags = flagTruncated
	}
	return n, 0, flags, addr, nil
}

// Write implements net.Conn.
func (c *udpConn) Write(b []byte) (int, error) {
	err := error(syscall.EDESTADDRREQ)
	n := 0
	if c.raddr != nil {
		n, err = c.write(b, netip.AddrPort{})
	}
	if err != nil {
		return 0, c.opError("write", "write", c.opAddr(), err)
	}
	return n, nil
}

// WriteTo implements net.PacketConn; to must be a *net.UDPAddr.
func (c *udpConn) WriteTo(b []byte, to net.Addr) (int, error) {
	ua, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: c.network, Source: c.laddr, Addr: to, Err: syscall.EINVAL}
	}
	return c.WriteToUDP(b, ua)
}

// WriteToUDP is net.UDPConn's.
func (c *udpConn) WriteToUDP(b []byte, addr *net.UDPAddr) (int, error) {
	if addr == nil {
		_, err := c.writeTo(b, netip.AddrPort{})
		return 0, c.opError("write", "sendto", nil, err)
	}
	n, err := c.writeTo(b, addrPortOf(addr))
	if err != nil {
		return 0, c.opError("write", "sendto", addr, err)
	}
	return n, nil
}

// WriteToUDPAddrPort is net.UDPConn's.
func (c *udpConn) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	n, err := c.writeTo(b, addr)
	if err != nil {
		return 0, c.opError("write", "sendto", addrPortAddr{addr}, err)
	}
	return n, nil
}

// writeTo sends to an address that must be given.
func (c *udpConn) writeTo(b []byte, to netip.AddrPort) (int, error) {
	switch {
	case c.raddr != nil:
		return 0, net.ErrWriteToConnected
	case !to.Addr().IsValid():
		return 0, errMissingAddress
	}
	return c.write(b, to)
}

// WriteMsgUDP is net.UDPConn's: a connected conn takes no addr. Control
// messages are not supported.
func (c *udpConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	var to netip.AddrPort
	var shown net.Addr
	if addr != nil {
		to, shown = addrPortOf(addr), addr
	}
	if n, err = c.writeMsg(b, oob, to); err != nil {
		return 0, 0, c.opError("write", "sendmsg", shown, err)
	}
	return n, 0, nil
}

// WriteMsgUDPAddrPort is net.UDPConn's: a connected conn takes no addr.
// Control messages are not supported.
func (c *udpConn) WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error) {
	if n, err = c.writeMsg(b, oob, addr); err != nil {
		return 0, 0, c.opError("write", "sendmsg", addrPortAddr{addr}, err)
	}
	return n, 0, nil
}

func (c *udpConn) writeMsg(b, oob []byte, to netip.AddrPort) (int, error) {
	switch {
	case c.raddr != nil && to.IsValid():
		return 0, net.ErrWriteToConnected
	case c.raddr == nil && !to.IsValid():
		return 0, errMissingAddress
	case len(oob) > 0:
		return 0, syscall.EOPNOTSUPP
	}
	return c.write(b, to)
}

// opAddr is the connected address, or nil, as an error shows it.
func (c *udpConn) opAddr() net.Addr {
	if c.raddr == nil {
		return nil
	}
	return c.raddr
}

// addrPortAddr is an address as an error shows it.
type addrPortAddr struct{ netip.AddrPort }

func (addrPortAddr) Network() string { return "udp" }

// target is where a datagram to to goes, with package net's errors for what a
// conn of this family cannot send to. The unspecified addresses are this node.
func (c *udpConn) target(to netip.AddrPort) (netip.AddrPort, error) {
	a := to.Addr().Unmap()
	if a.IsUnspecified() {
		self := c.s.link.self4
		if c.at.v6 && (a.Is6() || !c.at.v4) {
			self = c.s.link.self6
		}
		if a.Is4() || c.at.v6 {
			a = self
		}
	}
	switch {
	case to.Port() == 0:
		return to, syscall.EINVAL
	case a.Is6() && !c.at.v6:
		return to, &net.AddrError{Err: "non-IPv4 address", Addr: a.String()}
	case a.Is4() && !c.at.v4:
		return to, syscall.ENETUNREACH
	}
	return netip.AddrPortFrom(a.WithZone(""), to.Port()), nil
}

// addrPortOf is a's address; one without an IP is this node, as in package net.
func addrPortOf(a *net.UDPAddr) netip.AddrPort {
	if len(a.IP) == 0 {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(a.Port))
	}
	return a.AddrPort()
}

// opError is what package net returns of a system call that failed.
func (c *udpConn) opError(op, call string, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: c.network, Source: c.laddr, Addr: addr, Err: syscallError(call, err)}
}
