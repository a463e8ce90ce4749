package overlay

import (
	"net/netip"
	"slices"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/socket"
)

// HandleSTUN takes what the shared port received with a first byte of 0–3; b
// is borrowed. It is called on the socket's read goroutine.
func (o *Overlay) HandleSTUN(c *socket.Conn, from netip.AddrPort, b []byte) {
	o.demux.handle(c, from, b)
}

// outer are the addresses at which c is reached from outside: the one that
// the router was asked for, and those that servers have seen.
func (o *Overlay) outer(c *socket.Conn) []netip.AddrPort {
	out := o.mapped.of(c)
	if o.portmap != nil {
		if a, ok := o.portmap.of(c); ok && !slices.Contains(out, a) {
			out = append([]netip.AddrPort{a}, out...)
		}
	}
	return out
}

// advertise adds the measured mapped addresses to those that libp2p tells
// others, so that they end up in routing tables.
func (o *Overlay) advertise(addrs []ma.Multiaddr) []ma.Multiaddr {
	out := slices.Clone(addrs)
	for _, c := range o.cfg.Socket.Conns() {
		for _, a := range o.outer(c) {
			out = append(out, quicAddr(a))
		}
	}
	return out
}

// addrs are this peer's own QUIC addresses with its ID, for a token.
func (o *Overlay) addrs() []string {
	var out []string
	suffix := "/p2p/" + o.self.String()
	for _, m := range o.host.Addrs() {
		out = append(out, m.String()+suffix)
	}
	return out
}

// stunServers lists whom to ask for mapped addresses: configured servers
// first, then the connected database servers, which others reach; those
// remembered while nobody is connected.
func (o *Overlay) stunServers() []netip.AddrPort {
	out := stunServersOf(o.ctx, o.ice)
	for _, d := range o.gate.members() {
		if !o.db.speaks(d) {
			continue
		}
		if a, ok := addrPort(d.remote); ok {
			out = append(out, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, ai := range o.peers.addrInfos() {
		for _, m := range ai.Addrs {
			if a, ok := addrPort(m); ok {
				out = append(out, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
			}
		}
	}
	return out
}

// candidatesChanged tells establishments that this peer has other candidates
// than before.
func (o *Overlay) candidatesChanged() {
	o.connects.trickle()
	o.publisher.contactChanged()
	o.wake()
}

// newFilter decides which remote candidates are acceptable. Loopback ones
// are, if loopback is all that this node has, or when it was asked for.
func (o *Overlay) newFilter() candidateFilter {
	f := candidateFilter{lsi: o.cfg.LSIPrefixes, loopback: o.cfg.AllowLoopback}
	for _, c := range o.cfg.Socket.Conns() {
		if c.LocalAddr().Addr().IsLoopback() {
			f.loopback = true // listed, or there is nothing else: socket decides
		}
	}
	return f
}
