package overlay

import (
	"context"

	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/membership"
)

// NetworkChanged tells that the port's sockets are others than before. It
// returns at once; pipes are challenged from the new addresses, libp2p listens
// on them, and what others know of this peer is put anew.
func (o *Overlay) NetworkChanged() {
	o.settling.begin()
	select {
	case o.moved <- struct{}{}:
	default:
		o.settling.end() // one that nobody has looked at yet is enough
	}
}

// PeerSilent is pipe.Config.Dead. If the fault is this side's, connections to
// members are dead too, or a NAT has forgotten them: asking a question shows
// their other ends where this peer is now. A pipe that was in use is opened
// again, without waiting for the next packet for it.
func (o *Overlay) PeerSilent(pp *pipe.Pipe, wanted bool) {
	if o.stale.due() {
		o.stale.checkAll()
	}
	if wanted {
		o.spawn(func() {
			ctx, cancel := context.WithTimeout(o.ctx, connectTimeout)
			defer cancel()
			_, _ = o.connects.connect(ctx, pp.Peer(), false) // else the next packet tries again
		})
	}
}

// followNetwork does what NetworkChanged asks for.
func (o *Overlay) followNetwork() {
	have := map[*socket.Conn]bool{}
	for _, c := range o.listening {
		have[c] = true
	}
	for {
		select {
		case <-o.ctx.Done():
			return
		case <-o.moved:
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
				added = append(added, quicAddr(c.LocalAddr()))
				o.pipes.AddLocal(c)
			}
		}
		for c := range have {
			if !now[c] {
				gone = append(gone, quicAddr(c.LocalAddr()))
				dead[c.LocalAddr().String()] = true
				o.pipes.RemoveLocal(c)
			}
		}
		have = now
		o.pipes.Doubt()
		o.hangUp(dead)
		if sw, ok := o.host.Network().(*swarm.Swarm); ok && len(gone) > 0 {
			sw.ListenClose(gone...)
		}
		for _, a := range added {
			if err := o.host.Network().Listen(a); err != nil {
				o.log.Warn("listening on a new address", "addr", a, "err", err)
			}
		}
		o.turn.moved()
		if o.portmap != nil {
			o.portmap.moved()
		}
		o.nulls.moved()
		o.stale.checkAll()
		if !o.spawn(func() { o.settle(were) }) {
			return
		}
		o.publisher.changed()
		o.wake()
	}
}

// Members returns the IDs of the members that this peer is connected to or
// has resolved or met, in no order.
func (o *Overlay) Members() []peerid.ID {
	seen := map[peerid.ID]bool{}
	for _, d := range o.gate.members() {
		seen[d.id] = true
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
	if m, ok := o.gate.member(toLibp2p(id)); ok {
		return o.fullName(m.Label)
	}
	o.names.mu.Lock()
	m := o.names.members[id]
	o.names.mu.Unlock()
	if m == nil || m.Label == membership.AnyLabel {
		return ""
	}
	return o.fullName(m.Label)
}
