package tcp

import (
	"net"
	"net/netip"
)

// held are connections that came in and cost a place, with the networks that they came
// from: an address, or what one subscriber of IPv6 has.
type held map[net.Conn]netip.Prefix

// add takes a place for a connection, of so many; false: there is none, for that network
// or at all.
func (h held) add(c net.Conn, most int) bool {
	from := networkOf(addrPort(c.RemoteAddr()).Addr())
	same := 0
	for _, n := range h {
		if n == from {
			same++
		}
	}
	if len(h) >= most || same >= most/oneOf {
		return false
	}
	h[c] = from
	return true
}

func networkOf(a netip.Addr) netip.Prefix {
	bits := 32
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 56
	}
	n, _ := a.Prefix(bits) // fails for no address, which is a network then
	return n
}
