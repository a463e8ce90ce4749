package socket

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/pion/transport/v3"
)

// simLink is a socket of a simulated network, which knows plain ReadFrom and
// WriteTo only.
type simLink struct{ conn transport.UDPConn }

// listenOn binds a socket on nw. One that turns out to be the kernel's is
// used as such.
func (p *Port) listenOn(nw transport.Net, addr netip.AddrPort) (link, error) {
	if nw == nil {
		l, err := listenKernel(addr, p.log)
		if err != nil {
			return nil, err // not a nil *kernelLink in an interface
		}
		return l, nil
	}
	network := "udp" // what vnet takes for IPv4
	if addr.Addr().Is6() {
		network = "udp6"
	}
	c, err := nw.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	if k, ok := c.(*net.UDPConn); ok {
		return newKernelLink(k, p.log), nil
	}
	return &simLink{conn: c}, nil
}

func (l *simLink) offloads() (gso, gro bool) { return false, false }
func (l *simLink) port() (uint16, error)     { return portOf(l.conn.LocalAddr()) }
func (l *simLink) close() error              { return l.conn.Close() }

// portOf returns the number in the local address of a bound socket.
func portOf(a net.Addr) (uint16, error) {
	u, ok := a.(*net.UDPAddr)
	if !ok || u.Port <= 0 || u.Port > 65535 {
		return 0, fmt.Errorf("socket: bound to %v", a)
	}
	return uint16(u.Port), nil
}

// isAddrInUse recognises the error of pion's vnet, which exports none.
func isAddrInUse(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "address already in use")
}

func (l *simLink) read(b []byte) (n, seg int, from netip.AddrPort, err error) {
	n, a, err := l.conn.ReadFrom(b)
	if err != nil {
		return 0, 0, from, err
	}
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return 0, 0, from, errSkip
	}
	ap := u.AddrPort()
	return n, n, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

func (l *simLink) write(b []byte, seg int, to netip.AddrPort, _ uint8) error {
	addr := net.UDPAddrFromAddrPort(to)
	for first := true; first || len(b) > 0; first = false { // an empty b is one datagram
		d := b[:min(seg, len(b))]
		if _, err := l.conn.WriteTo(d, addr); err != nil {
			return err
		}
		b = b[len(d):]
	}
	return nil
}
