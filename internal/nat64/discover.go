package nat64

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// host has IPv4 addresses only (RFC 7050 §8.2); wellKnown4 are these.
const host = "ipv4only.arpa."

var wellKnown4 = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.AddrFrom4([4]byte{192, 0, 0, 171})}

// ErrNone is that the network has no NAT64, as far as its resolver tells.
var ErrNone = errors.New("no NAT64 prefix")

// Lookup returns the IPv6 addresses of a host, as net.Resolver.LookupNetIP does of
// network "ip6".
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// System is the Lookup of the system's resolver.
func System(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip6", host)
}

// Discover returns the prefix of the network that the host is in. The error is ErrNone
// if the resolver says that there is none, or says what cannot be one; other errors are
// of the resolver, and say nothing of the network.
func Discover(ctx context.Context, lookup Lookup) (netip.Prefix, error) {
	answers, err := lookup(ctx, host)
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		return netip.Prefix{}, ErrNone
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("looking for the NAT64 prefix: %w", err)
	}
	if p, ok := Parse(answers); ok {
		return p, nil
	}
	return netip.Prefix{}, ErrNone
}

// Parse finds the prefix in the addresses that a resolver gives for ipv4only.arpa
// (RFC 7050 §3): the one with which both of that host's addresses are there, else the
// only one with which one is.
func Parse(answers []netip.Addr) (netip.Prefix, bool) {
	with := map[netip.Prefix]int{} // which of the two are there, a bit each
	var first netip.Prefix
	for _, a := range answers {
		p, n := reading(a)
		if n < 0 {
			continue
		}
		if with[p] |= 1 << n; with[p] == 3 {
			return p, true
		}
		if !first.IsValid() {
			first = p
		}
	}
	return first, len(with) == 1
}

// reading is the prefix with which a is one of the two addresses, and which it is; -1:
// none. There is no more than one, because u and suffix are zero and the last octet of
// the two is not.
func reading(a netip.Addr) (netip.Prefix, int) {
	if a = a.WithZone(""); !a.Is6() || a.Is4In6() {
		return netip.Prefix{}, -1
	}
	for _, bits := range lengths {
		p, err := a.Prefix(bits)
		if err != nil || !Usable(p) {
			continue
		}
		if four, ok := Extract(p, a); ok {
			if n := slices.Index(wellKnown4[:], four); n >= 0 {
				return p, n
			}
		}
	}
	return netip.Prefix{}, -1
}
