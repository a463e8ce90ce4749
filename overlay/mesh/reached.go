package mesh

import (
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// Reach is how this peer was reached from elsewhere, unasked.
type Reach struct {
	From  netip.AddrPort // from where; zero: it was not
	Local netip.AddrPort // at which address of its own
	At    time.Time
}

// note takes a connection of a member that this peer has never sent anything
// to. One from outside proves more than one from the same private network.
func (r *Reach) note(c network.Conn) {
	from, _ := p2p.AddrPort(c.RemoteMultiaddr())
	local, _ := p2p.AddrPort(c.LocalMultiaddr())
	if !from.IsValid() {
		return // by a carrier, which does not tell whether UDP gets here
	}
	if r.From.IsValid() && nat.Inside(from.Addr()) && !nat.Inside(r.From.Addr()) {
		return
	}
	*r = Reach{From: from, Local: local, At: time.Now()}
}

// Unasked says whether it was: a member's connection has come in without this
// peer having dialled it before.
func (r Reach) Unasked() bool { return r.From.IsValid() }

// reachedFrom tells how this peer was reached.
func (g *gate) reachedFrom() Reach {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reach
}

// moved forgets that this peer was reached at an address that is gone.
func (g *gate) moved(gone map[string]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gone[g.reach.Local.String()] {
		g.reach = Reach{}
	}
}
