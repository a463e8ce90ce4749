package nat64

import (
	"net/netip"
	"slices"
)

// WellKnown is the prefix that any network may use (RFC 6052 §2.1).
var WellKnown = netip.MustParsePrefix("64:ff9b::/96")

// lengths are those that a prefix may have, in bits (RFC 6052 §2.2), in the order of
// their codes (RFC 8781 §4).
var lengths = [...]int{96, 64, 56, 48, 40, 32}

// uOctet is the octet that is zero in all of them, bits 64 to 71.
const uOctet = 8

var (
	global6 = netip.MustParsePrefix("2000::/3")
	unique6 = netip.MustParsePrefix("fc00::/7")
	local   = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	// never6 are no network's: Teredo, ORCHIDv2, documentation, 6to4.
	never6 = [...]netip.Prefix{
		netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2001:20::/28"), netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("3fff::/20"), netip.MustParsePrefix("2002::/16"),
	}
	// never4 are addresses of no public host (RFC 6890) that netip has no word for.
	never4 = [...]netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	}
)

// Usable says whether p can be the prefix of a NAT64: it has one of the six lengths, is
// masked, has a zero u octet, and lies where networks have addresses.
func Usable(p netip.Prefix) bool {
	if !p.IsValid() || !p.Addr().Is6() || p.Addr().Zone() != "" || p != p.Masked() || !slices.Contains(lengths[:], p.Bits()) || p.Addr().As16()[uOctet] != 0 {
		return false
	}
	if p == WellKnown || local.Contains(p.Addr()) && p.Bits() >= local.Bits() {
		return true
	}
	if slices.ContainsFunc(never6[:], p.Overlaps) {
		return false
	}
	return global6.Contains(p.Addr()) || unique6.Contains(p.Addr())
}

// Translatable says whether a is an IPv4 address that a NAT64 may be asked for: one of
// the public internet. Others mean something else on each network, and the well-known
// prefix must not be used with them (RFC 6052 §3.1).
func Translatable(a netip.Addr) bool {
	if !a.Is4() || a.IsPrivate() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return false
	}
	return !slices.ContainsFunc(never4[:], func(p netip.Prefix) bool { return p.Contains(a) })
}

// places are the octets of an address in which one of IPv4 stands behind a prefix of
// so many bits.
func places(bits int) (out [4]int) {
	at := bits / 8
	for i := range out {
		if at == uOctet && bits != 96 {
			at++
		}
		out[i] = at
		at++
	}
	return out
}

// Embed returns the IPv6 address of an IPv4 one behind a prefix that is Usable.
func Embed(p netip.Prefix, a netip.Addr) netip.Addr {
	out, four := p.Addr().As16(), a.As4()
	for i, at := range places(p.Bits()) {
		out[at] = four[i]
	}
	return netip.AddrFrom16(out)
}

// Extract is Embed read backwards; false: a is not what Embed makes with p.
func Extract(p netip.Prefix, a netip.Addr) (netip.Addr, bool) {
	if !p.Contains(a) {
		return netip.Addr{}, false
	}
	b := a.As16()
	var four [4]byte
	for i, at := range places(p.Bits()) {
		four[i] = b[at]
	}
	out := netip.AddrFrom4(four)
	return out, Embed(p, out) == a
}
