package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	nl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Behind the route of a device stands one that makes its LSIs unreachable
// (guard). It outlives a crash: whoever then sends to an LSI gets an error, where
// the packet would leave the host by its default route, in clear, to somebody
// who may answer in the member's name.
const (
	// protocol marks routes as a node's (rtm_protocol, rtnetlink(7)); "ip route
	// show proto 198" has them all.
	protocol = 198
	// guardMetric is so high that any other route to the prefix comes first.
	guardMetric = 4278198272
)

// guard makes p unreachable where no device leads to it.
func (d *device) guard(p netip.Prefix) error {
	_, err := d.netlink.ask(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, guardRoute(p, unix.RT_SCOPE_UNIVERSE))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return explain(fmt.Sprintf("making %v unreachable without a device", p), err)
	}
	return nil
}

// unguard undoes guard.
func (d *device) unguard(p netip.Prefix) error {
	_, err := d.netlink.ask(unix.RTM_DELROUTE, unix.NLM_F_ACK, 0, guardRoute(p, unix.RT_SCOPE_NOWHERE))
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return explain(fmt.Sprintf("the unreachable route to %v", p), err)
	}
	return nil
}

func guardRoute(p netip.Prefix, scope byte) []byte {
	b := []byte{family(p.Addr()), byte(p.Bits()), 0, 0, unix.RT_TABLE_MAIN, protocol, scope, unix.RTN_UNREACHABLE}
	b = append(b, 0, 0, 0, 0) // flags
	return append(b, attributes(func(ae *nl.AttributeEncoder) {
		ae.Bytes(unix.RTA_DST, p.Masked().Addr().AsSlice())
		ae.Uint32(unix.RTA_PRIORITY, guardMetric)
	})...)
}

// settle looks whether LSIs in the prefixes would hide something of the host,
// which is a *PrefixError, and takes away what nodes that crashed have left in
// their way. IPv6 LSIs that another node's device has are no error here.
func (d *device) settle(v4, v6 netip.Prefix) error {
	have, err := d.networks()
	if err != nil {
		return explain("looking at the host's routes", err)
	}
	if err := checkPrefix(v4, have); err != nil {
		// What a crash has left would go on hiding what is there now.
		if free, e := d.unneeded(v4); e == nil && len(free) > 0 {
			err = errors.Join(err, d.unguard(v4))
		}
		return err
	}
	foreign := slices.DeleteFunc(slices.Clone(have), network.isNode)
	if err := checkPrefix(v6, foreign); err != nil {
		return err
	}
	for _, n := range have {
		if n.ours && n.reject && n.prefix.Overlaps(v4) && n.prefix.Bits() > v4.Bits() {
			if err := d.unguard(n.prefix); err != nil {
				return err
			}
		}
	}
	return nil
}

// unneeded returns those of the prefixes that no node's device has but this
// one's. All nodes have the same IPv6 prefix, whoever has the route to it.
func (d *device) unneeded(prefixes ...netip.Prefix) ([]netip.Prefix, error) {
	have, err := d.networks()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool {
		return slices.ContainsFunc(have, func(n network) bool {
			return n.isNode() && (p.Addr().Is6() || n.prefix.Overlaps(p))
		})
	}), nil
}

// networks lists what the host has beside this device: addresses, then routes of
// all tables but the kernel's own. Of another node's device it has the routes to
// LSIs only, not the addresses and what the kernel makes of them.
func (d *device) networks() ([]network, error) {
	names := map[int32]string{}
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		names[int32(i.Index)] = i.Name
	}
	var have []network
	add := func(n network, ok bool) {
		if !ok || d.index != 0 && n.index == d.index {
			return
		}
		if n.device = names[n.index]; n.device == "" && n.index != 0 {
			n.device = fmt.Sprint("interface ", n.index)
		}
		have = append(have, n)
	}
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		list, err := d.netlink.list(unix.RTM_GETADDR, unix.RTM_NEWADDR, []byte{f, 0, 0, 0, 0, 0, 0, 0})
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			add(parseAddr(m))
		}
	}
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		list, err := d.netlink.list(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, []byte{f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			add(parseRoute(m))
		}
	}
	nodes := map[int32]bool{}
	for _, n := range have {
		if n.isNode() {
			nodes[n.index] = true
		}
	}
	return slices.DeleteFunc(have, func(n network) bool { return !n.ours && nodes[n.index] }), nil
}

// parseAddr reads an ifaddrmsg.
func parseAddr(m []byte) (n network, ok bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return n, false
	}
	ad, err := nl.NewAttributeDecoder(m[unix.SizeofIfAddrmsg:])
	if err != nil {
		return n, false
	}
	n = network{address: true, index: int32(binary.NativeEndian.Uint32(m[4:]))}
	var a netip.Addr
	for ad.Next() {
		// IFA_ADDRESS is the other end's, if there is one.
		if ad.Type() == unix.IFA_LOCAL || ad.Type() == unix.IFA_ADDRESS && !a.IsValid() {
			a, _ = netip.AddrFromSlice(ad.Bytes())
		}
	}
	n.prefix, err = a.Prefix(int(m[1]))
	return n, ad.Err() == nil && err == nil && n.prefix.IsValid()
}

// parseRoute reads an rtmsg. It is false for what leads to no network.
func parseRoute(m []byte) (n network, ok bool) {
	if len(m) < unix.SizeofRtMsg {
		return n, false
	}
	ad, err := nl.NewAttributeDecoder(m[unix.SizeofRtMsg:])
	if err != nil {
		return n, false
	}
	n.ours = m[5] == protocol
	table := uint32(m[4])
	to := netip.IPv4Unspecified()
	if m[0] == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_DST:
			to, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_OIF:
			n.index = int32(ad.Uint32())
		case unix.RTA_PRIORITY:
			n.metric = ad.Uint32()
		case unix.RTA_TABLE:
			table = ad.Uint32()
		}
	}
	if ad.Err() != nil {
		return n, false
	}
	switch m[7] {
	case unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_ANYCAST, unix.RTN_NAT:
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		n.reject = true
		n.index = 0 // for IPv6 the kernel says lo
	default:
		return n, false
	}
	if table == unix.RT_TABLE_LOCAL { // own addresses, and multicast
		return n, false
	}
	n.prefix, err = to.Prefix(int(m[1]))
	return n, err == nil && n.prefix.IsValid()
}
