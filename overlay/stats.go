package overlay

import (
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats is what an Overlay tells of its own part. A snapshot.
type Stats struct {
	Members      int              // connected through the gate
	Servers      int              // of those, how many keep a part of the database
	RoutingTable int              // servers in the Kademlia routing table
	Records      int              // records that this peer keeps for the overlay
	Revocations  uint64           // sequence number of the revocation list in force
	Reached      bool             // a member has connected to this peer unasked: it is reachable from outside
	NAT          string           // before the port: "none", "translated", "endpoint-independent", "endpoint-dependent"; "" is not known
	Mapped       []netip.AddrPort // addresses of the port as servers saw them, where they differ from its own
	PortMapping  PortMapping      // what the router was asked for
	TURN         []TURNStatus     // one for each TURN server of Config.ICEServers, unless the paths are PathDirectOnly
}

// Stats may be called at any time from any goroutine.
func (o *Overlay) Stats() Stats {
	s := Stats{
		Members:      len(o.gate.members()),
		Servers:      len(o.db.servers()),
		RoutingTable: o.db.kad.RoutingTable().Size(),
		Revocations:  o.revoked.Load().Seq(),
		Reached:      o.gate.wasReached(),
		NAT:          o.mapped.nat(),
		TURN:         o.turn.status(),
	}
	if o.portmap != nil {
		s.PortMapping = o.portmap.status()
	}
	if o.db.isServer() {
		s.Records = len(o.db.records(o.ctx))
	}
	for _, c := range o.cfg.Socket.Conns() {
		for _, a := range o.mapped.of(c) {
			if !slices.Contains(s.Mapped, a) {
				s.Mapped = append(s.Mapped, a)
			}
		}
	}
	return s
}

// Drops counts, by reason, the STUN messages that drew no answer and went
// nowhere. It may be called at any time from any goroutine.
func (o *Overlay) Drops() map[string]uint64 { return o.demux.drops() }

// Metrics gathers libp2p's own metrics. libp2p keeps them for the process:
// several nodes in one process share their numbers.
func (o *Overlay) Metrics() prometheus.Gatherer { return o.metrics }
