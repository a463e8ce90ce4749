package idloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/netstack/tun"
)

// ID returns this node's peer ID.
func (n *Node) ID() PeerID { return n.id }

// Name returns this node's name in the overlay, "mars.example.com". It may
// differ from Config.Name: the token or another member may have decided.
func (n *Node) Name() string { return n.ov.Name() }

// LSIs returns the node's own LSIs (draft §4.1). They are where its listeners
// listen; other nodes have other IPv4 LSIs for it.
func (n *Node) LSIs() (v4, v6 netip.Addr) { return n.table.Self() }

// WhoIs tells which member is behind an address that a conn or packet of this
// node came from: a *net.TCPAddr or *net.UDPAddr with an LSI, or any other
// net.Addr whose text is one. The answer is authenticated: packets with that
// source leave the pipe of that member only.
func (n *Node) WhoIs(addr net.Addr) (Peer, error) {
	a, err := addrOf(addr)
	if err != nil {
		return Peer{}, err
	}
	id, ok := n.table.Peer(a)
	if !ok {
		return Peer{}, &net.AddrError{Err: "not an LSI of this node", Addr: a.String()}
	}
	return n.peer(id), nil
}

// WhoIsString is WhoIs for an address as text, with a port or without: http.Request's
// RemoteAddr, for one.
func (n *Node) WhoIsString(remoteAddr string) (Peer, error) {
	return n.WhoIs(textAddr{"tcp", remoteAddr})
}

// peer gathers what this node knows of id.
func (n *Node) peer(id PeerID) Peer {
	p := Peer{ID: id}
	if id == n.id {
		p.Name = n.Name()
		p.LSI4, p.LSI6 = n.table.Self()
		p.Tags = n.tagsOf(id)
		return p
	}
	p.Name, p.Tags = n.ov.NameOf(id), n.tagsOf(id)
	p.LSI4, p.LSI6, _ = n.table.Of(id)
	return p
}

func addrOf(addr net.Addr) (netip.Addr, error) {
	switch a := addr.(type) {
	case nil:
		return netip.Addr{}, &net.AddrError{Err: "no address"}
	case dialedAddr:
		return addrOf(a.Addr)
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap(), nil
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap(), nil
	case *net.IPAddr:
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip.Unmap(), nil
	}
	if ap, err := netip.ParseAddrPort(addr.String()); err == nil {
		return ap.Addr().Unmap(), nil
	}
	ip, err := netip.ParseAddr(addr.String())
	if err != nil {
		return netip.Addr{}, &net.AddrError{Err: "not an IP address", Addr: addr.String()}
	}
	return ip.Unmap(), nil
}

// Ping measures the round trip to a member inside the pipe, opening it if
// need be. name is what Dial takes as host. The first Ping of a peer includes
// no set-up time in RTT.
func (n *Node) Ping(ctx context.Context, name string) (PingResult, error) {
	if err := n.alive(); err != nil {
		return PingResult{}, err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	t, err := n.lookup(ctx, name, 0)
	if err != nil {
		return PingResult{}, n.ended(err)
	}
	if t.peer == n.id {
		return PingResult{Peer: n.peer(n.id), Path: PathStatus{Kind: "direct", Active: true}}, nil
	}
	p, err := n.ov.Connect(ctx, t.peer)
	if err != nil {
		return PingResult{}, n.ended(fmt.Errorf("ping %s: %w", name, n.stageOf(t, err)))
	}
	rtt, path, err := p.Ping(ctx)
	if errors.Is(err, pipe.ErrDead) { // the pipe was of a former run of the peer: make one
		if p, err = n.ov.Connect(ctx, t.peer); err != nil {
			return PingResult{}, n.ended(fmt.Errorf("ping %s: %w", name, n.stageOf(t, err)))
		}
		rtt, path, err = p.Ping(ctx)
	}
	if err != nil {
		return PingResult{}, n.ended(fmt.Errorf("ping %s: %w", name, err))
	}
	local, remote := path.Addrs()
	return PingResult{Peer: n.peer(t.peer), RTT: rtt, Path: PathStatus{
		Kind: kindOf(path.Via(), p.TURN(path), path.Carried()), Local: local, Remote: remote, Carrier: n.carrierAt(remote), Via: path.Via(), RTT: rtt, Active: true}}, nil
}

// Status returns a snapshot of the node. It may be called at any time, also
// after Close, and does not slow the data path.
func (n *Node) Status() Status {
	s := Status{Self: n.self(), Drops: n.drops()}
	peers := map[PeerID]*PeerStatus{}
	at := func(id PeerID) *PeerStatus {
		if p, ok := peers[id]; ok {
			return p
		}
		p := &PeerStatus{Peer: n.peer(id)}
		peers[id] = p
		return p
	}
	for _, p := range n.pipes.Load().Pipes() {
		n.fillPipe(at(p.Peer()), p)
	}
	for _, e := range n.table.Entries() {
		at(e.Peer)
	}
	for _, m := range n.ov.Peers() {
		at(m.Peer).Contact = ContactStatus{Addr: m.Remote, Carrier: n.carrierAt(m.FarEnd), RTT: m.RTT, Server: m.Server}
	}
	n.nullFlows(at)
	delete(peers, n.id)
	for id, p := range peers {
		if err := n.shim.LastError(id); err != nil {
			p.LastError = err.Error()
		}
		invitation, delegate := n.ov.Roster().Origin(id)
		p.Invitation = invitation
		if !delegate.IsZero() {
			p.Delegate = cmp.Or(n.peer(delegate).Name, delegate.String())
		}
		s.Peers = append(s.Peers, *p)
	}
	sortPeers(s.Peers)
	return s
}

func (n *Node) fillPipe(s *PeerStatus, p *pipe.Pipe) {
	st := p.Status()
	s.Connected = st.Up
	s.Session = st.Session
	s.Encapsulation = OuterUDP.String()
	s.AEAD, s.RTT, s.MTU = st.AEAD, st.RTT, st.MTU
	s.Handshake, s.Rekeys = st.Handshake, st.Rekeys
	s.BytesSent, s.BytesReceived = st.BytesSent, st.BytesReceived
	s.PacketsSent, s.PacketsReceived = st.PacketsSent, st.PacketsReceived
	s.Lost, s.Drops = st.Lost, st.Drops
	s.Repair = RepairStatus(st.Repair)
	for _, path := range st.Paths {
		s.Paths = append(s.Paths, PathStatus{Kind: kindOf(path.Via, path.TURN, path.Carried), Local: path.Local, Remote: path.Remote, Carrier: n.carrierAt(path.Remote), Via: path.Via, RTT: path.RTT, MTU: path.MTU, Active: path.Active})
	}
	if err := p.Err(); err != nil {
		s.LastError = err.Error()
	}
}

// kindOf is the Kind of a path that leads through a member, zero for none, a TURN server
// or a carrier.
func kindOf(via PeerID, turn, carried bool) string {
	switch {
	case !via.IsZero():
		return "relayed"
	case turn:
		return "turn"
	case carried:
		return "tcp"
	}
	return "direct"
}

// self is the node's own part of Status.
func (n *Node) self() SelfStatus {
	s := SelfStatus{
		Peer: n.peer(n.id), DNS: n.table.Resolver(), Domain: n.ov.Domain(), Port: n.sock.Number(),
		Founder: n.ov.Founder(), Server: n.ov.Server(), Warnings: n.warnings.all(),
	}
	s.Proposals = n.Proposals()
	all, _ := n.Authorities()
	s.Authority = slices.ContainsFunc(all, func(a Authority) bool { return a.Self })
	if h, ok := n.stack.(*tun.Host); ok {
		s.TUN = h.Name()
	}
	for _, c := range n.sock.Conns() {
		if !c.Translated() {
			s.Addrs = append(s.Addrs, c.LocalAddr())
		}
	}
	s.NAT64 = n.sock.NAT64()
	st := n.ov.Stats()
	s.Members, s.Servers, s.Routing, s.Records = st.Members, st.Servers, st.RoutingTable, st.Records
	s.RevokedAt = st.RevokedAsOf
	s.Revoked, s.Reached, s.Mapped, s.NAT, s.UDP = st.Revocations, st.Reached, st.Mapped, st.NAT, st.UDP
	s.ReachedBy, s.DialBack = ReachStatus(st.ReachedBy), DialBackStatus(st.DialBack)
	s.Carried, s.CarriedBy = st.Carried, st.CarriedBy
	if n.carriers != nil {
		for _, c := range n.carriers.Status() {
			if c.Address == "" {
				s.Carriers++
			}
		}
	}
	for _, p := range st.Probes {
		s.Probes = append(s.Probes, ProbeStatus{Addr: p.Addr, By: p.By, Local: p.Local, Heard: p.Heard, Seen: p.Seen, RTT: p.RTT, At: p.At, Error: p.Err})
	}
	inner := n.stack.Stats()
	s.Conns, s.Endpoints = inner.Conns, inner.Endpoints
	s.Alone, s.AloneWhy = n.ov.Alone()
	s.ClockOff, s.Clocks = n.ov.ClockOff()
	s.Relay = RelayStatus(n.pipes.Load().RelayStatus())
	s.Ported = PortMapping{Protocol: st.PortMapping.Protocol, Addr: st.PortMapping.Address}
	if st.PortMapping.Err != nil {
		s.Ported.Error = st.PortMapping.Err.Error()
	}
	for _, t := range st.TURN {
		ts := TURNStatus{Server: t.Server, Addr: t.Address}
		if t.Err != nil {
			ts.Error = t.Err.Error()
		}
		s.TURN = append(s.TURN, ts)
	}
	if m := n.ov.Member(); m != nil {
		s.NotAfter, s.Confirmed = m.NotAfter, m.Confirmed
	}
	return s
}
