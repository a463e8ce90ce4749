package ice

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	pion "github.com/pion/ice/v3"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/nat"
)

// lonelyMax bounds the candidates that hardly anybody but this host has use of:
// enough for a peer in a container of the host's.
const lonelyMax = 4

// LocalCandidates lists what this node shows, the best first: what TURN servers
// lend, what the sockets are mapped to, and their own addresses. Loopback addresses
// are shown only among themselves or when listed (socket decides which sockets
// exist).
func LocalCandidates(conns []*socket.Conn, mapped func(*socket.Conn) []netip.AddrPort, lent []netip.AddrPort) []wire.Candidate {
	conns = slices.Clone(conns)
	slices.SortStableFunc(conns, func(a, b *socket.Conn) int { return cmp.Compare(nat.OfConn(a), nat.OfConn(b)) })
	var r nat.Ranking[wire.Candidate]
	for i, at := range lent { // nothing else may push them out
		r.Add(at, nat.Proven, wire.Candidate{
			Type: wire.Relayed, Addr: at, Foundation: fmt.Sprintf("r%d", i),
			Priority: priority(pion.CandidateTypeRelay, preference(at.Addr(), i)),
		})
	}
	lonely := 0
	for i, c := range conns {
		at := c.LocalAddr()
		if k := nat.OfConn(c); k.Lonely() && k != nat.Useless && !at.Addr().IsLoopback() {
			if lonely++; lonely > lonelyMax {
				continue // a peer would check it, and wait for nothing
			}
		}
		r.Add(at, nat.OfConn(c), wire.Candidate{
			Type: wire.Host, Addr: at, Foundation: fmt.Sprintf("h%d", i),
			Priority: priority(pion.CandidateTypeHost, preference(at.Addr(), i)),
		})
		for j, m := range mapped(c) {
			r.Add(m, nat.Mapped, wire.Candidate{
				Type: wire.ServerReflexive, Addr: m, Related: at, Foundation: fmt.Sprintf("s%d.%d", i, j),
				Priority: priority(pion.CandidateTypeServerReflexive, preference(m.Addr(), i)),
			})
		}
	}
	return r.Best(wire.MaxCandidates)
}

// priority is RFC 8445 §5.1.2.1 for component 1.
func priority(t pion.CandidateType, local uint16) uint32 {
	return uint32(t.Preference())<<24 | uint32(local)<<8 | 255
}

// preference prefers IPv6 (RFC 8421 §4: both families interleaved, the better
// first), then the order of the sockets; loopback comes first: it only ever
// answers on the same machine.
func preference(a netip.Addr, i int) uint16 {
	p := 65535 - 2*min(i, 1000)
	if a.Is4() {
		p--
	}
	if a.IsLoopback() {
		return uint16(p)
	}
	return uint16(p - 4096)
}

// Describe lists candidates for an event.
func Describe(cs []wire.Candidate) string {
	var b strings.Builder
	for i, c := range cs {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%v/%v", c.Type, c.Addr)
		if c.TCP != 0 {
			fmt.Fprintf(&b, "/tcp-%v", c.TCP)
		}
	}
	return b.String()
}

// SplitRelayed parts the candidates that TURN servers lend from the others.
func SplitRelayed(cs []wire.Candidate) (direct, lent []wire.Candidate) {
	for _, c := range cs {
		if c.Type == wire.Relayed {
			lent = append(lent, c)
		} else {
			direct = append(direct, c)
		}
	}
	return direct, lent
}
