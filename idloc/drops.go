package idloc

import (
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/netstack"
	"github.com/idloc/idloc/netstack/tun"
	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/shim"
)

// heldBack is the one reason of package hearsay.
const heldBack = "held back"

// stackDrops are the reasons of TCP and UDP, and where they are counted.
var stackDrops = []struct {
	reason string
	count  func(*netstack.Stats) uint64
}{
	{"refused by Admit", func(s *netstack.Stats) uint64 { return s.Refused }},
	{"beyond a peer's share of TCP", func(s *netstack.Stats) uint64 { return s.Limited }},
	{"beyond a peer's unread TCP", func(s *netstack.Stats) uint64 { return s.Unread }},
	{"UDP receive buffer full", func(s *netstack.Stats) uint64 { return s.DatagramsMissed }},
}

// drop is one counter of what was dropped.
type drop struct{ layer, reason string }

// key is its name in Status.Drops.
func (d drop) key() string { return d.layer + ": " + d.reason }

// allDrops are all counters of what was dropped, RUNBOOK.md says what each means.
var allDrops = func() (all []drop) {
	for _, l := range []struct {
		layer   string
		reasons []string
	}{
		{"socket", socket.DropReasons()}, {"stun", overlay.DropReasons()}, {"hearsay", []string{heldBack}},
		{"pipe", pipe.DropReasons()}, {"shim", shim.DropReasons()}, {"tun", tun.DropReasons()},
	} {
		for _, reason := range l.reasons {
			all = append(all, drop{l.layer, reason})
		}
	}
	for _, s := range stackDrops {
		all = append(all, drop{"netstack", s.reason})
	}
	return all
}()

// drops gathers the layers' counters of what was dropped, zeros left out.
func (n *Node) drops() map[string]uint64 {
	d := map[string]uint64{}
	note := func(layer string, counts map[string]uint64) {
		for reason, count := range counts {
			d[drop{layer, reason}.key()] = count
		}
	}
	note("socket", n.sock.Stats().Dropped)
	note("stun", n.ov.Drops())
	note("pipe", n.pipes.Load().Drops())
	note("shim", n.shim.Stats().Drops)
	if count := n.ov.Held(); count > 0 {
		note("hearsay", map[string]uint64{heldBack: count})
	}
	if h, ok := n.stack.(*tun.Host); ok {
		note("tun", h.Drops())
	}
	st := n.stack.Stats()
	for _, s := range stackDrops {
		if count := s.count(&st); count > 0 {
			d[drop{"netstack", s.reason}.key()] = count
		}
	}
	return d
}
