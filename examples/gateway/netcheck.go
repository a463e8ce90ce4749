package main

import (
	"net/netip"

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

// report judges from what members, asked by STUN, have seen of the port.
func report(s idloc.SelfStatus) netReport {
	r := netReport{Local: s.Addrs, Mapped: s.Mapped, Members: s.Members}
	switch s.NAT {
	case "none":
		r.NAT, r.Works = "none: members see the node's own addresses", "direct pipes to every member that can send UDP, unless a firewall stands here"
		if s.Reached {
			r.Works = "direct pipes to every member that can send UDP"
		}
	case "endpoint-independent":
		r.NAT, r.Works = "one mapping for all destinations", "direct pipes to members that are not behind a symmetric NAT, and to some that are"
	case "translated":
		r.NAT, r.Works = "there is one; which kind takes two members to see", "direct pipes to most members"
	case "endpoint-dependent":
		r.NAT, r.Works = "a mapping for each destination (symmetric)", "direct pipes to members that are not behind such a NAT or a port-restricted one"
	default:
		r.NAT, r.Works = "not known: no member has told", "nothing yet, if it stays so; is the network up, and any other member of the overlay?"
	}
	return r
}
