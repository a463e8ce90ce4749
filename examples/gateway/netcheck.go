package main

import (
	"net/netip"
	"slices"

	"github.com/idloc/idloc/idloc"
)

// netReport is what netcheck prints.
type netReport struct {
	Local   []netip.AddrPort `json:"local"`
	Mapped  []netip.AddrPort `json:"mapped"`
	Members int              `json:"members"`
	NAT     string           `json:"nat"`
	Works   string           `json:"works"`
}

// report judges from what members, asked by STUN, have seen of the port. A
// mapping that differs by whom was asked tells an endpoint-dependent NAT (RFC
// 4787 §4.1); with one member there is nothing to compare.
func report(s idloc.SelfStatus) netReport {
	r := netReport{Local: s.Addrs, Mapped: s.Mapped, Members: s.Members}
	ports := map[netip.Addr][]uint16{} // by mapped address
	for _, m := range s.Mapped {
		ports[m.Addr()] = append(ports[m.Addr()], m.Port())
	}
	several := false
	for _, p := range ports {
		several = several || len(slices.Compact(slices.Sorted(slices.Values(p)))) > len(s.Addrs)
	}
	switch {
	case s.Members == 0:
		r.NAT, r.Works = "not known: no member is connected", "nothing yet; is the network up, and any member of the overlay?"
	case several:
		r.NAT, r.Works = "a mapping for each destination (symmetric)", "direct pipes to members that are not behind such a NAT or a port-restricted one"
	case len(s.Mapped) > 0:
		r.NAT, r.Works = "one mapping for all destinations, as far as seen", "direct pipes to members that are not behind a symmetric NAT"
	case s.Reached:
		r.NAT, r.Works = "none: members see the node's own addresses and reach it unasked", "direct pipes to every member that can send UDP"
	default:
		r.NAT, r.Works = "none seen: members see the node's own addresses; a firewall may stand before it", "direct pipes to most members"
	}
	return r
}
