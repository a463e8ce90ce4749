package establish

import (
	"slices"
	"testing"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/p2p"
)

// TestRelaysJoined: both sides' relays, each once, without the two ends.
func TestRelaysJoined(t *testing.T) {
	c := &Establisher{cfg: Config{Self: peerid.ID{1}}}
	e := &establishment{c: c, peer: peerid.ID{2}}
	a, b, d := peerid.ID{3}, peerid.ID{4}, peerid.ID{5}
	if got := e.joinRelays([]peerid.ID{a, b}, []peerid.ID{b, c.cfg.Self, d, e.peer}); !slices.Equal(got, []peerid.ID{a, b, d}) {
		t.Errorf("%v", got)
	}
	if got := e.joinRelays(nil, nil); got != nil {
		t.Errorf("%v", got)
	}
	c.cfg.Policy = DirectOnly
	if got := e.joinRelays([]peerid.ID{a}, []peerid.ID{b}); got != nil {
		t.Errorf("direct only: %v", got)
	}
}

// TestNamedRelays: connected servers before other connected members, those before
// others; of equal ones those nearest this peer.
func TestNamedRelays(t *testing.T) {
	self, target := peerid.ID{1}, peerid.ID{2}
	near := []peerid.ID{{3}, {4}, {5}, {6}}
	slices.SortFunc(near, func(a, b peerid.ID) int { return p2p.Compare(a, b, self) })
	for _, tt := range []struct {
		desc   string
		relays []Relay
		want   []peerid.ID
	}{
		{"none", nil, nil},
		{"the two ends", []Relay{{self, true, true}, {target, true, true}}, nil},
		{"servers first", []Relay{{near[0], false, false}, {near[1], true, false}, {near[2], true, true}}, []peerid.ID{near[2], near[1]}},
		{"connected before known", []Relay{{near[0], false, false}, {near[3], true, false}}, []peerid.ID{near[3], near[0]}},
		{"a server that is not connected is as any", []Relay{{near[1], false, true}, {near[0], false, false}}, []peerid.ID{near[0], near[1]}},
		{"nearest first, and no more than fit", []Relay{{near[3], true, true}, {near[1], true, true}, {near[2], true, true}}, []peerid.ID{near[1], near[2]}},
		{"twice", []Relay{{near[0], false, false}, {near[1], true, false}, {near[1], false, false}}, []peerid.ID{near[1], near[0]}},
	} {
		c := &Establisher{cfg: Config{Self: self, Relays: func() []Relay { return slices.Clone(tt.relays) }}}
		got := c.nameRelays(target)
		if !slices.Equal(got, tt.want) || len(got) > wire.MaxRelays {
			t.Errorf("%s: %v, want %v", tt.desc, got, tt.want)
		}
		c.cfg.Policy = DirectOnly
		if got := c.nameRelays(target); got != nil {
			t.Errorf("%s: direct only names %v", tt.desc, got)
		}
	}
}
