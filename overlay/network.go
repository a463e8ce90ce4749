package overlay

import (
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/p2p"
)

// NetworkChanged tells that the port's sockets are others than before. It
// returns at once; pipes are challenged from the new addresses, libp2p listens
// on them, and what others know of this peer is put anew.
func (o *Overlay) NetworkChanged() {
	settled := o.establish.NetworkChanging()
	select {
	case o.moved <- settled:
	default:
		settled() // one that nobody has looked at yet is enough
	}
}

// PeerSilent is pipe.Config.Dead. If the fault is this side's, connections to
// members are dead too, or a NAT has forgotten them: asking a question shows
// their other ends where this peer is now. A pipe that was in use is opened
// again, without waiting for the next packet for it.
func (o *Overlay) PeerSilent(pp *pipe.Pipe, wanted bool) {
	o.mesh.SuspectAllNowAndThen()
	if wanted {
		o.establish.Reopen(pp.Peer())
	}
}

// followNetwork does what NetworkChanged asks for.
func (o *Overlay) followNetwork() {
	have := map[*socket.Conn]bool{}
	for _, c := range o.listening {
		have[c] = true
	}
	for {
		var settled func()
		select {
		case <-o.ctx.Done():
			return
		case settled = <-o.moved:
		}
		now := map[*socket.Conn]bool{}
		dead := map[string]bool{} // addresses
		var added, gone []ma.Multiaddr
		var were []*pipe.Pipe
		for _, pp := range o.pipes.Pipes() {
			if pp.Err() == nil {
				were = append(were, pp)
			}
		}
		for _, c := range o.cfg.Socket.Conns() {
			now[c] = true
			if !have[c] {
				added = append(added, p2p.QUIC(c.LocalAddr()))
				o.pipes.AddLocal(c)
			}
		}
		for c := range have {
			if !now[c] {
				gone = append(gone, p2p.QUIC(c.LocalAddr()))
				dead[c.LocalAddr().String()] = true
				o.pipes.RemoveLocal(c)
			}
		}
		have = now
		o.pipes.Doubt()
		o.mesh.HangUp(dead)
		o.mesh.ForgetReached(dead)
		if sw, ok := o.host.Network().(*swarm.Swarm); ok && len(gone) > 0 {
			sw.ListenClose(gone...)
		}
		for _, a := range added {
			if err := o.host.Network().Listen(a); err != nil {
				o.log.Warn("listening on a new address", "addr", a, "err", err)
			}
		}
		o.nat.NetworkChanged()
		o.flows.NetworkChanged()
		o.mesh.SuspectAll()
		if !o.spawn(func() { o.settle(were, settled) }) {
			return
		}
		o.directory.Changed()
		o.mesh.Wake()
	}
}

// Members returns the IDs of the members that this peer is connected to or
// has resolved or met, in no order.
func (o *Overlay) Members() []peerid.ID {
	seen := map[peerid.ID]bool{}
	for _, d := range o.mesh.Members() {
		seen[d.ID] = true
	}
	var out []peerid.ID
	for id := range seen {
		out = append(out, id)
	}
	return out
}

// NameOf returns the full name that a peer's certificate or record gives it,
// "" if none is known.
func (o *Overlay) NameOf(id peerid.ID) string {
	if id == o.self {
		return o.Name()
	}
	m, ok := o.roster.Member(id)
	if !ok {
		return ""
	}
	return o.fullName(m.Label)
}
