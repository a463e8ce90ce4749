package ice

import (
	"cmp"
	"slices"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/nat"
)

// checkersMax bounds the sockets that one establishment checks from, nearMax
// those of them that are no uplinks but on a subnet with a candidate: two hosts
// with Docker have the same dozen subnets, and are on none of them together.
const (
	checkersMax = 8
	nearMax     = 4
)

// checkers are the sockets that checks of a peer with these candidates lead
// from, the likeliest first: those that the system sends from to one of them,
// the uplinks, because the peer may turn up at any address, and some that are
// on a subnet with one.
func checkers(conns []*socket.Conn, candidates []wire.Candidate) []*socket.Conn {
	const chosen, uplink, near, none = 0, 1, 2, 3
	ways := make(map[*socket.Conn]int, len(conns))
	for _, c := range conns {
		ways[c] = none
		subnet := c.Interface().Net
		for _, r := range candidates {
			switch {
			case !c.Reaches(r.Addr.Addr()):
			case subnet.Contains(r.Addr.Addr()):
				ways[c] = min(ways[c], near)
			case c.Chosen(r.Addr.Addr()):
				ways[c] = chosen
			}
		}
		if c.Uplink() {
			ways[c] = min(ways[c], uplink)
		}
	}
	out := slices.Clone(conns)
	slices.SortStableFunc(out, func(a, b *socket.Conn) int {
		return cmp.Or(cmp.Compare(ways[a], ways[b]), cmp.Compare(nat.OfConn(a), nat.OfConn(b)))
	})
	nears := 0
	out = slices.DeleteFunc(out, func(c *socket.Conn) bool {
		if ways[c] == near {
			nears++
		}
		return ways[c] == none || nears > nearMax && ways[c] == near
	})
	return out[:min(len(out), checkersMax)]
}

// reachable leaves of a peer's candidates those that a check from one of conns
// can get to, in their order. An address that this host has itself, and that is
// of no use to others, is not the peer's here: each host with Docker has it.
func reachable(all, conns []*socket.Conn, candidates []wire.Candidate) []wire.Candidate {
	return slices.DeleteFunc(slices.Clone(candidates), func(r wire.Candidate) bool {
		a := r.Addr.Addr()
		for _, c := range all {
			if c.LocalAddr().Addr() == a && nat.OfConn(c) > nat.Uplink && !a.IsLoopback() {
				return true
			}
		}
		return !slices.ContainsFunc(conns, func(c *socket.Conn) bool { return c.Reaches(a) })
	})
}
