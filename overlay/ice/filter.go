package ice

import (
	"net/netip"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
)

// Filter says which remote candidates an agent may see (DESIGN §8):
// the rest could point our checks at somebody who has no part in this. A port
// of a well-known service is as good as any: who wants to be reached through
// firewalls listens on 443. That a peer may name somebody else's is bounded
// by the pacer.
type Filter struct {
	Loopback bool // this node itself uses loopback addresses
	// Indirect says whether an address is another way to write one that may be refused,
	// as those behind a NAT64 are of IPv4; nil: none is.
	Indirect func(netip.Addr) bool
	Never    []netip.Prefix // addresses that are no real ones, beside those of RFC 6890
}

// NewFilter makes the Filter of a node with these sockets. Loopback addresses are
// acceptable if it has one itself: it was told to, or has nothing else.
func NewFilter(conns []*socket.Conn, never []netip.Prefix, loopback bool) Filter {
	f := Filter{Never: never, Loopback: loopback}
	for _, c := range conns {
		f.Loopback = f.Loopback || c.LocalAddr().Addr().IsLoopback()
	}
	return f
}

// RFC 6890 and what idloc itself uses.
var neverRemote = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("192.0.0.0/29"),  // hosts that translate have the same, RFC 7335
	netip.MustParsePrefix("198.18.0.0/15"), // LSIs
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001:20::/28"), // LSIs, RFC 7343
	netip.MustParsePrefix("64:ff9b:1::/48"),
}

// Keep returns those of in that are allowed, each once, at most as many as an
// offer may have.
func (f Filter) Keep(in []wire.Candidate) []wire.Candidate {
	var out []wire.Candidate
	type place struct {
		at  netip.AddrPort
		tcp wire.TCPType
	}
	seen := map[place]bool{}
	for _, c := range in {
		if len(out) == wire.MaxCandidates {
			break
		}
		p := place{c.Addr, c.TCP}
		if seen[p] || !f.Allowed(c.Addr) || carrier.Prefix.Contains(c.Addr.Addr()) {
			continue
		}
		seen[p] = true
		out = append(out, c)
	}
	return out
}

// Allowed says whether an address can be another host's.
func (f Filter) Allowed(a netip.AddrPort) bool {
	ip := a.Addr()
	switch {
	case !ip.IsValid() || a.Port() == 0,
		ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast(), ip.Is4In6(), ip.Zone() != "",
		ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}),
		ip.IsLoopback() && !f.Loopback,
		f.Indirect != nil && f.Indirect(ip):
		return false
	}
	for _, p := range neverRemote {
		if p.Contains(ip) {
			return false
		}
	}
	for _, p := range f.Never {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}
