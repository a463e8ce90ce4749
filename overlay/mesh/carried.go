package mesh

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/p2p"
	"github.com/idloc/idloc/overlay/quictransport"
)

// Carriers (package carrier) are for networks that let no UDP out: a dial tries a
// member's UDP addresses first, and its carriers carrierAfter later, or at once where
// nothing comes back over UDP or there is no UDP address. Whoever has dialled one goes
// on trying UDP (uncarry), and lets the carrier go when that works.

// carriersMax bounds the carriers that are tried to one member.
const carriersMax = 4

// carrierDialer is a carrier.Set as libp2p's transport wants it.
type carrierDialer struct {
	set    *carrier.Set // nil: there are no carriers
	silent func() bool
}

var _ quictransport.Carriers = carrierDialer{}

// At implements quictransport.Carriers.
func (d carrierDialer) At(m ma.Multiaddr) (netip.AddrPort, bool) {
	a, ok := p2p.CarrierAddress(m)
	return a.Remote(), ok
}

// Connect implements quictransport.Carriers.
func (d carrierDialer) Connect(ctx context.Context, m ma.Multiaddr) error {
	a, ok := p2p.CarrierAddress(m)
	if !ok {
		return errors.New("not the address of a carrier")
	}
	return d.set.Connect(ctx, a)
}

// rank says which addresses of a peer are dialled when.
func (d carrierDialer) rank(addrs []ma.Multiaddr) []network.AddrDelay {
	out := make([]network.AddrDelay, 0, len(addrs))
	var carried []ma.Multiaddr
	for _, m := range addrs {
		if p2p.Carried(m) {
			carried = append(carried, m)
		} else {
			out = append(out, network.AddrDelay{Addr: m})
		}
	}
	after := carrierAfter
	if len(out) == 0 || d.silent != nil && d.silent() {
		after = 0
	}
	for _, m := range carried {
		out = append(out, network.AddrDelay{Addr: m, Delay: after})
	}
	return out
}

// Carriers are the far ends of carriers that lead to a member: those that it has opened
// to this peer, and those that it or others say it serves.
func (m *Mesh) Carriers(id peerid.ID) []netip.AddrPort {
	if m.cfg.Carriers == nil {
		return nil
	}
	p := p2p.ID(id)
	var out []netip.AddrPort
	for _, c := range m.host.Network().ConnsToPeer(p) {
		if at, ok := p2p.FarEnd(c.RemoteMultiaddr()); ok && carrier.Prefix.Contains(at.Addr()) {
			out = append(out, at)
		}
	}
	addrs := m.host.Peerstore().Addrs(p)
	if len(addrs) == 0 {
		addrs = m.known.Addrs(id)
	}
	for _, a := range addrs {
		if a, ok := p2p.CarrierAddress(a); ok && len(out) < carriersMax {
			m.cfg.Carriers.Know(a)
			out = append(out, a.Remote())
		}
	}
	return out
}

// pipeCarried is called when a pipe has moved to a carrier, which shows that the peer
// lives, and is not reached by UDP. So connections by UDP on which nothing comes back
// need not be waited for as long as others, and one by a carrier is made in their place: it is
// wanted for the offers of all pipes that have lost their paths.
func (m *Mesh) pipeCarried(id peerid.ID) {
	m.udpFailed.Store(time.Now().UnixNano())
	p := p2p.ID(id)
	m.Go(func() {
		if m.dropSilent(p) {
			m.recarry(p)
		}
	})
}

// dropSilent closes connections by UDP to a peer that is asked a question and from which
// nothing comes back, and says whether none is left.
func (m *Mesh) dropSilent(p peer.ID) (none bool) {
	ctx, cancel := context.WithTimeout(m.ctx, suspectMin)
	defer cancel()
	asked := make(chan struct{})
	m.Go(func() { defer close(asked); _ = m.suspects.ask(ctx, p) }) // has something sent
	defer func() { cancel(); <-asked }()
	before := map[network.Conn]uint64{}
	patience := carriedSilence
	for _, l := range m.linksTo(p) {
		if q := l.(*quicLink); !p2p.Carried(q.c.RemoteMultiaddr()) {
			before[q.c] = q.received()
			patience = max(patience, 3*q.probeTimeout())
		}
	}
	for tick := time.Duration(0); tick < patience; tick += suspectTick { // counted as in awaitSilence
		if !pause.For(ctx, suspectTick) {
			return false
		}
	}
	none = true
	for _, l := range m.linksTo(p) {
		q := l.(*quicLink)
		was, known := before[q.c]
		switch {
		case p2p.Carried(q.c.RemoteMultiaddr()):
		case known && q.received() == was:
			q.close()
		default:
			none = false
		}
	}
	return none
}

// recarry connects to a peer that serves carriers.
func (m *Mesh) recarry(p peer.ID) {
	id, err := p2p.PeerID(p)
	if err != nil || m.carriedOnly(p) || len(m.Carriers(id)) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, DialTimeout)
	defer cancel()
	if err := m.try(ctx, peer.AddrInfo{ID: p, Addrs: m.known.Addrs(id)}); err != nil {
		m.cfg.Log.Debug("no connection by a carrier", "peer", p, "err", err)
	}
}

// udpSilent says whether carriers need not wait for UDP: nothing comes back over it, or
// did of late in this network, or a pipe has just had to do without.
func (m *Mesh) udpSilent() bool {
	return time.Since(time.Unix(0, m.udpFailed.Load())) < uncarryEvery || m.cfg.UDPSilent != nil && m.cfg.UDPSilent() ||
		m.cfg.Network != nil && m.blocked.Here(m.cfg.Network())
}

// noteBlocked remembers what UDP does in this network: that members are reached by it, or
// by carriers only while nothing comes back over it.
func (m *Mesh) noteBlocked() {
	if m.cfg.Network == nil {
		return
	}
	carried, _ := m.CarriedMembers()
	switch {
	case len(m.Members()) > carried:
		m.blocked.Note(m.cfg.Network(), false)
	case carried > 0 && m.cfg.UDPSilent():
		m.blocked.Note(m.cfg.Network(), true)
	}
}

// CarriedMembers are how many members this peer is connected to by carriers only, and
// by which it has opened.
func (m *Mesh) CarriedMembers() (n int, by []string) {
	for _, nb := range m.Members() {
		if !m.carriedOnly(nb.Peer) {
			continue
		}
		n++
		if a, ok := p2p.CarrierAddress(nb.Remote); ok {
			by = append(by, a.String())
		}
	}
	return n, by
}

// carriedOnly says whether a member is connected, and by carriers only.
func (m *Mesh) carriedOnly(p peer.ID) bool {
	conns := m.host.Network().ConnsToPeer(p)
	for _, c := range conns {
		if !p2p.Carried(c.RemoteMultiaddr()) {
			return false
		}
	}
	return len(conns) > 0
}

// uncarry tries, until the mesh ends, to reach by UDP whom this peer has reached by a
// carrier, and closes what went over carriers when that has gone well for a while.
func (m *Mesh) uncarry() {
	for ; pause.For(m.ctx, uncarryEvery); m.noteBlocked() {
		for _, n := range m.Members() {
			var carried []network.Conn
			for _, c := range m.host.Network().ConnsToPeer(n.Peer) {
				if p2p.Carried(c.RemoteMultiaddr()) && c.Stat().Direction == network.DirOutbound {
					carried = append(carried, c)
				}
			}
			if len(carried) == 0 {
				continue
			}
			if m.carriedOnly(n.Peer) {
				m.tryUDP(n.Peer)
				continue
			}
			for _, c := range carried {
				if time.Since(c.Stat().Opened) > uncarryEvery {
					_ = c.Close() // the one by UDP has stood for a round
				}
			}
		}
	}
}

// tryUDP makes a connection by UDP beside one by a carrier, if it can.
func (m *Mesh) tryUDP(p peer.ID) {
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(m.ctx, "it is reached by a carrier only"), DialTimeout)
	defer cancel()
	m.ClearBackoff([]peer.AddrInfo{{ID: p}})
	if _, err := m.host.Network().DialPeer(ctx, p); err != nil {
		m.cfg.Log.Debug("still not reached by UDP", "peer", p, "err", err)
	}
}
