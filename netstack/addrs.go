package netstack

import (
	"net"
	"net/netip"
)

// tcpAddrs returns what net.TCPAddrFromAddrPort does of a conn's two ends, in one piece of
// memory. It is not the conn's: whoever keeps an address keeps no endpoint.
func tcpAddrs(local, remote netip.AddrPort) (l, r *net.TCPAddr) {
	both := new([2]struct {
		net.TCPAddr
		ip [16]byte
	})
	for i, a := range [2]netip.AddrPort{local, remote} {
		b := &both[i]
		if ip := a.Addr(); ip.Is4() {
			v4 := ip.As4()
			b.IP = b.ip[:copy(b.ip[:], v4[:]):4]
		} else if ip.IsValid() {
			b.ip = ip.As16()
			b.IP = b.ip[:]
		}
		b.Zone, b.Port = a.Addr().Zone(), int(a.Port())
	}
	return &both[0].TCPAddr, &both[1].TCPAddr
}
