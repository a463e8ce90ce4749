package tun

import (
	"fmt"
	"net/netip"
	"syscall"
)

// network is something that the host has already: a network that it reaches, a
// prefix that it refuses to reach, or an address of its own.
type network struct {
	prefix  netip.Prefix
	device  string // "" if it is none's
	index   int32  // of the device
	address bool   // prefix is that of an own address
	reject  bool   // nothing is reached: unreachable, blackhole, prohibit, throw
	ours    bool   // a node made it (protocol)
	metric  uint32
}

// isNode says whether n is the route of a node's device.
func (n network) isNode() bool { return n.ours && !n.reject }

// String says what n is.
func (n network) String() string {
	switch {
	case n.address:
		return fmt.Sprintf("an address in %v, of %s", n.prefix, n.device)
	case n.isNode():
		return fmt.Sprintf("the LSIs %v of another node, by %s", n.prefix, n.device)
	case n.reject:
		return fmt.Sprintf("a route that makes %v unreachable", n.prefix)
	case n.device != "":
		return fmt.Sprintf("a route to %v by %s", n.prefix, n.device)
	}
	return fmt.Sprintf("a route to %v", n.prefix)
}

// everything is the length up to which a prefix is no network but a part of
// the way to everything: VPNs have such routes in place of a default route.
const everything = 7

// deviceMetric is what the route of a device has: the kernel's defaults.
func deviceMetric(p netip.Prefix) uint32 {
	if p.Addr().Is4() {
		return 0
	}
	return 1024 // IP6_RT_PRIO_USER
}

// hides says whether n and LSIs in p are in each other's way. What makes a wider
// prefix unreachable is not: it has nothing that could be taken away.
func (n network) hides(p netip.Prefix) bool {
	switch {
	case !n.prefix.Overlaps(p) || n.prefix.Bits() <= everything && !n.address:
		return false
	case n.reject && n.ours:
		return false
	case n.reject && n.prefix.Bits() == p.Bits():
		return n.metric <= deviceMetric(p)
	case n.reject:
		return n.prefix.Bits() > p.Bits()
	}
	return true
}

// spare are the prefixes that a PrefixError proposes: the ones that are nobody's
// (RFC 2544), and some that few networks use.
var spare = func() []netip.Prefix {
	all := []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("198.19.0.0/16")}
	for i := range byte(58) {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 198 + i}), 16))
	}
	return append(all, netip.MustParsePrefix("172.31.0.0/16"), netip.MustParsePrefix("192.168.198.0/24"))
}()

// checkPrefix returns a *PrefixError if LSIs in p and something of have are in
// each other's way.
func checkPrefix(p netip.Prefix, have []network) error {
	first := func(p netip.Prefix) *network {
		for i := range have {
			if have[i].hides(p) {
				return &have[i]
			}
		}
		return nil
	}
	n := first(p)
	if n == nil {
		return nil
	}
	e := &PrefixError{Prefix: p, Taken: n.prefix, By: n.String()}
	if p.Addr().Is4() {
		for _, s := range spare {
			if first(s) == nil {
				e.Free = s
				break
			}
		}
	}
	return e
}

// PrefixError says that the node's LSIs would hide something that the host has,
// or be hidden by it.
type PrefixError struct {
	Prefix netip.Prefix // of the LSIs
	Taken  netip.Prefix // what the host has
	By     string       // what that is: "a route to 198.18.0.0/15 by eth1"
	Free   netip.Prefix // one that may be taken instead; zero: none was found, or Prefix is IPv6, where there is no other
}

// Error implements error.
func (e *PrefixError) Error() string {
	s := fmt.Sprintf("tun: LSIs cannot be in %v: this host has %s", e.Prefix, e.By)
	switch {
	case e.Prefix.Addr().Is6():
		return s + "; IPv6 LSIs are nowhere else: take that away, or run without a TUN device"
	case e.Free.IsValid():
		return fmt.Sprintf("%s; Config.LSIPrefix chooses others, %v is free", s, e.Free)
	}
	return s + "; Config.LSIPrefix chooses others"
}

// Is makes it a syscall.EEXIST: it is there already.
func (e *PrefixError) Is(target error) bool { return target == syscall.EEXIST }
