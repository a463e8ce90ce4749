package overlay

import (
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// advertiseMax bounds what libp2p tells of this peer's addresses.
const advertiseMax = naming.MaxAddrs

// HandleSTUN takes what the shared port received with a first byte of 0–3; b
// is borrowed. It is called on the socket's read goroutine.
func (o *Overlay) HandleSTUN(c *socket.Conn, from netip.AddrPort, b []byte) {
	o.demux.Handle(c, from, b)
}

var _ pipe.TURN = (*nat.Allocation)(nil)

// newAddresses makes what knows and finds this peer's addresses. TURN servers are
// asked for none where paths are to be direct.
func (o *Overlay) newAddresses() *nat.Addresses {
	turn := nat.AllocationsConfig{
		Servers: o.ice,
		STUN:    func(a *nat.Allocation, from netip.AddrPort, b []byte) { o.demux.HandleLent(a, from, b) },
		Data:    func(a *nat.Allocation, from netip.AddrPort, b []byte) { o.pipes.Receive(a, from, b, len(b)) },
		Ended:   func(a *nat.Allocation) { o.pipes.RemoveLocal(a) },
	}
	if o.cfg.Paths == PathDirectOnly {
		turn.Servers = nil
	}
	return nat.New(nat.Config{
		Sockets: o.cfg.Socket, Net: o.cfg.Net, Logger: o.log, Asker: o.demux, Servers: o.stunServers, TURN: turn,
		Arrivals: o.arrivals, Seen: func() { o.establish.CandidatesChanged() }, Changed: o.candidatesChanged,
	})
}

// arrivals says where members have come in.
func (o *Overlay) arrivals() nat.Arrivals {
	var in nat.Arrivals
	for _, c := range o.host.Network().Conns() {
		at, ok := p2p.AddrPort(c.LocalMultiaddr())
		from, fromOK := p2p.AddrPort(c.RemoteMultiaddr())
		if ok && fromOK && c.Stat().Direction == network.DirInbound {
			in.Open = append(in.Open, nat.Arrival{Local: at, From: from})
		}
	}
	if r := o.mesh.Reached(); r.From.IsValid() {
		in.Unasked = nat.Arrival{Local: r.Local, From: r.From}
	}
	return in
}

// text is one of this peer's own addresses as a token has it.
func (o *Overlay) text(a netip.AddrPort) string {
	return p2p.QUIC(a).String() + "/p2p/" + o.self.String()
}

// addrs are this peer's own addresses as a token has them, the best first.
func (o *Overlay) addrs() []string {
	var out []string
	r := o.nat.Own()
	for _, a := range r.Best(r.Len()) {
		out = append(out, o.text(a))
	}
	return out
}

// advertise is what libp2p tells others, so that it ends up in routing tables:
// the addresses that it listens on and the mapped ones, the best of them.
func (o *Overlay) advertise(addrs []ma.Multiaddr) []ma.Multiaddr {
	var listener []netip.AddrPort
	for _, m := range addrs {
		if a, ok := p2p.AddrPort(m); ok {
			listener = append(listener, a)
		}
	}
	var out []ma.Multiaddr
	for _, a := range o.nat.Listed(listener, advertiseMax) {
		out = append(out, p2p.QUIC(a))
	}
	return out
}

// tokenAddrs are up to four ways into the overlay: our own first, then those
// of other servers, one of each; addresses that hardly anybody else has use
// of only where there is nothing else to fill the places with.
func (o *Overlay) tokenAddrs() []string {
	kinds := o.nat.Kinds()
	var out, lonely []string
	for _, a := range o.nat.Own().Best(membership.MaxAddrs) {
		if kinds[a].Lonely() {
			lonely = append(lonely, o.text(a))
		} else {
			out = append(out, o.text(a))
		}
	}
	for _, d := range o.mesh.Members() {
		if len(out) == membership.MaxAddrs {
			break
		}
		if !d.Server {
			continue
		}
		if addrs := o.mesh.Addrs(d.Peer, 1, true); len(addrs) > 0 {
			out = append(out, addrs[0].String()+"/p2p/"+d.ID.String())
		}
	}
	out = append(out, lonely...)
	return out[:min(len(out), membership.MaxAddrs)]
}

// stunServers lists whom to ask for mapped addresses: configured servers
// first, then the connected database servers, which others reach, then the
// other connected members, whose NATs let in what comes from this peer; those
// remembered while nobody is connected. Of each those come first that see most
// of the way: the ones on the internet.
func (o *Overlay) stunServers() []netip.AddrPort {
	var servers, others, remembered nat.Ranking[netip.AddrPort]
	add := func(r *nat.Ranking[netip.AddrPort], m ma.Multiaddr) {
		if a, ok := p2p.AddrPort(m); ok {
			a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			r.Add(a, nat.Of(a.Addr()), a)
		}
	}
	for _, d := range o.mesh.Members() {
		if d.Server {
			add(&servers, d.Remote)
		} else {
			add(&others, d.Remote)
		}
	}
	configured := nat.STUNServers(o.ctx, o.ice)
	o.out.Given(configured...)
	out := slices.Concat(configured, servers.Best(servers.Len()), others.Best(others.Len()))
	if len(out) > 0 {
		return out
	}
	for _, ai := range o.peers.AddrInfos() {
		for _, m := range ai.Addrs {
			add(&remembered, m)
		}
	}
	return remembered.Best(remembered.Len())
}

// candidatesChanged tells establishments that this peer has other candidates
// than before.
func (o *Overlay) candidatesChanged() {
	o.establish.CandidatesChanged()
	o.directory.ContactsChanged()
	o.mesh.Wake()
}
