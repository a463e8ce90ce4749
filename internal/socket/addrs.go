package socket

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Ranges that are LSIs of nodes (RFC 2544, RFC 7343) and never real addresses:
// a TUN device of another program may carry them on this host.
var lsiRanges = [...]netip.Prefix{
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("2001:20::/28"),
}

// localAddr is an address of an interface, with the subnet it is on.
type localAddr struct {
	addr  netip.Addr
	net   netip.Prefix
	iface Interface // its Net is net
}

// usable reports whether a can be a real address of this node: unicast, and
// reachable from off the link.
func usable(a netip.Addr) bool {
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	for _, p := range lsiRanges {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// wanted returns the addresses that should have a socket now, IPv4 before
// IPv6 and loopback last, otherwise in the order of the interfaces or of
// Config.Addrs.
func (p *Port) wanted() ([]localAddr, error) {
	have, err := p.hostAddrs()
	if err != nil {
		return nil, err
	}
	var want []localAddr
	if p.cfg.Addrs == nil {
		p.leaveOut(have)
		want = choose(slices.DeleteFunc(have, func(a localAddr) bool { return p.isLSI(a.addr) }))
	} else {
		want = pick(have, p.cfg.Addrs)
	}
	slices.SortStableFunc(want, func(a, b localAddr) int {
		return cmp.Or(
			cmp.Compare(b2i(a.addr.IsLoopback()), b2i(b.addr.IsLoopback())),
			cmp.Compare(b2i(a.addr.Is6()), b2i(b.addr.Is6())),
		)
	})
	return want, nil
}

// isLSI says whether a is in a range of LSIs.
func (p *Port) isLSI(a netip.Addr) bool {
	contains := func(r netip.Prefix) bool { return r.Contains(a) }
	return slices.ContainsFunc(lsiRanges[:], contains) || slices.ContainsFunc(p.cfg.NotReal, contains)
}

// leaveOut notes the addresses in a real network that are not used because they
// are in a range of LSIs. A TUN device has its LSIs alone, without a network.
func (p *Port) leaveOut(have []localAddr) {
	var out []netip.Addr
	for _, a := range have {
		if p.isLSI(a.addr) && !a.net.IsSingleIP() {
			out = append(out, a.addr)
		}
	}
	p.leftOut.Store(&out)
}

// NoSource is the ErrNoSource of a destination for which there is no Conn. It
// tells if an address is there, but was taken for an LSI.
func (p *Port) NoSource(to netip.Addr) error {
	return p.explain(ErrNoSource, func(a netip.Addr) bool { return a.Is4() == to.Unmap().Is4() })
}

// explain adds to err, which says that there is no address for something of a
// family, that there is one which was taken for an LSI.
func (p *Port) explain(err error, family func(netip.Addr) bool) error {
	out := p.leftOut.Load()
	if out == nil {
		return err
	}
	var list []string
	for _, a := range *out {
		if family(a) {
			list = append(list, a.String())
		}
	}
	if list == nil {
		return err
	}
	return fmt.Errorf("%w; of this host's addresses %s was taken for an LSI, Config.Addrs makes it a real one", err, strings.Join(list, ", "))
}

// choose returns the usable addresses of have, those of the loopback
// interface only if there is no other.
func choose(have []localAddr) []localAddr {
	var real, loop []localAddr
	for _, a := range have {
		switch {
		case !usable(a.addr):
		case a.addr.IsLoopback():
			loop = append(loop, a)
		default:
			real = append(real, a)
		}
	}
	if len(real) == 0 {
		return loop
	}
	return real
}

// pick returns those of list that are in have. Any address of a loopback
// subnet counts as present: the system binds 127.0.0.2 unasked.
func pick(have []localAddr, list []netip.Addr) []localAddr {
	var want []localAddr
	for _, a := range list {
		a = a.Unmap()
		if slices.ContainsFunc(want, func(w localAddr) bool { return w.addr == a }) {
			continue
		}
		for _, h := range have {
			if h.addr == a || a.IsLoopback() && h.addr.IsLoopback() && h.net.Contains(a) {
				want = append(want, localAddr{a, h.net, h.iface})
				break
			}
		}
	}
	return want
}

// interfaceAddrs lists the addresses of the interfaces that are up, of the
// simulated network if there is one.
func (p *Port) interfaceAddrs() ([]localAddr, error) {
	var list []localAddr
	if p.cfg.Net == nil {
		ifs, err := net.Interfaces()
		if err != nil {
			return nil, err
		}
		kinds := kernelKinds()
		for _, i := range ifs {
			if i.Flags&net.FlagUp == 0 {
				continue
			}
			addrs, err := i.Addrs()
			if err != nil {
				continue // it went away meanwhile
			}
			list = appendAddrs(list, describe(i, kinds), addrs)
		}
		return list, nil
	}
	ifs, err := p.cfg.Net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range ifs {
		if addrs, err := i.Addrs(); err == nil && i.Flags&net.FlagUp != 0 {
			about := describe(i.Interface, nil)
			about.Index = 0
			list = appendAddrs(list, about, addrs)
		}
	}
	return list, nil
}

// describe says what an interface is: what the kernel tells counts more than
// its name.
func describe(i net.Interface, kinds map[int]LinkKind) Interface {
	out := Interface{Index: i.Index, Name: i.Name, Kind: kindByName(i.Name, i.Flags), MTU: i.MTU}
	if k, ok := kinds[i.Index]; ok {
		out.Kind = k
	}
	return out
}

func appendAddrs(list []localAddr, about Interface, addrs []net.Addr) []localAddr {
	for _, a := range addrs {
		l := localAddr{iface: about}
		switch a := a.(type) {
		case *net.IPNet:
			ip, ok := netip.AddrFromSlice(a.IP)
			if !ok {
				continue
			}
			l.addr = ip.Unmap()
			ones, bits := a.Mask.Size()
			if bits == 128 && l.addr.Is4() {
				ones -= 96
			}
			l.net, _ = l.addr.Prefix(ones)
		case *net.IPAddr:
			ip, ok := netip.AddrFromSlice(a.IP)
			if !ok {
				continue
			}
			l.addr = ip.Unmap()
		}
		if !l.addr.IsValid() || slices.ContainsFunc(list, func(o localAddr) bool { return o.addr == l.addr }) {
			continue
		}
		if !l.net.IsValid() {
			l.net = netip.PrefixFrom(l.addr, l.addr.BitLen())
		}
		l.iface.Net = l.net
		list = append(list, l)
	}
	return list
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
