package establish

import (
	"cmp"
	"slices"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/p2p"
)

// Relay is a member that may relay for others (DESIGN §14.4).
type Relay struct {
	Peer      peerid.ID
	Connected bool
	Server    bool // of the database: others reach it
}

// nameRelays are the members that this side names as relays towards a peer:
// connected servers first, then others that are connected; of equal ones those
// nearest this peer's ID, so that members do not all name the same.
func (c *Establisher) nameRelays(target peerid.ID) []peerid.ID {
	if c.cfg.Policy == DirectOnly {
		return nil
	}
	all := slices.DeleteFunc(c.cfg.Relays(), func(r Relay) bool { return r.Peer == target || r.Peer == c.cfg.Self })
	rank := func(r Relay) int {
		switch {
		case r.Connected && r.Server:
			return 0
		case r.Connected:
			return 1
		}
		return 2
	}
	slices.SortFunc(all, func(a, b Relay) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), p2p.Compare(a.Peer, b.Peer, c.cfg.Self))
	})
	var out []peerid.ID
	for _, r := range all {
		if len(out) < wire.MaxRelays && !slices.Contains(out, r.Peer) {
			out = append(out, r.Peer)
		}
	}
	return out
}

// joinRelays joins what the two sides name. A side that names none wants none.
func (e *establishment) joinRelays(mine, theirs []peerid.ID) []peerid.ID {
	if len(mine) == 0 && len(theirs) == 0 || e.c.cfg.Policy == DirectOnly {
		return nil
	}
	out := slices.Clone(mine)
	for _, r := range theirs {
		if r != e.c.cfg.Self && r != e.peer && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}
