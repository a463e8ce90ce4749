package overlay

import (
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/membership"
)

// The relay of last resort (DESIGN §8, §14.4): members whose invitation lets them
// forward for others.

// RelayFor says whether this peer forwards between two members, and to whom
// from's traffic is charged: its invitation. It is pipe.Config.Relay.
func (o *Overlay) RelayFor(from, to peerid.ID) (account string, ok bool) {
	if me := o.Member(); !o.relays() || me == nil || !me.Roles.Has(membership.RoleRelay) {
		return "", false
	}
	m, ok := o.roster.Member(from)
	if !ok {
		return "", false
	}
	return string(m.Invitation[:]), true
}

// relays says whether this peer forwards for others at all: not if it hides its
// addresses, since those whom it relays for would have to know them.
func (o *Overlay) relays() bool { return !o.cfg.NoRelay && o.cfg.Paths != PathRelayOnly }

// mayRelay are the members whose invitation lets them relay, but those that have
// refused: those connected, and others that have shown their membership.
func (o *Overlay) mayRelay() []establish.Relay {
	var out []establish.Relay
	refused := map[peerid.ID]bool{}
	for _, d := range o.mesh.Members() {
		if refused[d.ID] = d.NoRelay; !d.NoRelay && d.Member.Roles.Has(membership.RoleRelay) {
			out = append(out, establish.Relay{Peer: d.ID, Connected: true, Server: d.Server})
		}
	}
	for _, m := range o.roster.Members() {
		if m.Roles.Has(membership.RoleRelay) && !refused[m.Peer] {
			out = append(out, establish.Relay{Peer: m.Peer})
		}
	}
	return out
}
