package p2p

import (
	"net/netip"
	"net/url"
	"strconv"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
)

// Addresses of carriers as libp2p has them:
//
//	tls://host:443        /dns/host/tcp/443/tls
//	wss://host:443/path   /dns/host/tcp/443/tls/ws/http-path/path
//
// with ip4 or ip6 in the place of dns where the host is an IP address. They are not
// libp2p's own transports of these names: what is there is QUIC, carried.

// Carrier writes the address of a carrier.
func Carrier(a carrier.Address) (ma.Multiaddr, error) {
	family := "dns"
	if ip, err := netip.ParseAddr(a.Host); err == nil {
		family = "ip6"
		if ip.Is4() {
			family = "ip4"
		}
	}
	s := "/" + family + "/" + a.Host + "/tcp/" + strconv.Itoa(int(a.Port)) + "/tls"
	if a.Form == carrier.WSS {
		path, err := url.PathUnescape(a.Path)
		if err != nil {
			return nil, err
		}
		s += "/ws/http-path/" + url.PathEscape(path)
	}
	return ma.NewMultiaddr(s)
}

// CarrierAddress reads one; false if m is anything else.
func CarrierAddress(m ma.Multiaddr) (carrier.Address, bool) {
	if len(m) != 3 && len(m) != 5 {
		return carrier.Address{}, false
	}
	for i, code := range []int{ma.P_TCP, ma.P_TLS, ma.P_WS, ma.P_HTTP_PATH}[:len(m)-1] {
		if m[1+i].Protocol().Code != code {
			return carrier.Address{}, false
		}
	}
	switch m[0].Protocol().Code {
	case ma.P_DNS, ma.P_IP4, ma.P_IP6:
	default:
		return carrier.Address{}, false
	}
	u := url.URL{Scheme: carrier.TLS, Host: m[0].Value() + ":" + m[1].Value()}
	if m[0].Protocol().Code == ma.P_IP6 {
		u.Host = "[" + m[0].Value() + "]:" + m[1].Value()
	}
	if len(m) == 5 {
		u.Scheme, u.Path = carrier.WSS, string(m[4].RawValue())
	}
	a, err := carrier.ParseAddress(u.String())
	return a, err == nil
}

// Place is AddrPort, and the far end of a carrier for the address of one: where what
// is meant for m goes to, as the port has it. It is what is charged, and not to be
// told to anybody.
func Place(m ma.Multiaddr) (netip.AddrPort, bool) {
	if a, ok := CarrierAddress(m); ok {
		return a.Remote(), true
	}
	return AddrPort(m)
}

// FarEnd is Place of a connection's other end: also where a carrier is that somebody
// else has opened, which is an address of the port and of nobody else.
func FarEnd(m ma.Multiaddr) (netip.AddrPort, bool) {
	if a, ok := CarrierAddress(m); ok {
		return a.Remote(), true
	}
	return udpAddr(m)
}

// Carried says whether a connection's other end is reached by a carrier.
func Carried(m ma.Multiaddr) bool {
	at, ok := FarEnd(m)
	return ok && carrier.Prefix.Contains(at.Addr())
}
