package tun

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/internal/netconn"
)

// anyConn is a UDP socket on the wildcard address, or an LSI, that takes only what
// was sent to an address of the node, and came by its device or from the host
// itself: the kernel says so with each datagram (ip(7), ipv6(7)). The host's other
// addresses are not the overlay's, and who is on another network of the host's may
// send to an LSI there, in the name of any member.
type anyConn struct {
	*inside // its Read methods of one socket are replaced
}

const oobLen = 128

var oobPool = sync.Pool{New: func() any { return new([oobLen]byte) }}

// loopback is the index of the device by which the host sends to itself: Linux has
// LOOPBACK_IFINDEX.
const loopback = 1

// listenAny is ListenUDP for an LSI, or the wildcard address of the network's
// families.
func (h *Host) listenAny(network string, at *net.UDPAddr) (net.PacketConn, error) {
	c, err := net.ListenUDP(network, at)
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			// A socket has one of the families, or both.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		})
	}
	var k *udpConn
	if err == nil {
		k, err = h.keepUDP(c)
	}
	if err != nil {
		c.Close()
		return nil, &net.OpError{Op: "listen", Net: network, Addr: at, Err: err}
	}
	return &anyConn{&inside{k, h}}, nil
}

// ReadFromUDPAddrPort is net.UDPConn's.
func (c *anyConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	oob := oobPool.Get().(*[oobLen]byte)
	defer oobPool.Put(oob)
	for {
		n, k, _, from, err := c.UDPConn.ReadMsgUDPAddrPort(b, oob[:])
		if err != nil {
			return 0, netip.AddrPort{}, err
		}
		to, by := sentTo(oob[:k])
		if (to == c.h.self4 || to == c.h.self6) && (by == c.h.dev.index || by == loopback) {
			return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
		}
	}
}

// ReadFrom implements net.PacketConn; the address is a *net.UDPAddr.
func (c *anyConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDP is net.UDPConn's.
func (c *anyConn) ReadFromUDP(b []byte) (int, *net.UDPAddr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// Read is net.UDPConn's.
func (c *anyConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFromUDPAddrPort(b)
	return n, err
}

// ReadMsgUDP would not know where a datagram went.
func (c *anyConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	return 0, 0, 0, nil, &net.OpError{Op: "read", Net: "udp", Source: c.LocalAddr(), Err: syscall.EOPNOTSUPP}
}

// ReadMsgUDPAddrPort would not know where a datagram went.
func (c *anyConn) ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error) {
	return 0, 0, 0, netip.AddrPort{}, &net.OpError{Op: "read", Net: "udp", Source: c.LocalAddr(), Err: syscall.EOPNOTSUPP}
}

// ReadBatch tells no truncated datagrams.
func (c *anyConn) ReadBatch(ms []netconn.Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	n, from, err := c.ReadFromUDPAddrPort(ms[0].Buf)
	if err != nil {
		return 0, err
	}
	ms[0].N, ms[0].Addr, ms[0].Truncated = n, from, false
	return 1, nil
}

// sentTo returns the destination that the control messages in oob name, and by what
// device it came.
func sentTo(oob []byte) (to netip.Addr, by int32) {
	for len(oob) >= unix.SizeofCmsghdr {
		n := int(nativeUint(oob))
		if n < unix.SizeofCmsghdr || n > len(oob) {
			break
		}
		const at = unix.SizeofCmsghdr
		level := binary.NativeEndian.Uint32(oob[at-8:])
		kind := binary.NativeEndian.Uint32(oob[at-4:])
		data := oob[unix.CmsgLen(0):n]
		switch {
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[8:12])), int32(binary.NativeEndian.Uint32(data)) // ifindex, spec_dst, addr
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(data[:16])).Unmap(), int32(binary.NativeEndian.Uint32(data[16:])) // addr, ifindex
		}
		oob = oob[min(unix.CmsgSpace(n-unix.CmsgLen(0)), len(oob)):]
	}
	return netip.Addr{}, 0
}

// nativeUint reads a cmsghdr's length, a size_t.
func nativeUint(b []byte) uint64 {
	if unix.SizeofCmsghdr == 16 {
		return binary.NativeEndian.Uint64(b)
	}
	return uint64(binary.NativeEndian.Uint32(b))
}
