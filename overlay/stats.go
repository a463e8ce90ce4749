package overlay

import (
	"net/netip"
	"time"

	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/nat"
)

// Reach is how this peer was reached from elsewhere, unasked. DialBack is what came
// of the newest dial-back that this peer has asked for.
type (
	Reach    = mesh.Reach
	DialBack = mesh.DialBack
)

// The results of a dial-back.
const (
	DialBackReached  = mesh.DialBackReached
	DialBackInVain   = mesh.DialBackInVain
	DialBackNobody   = mesh.DialBackNobody
	DialBackNoAnswer = mesh.DialBackNoAnswer
)

// Stats is what an Overlay tells of its own part. A snapshot.
type Stats struct {
	Members      int              // connected through the gate
	Servers      int              // of those, how many keep a part of the database
	RoutingTable int              // servers in the Kademlia routing table
	Records      int              // records that this peer keeps for the overlay
	Revocations  uint64           // sequence number of the revocation list in force
	RevokedAsOf  time.Time        // as of when it is known who was revoked
	Reached      bool             // a member has connected to this peer unasked
	ReachedBy    Reach            // how, if so
	DialBack     DialBack         // the newest that was asked for
	UDP          string           // nat.UDPWorks, nat.UDPSilent, nat.UDPUnsent; "": nobody was there to send to
	Carried      int              // members connected by carriers only
	CarriedBy    []string         // carriers that this peer has opened to them
	Probes       []nat.Probe      // whom was sent to over UDP, to find out
	NAT          string           // before the port: "none", "translated", "endpoint-independent", "endpoint-dependent"; "" is not known
	Mapped       []netip.AddrPort // addresses of the port as servers saw them, where they differ from its own
	PortMapping  nat.PortMapping  // what the router was asked for
	TURN         []nat.TURNStatus // one for each TURN server of Config.ICEServers, unless the paths are PathDirectOnly
}

// Stats may be called at any time from any goroutine.
func (o *Overlay) Stats() Stats {
	s := Stats{
		Members:     len(o.mesh.Members()),
		Servers:     len(o.directory.Servers()),
		Revocations: o.roster.Revocations().Seq(), RevokedAsOf: o.roster.ListAsOf(),
		Reached:   o.mesh.Reached().Unasked(),
		ReachedBy: o.mesh.Reached(),
		DialBack:  o.mesh.DialledBack(),
	}
	s.Carried, s.CarriedBy = o.mesh.CarriedMembers()
	a := o.nat.Status(s.Members > s.Carried)
	s.UDP, s.NAT, s.Probes, s.Mapped, s.PortMapping, s.TURN = a.UDP, a.Translation, a.Probes, a.Mapped, a.PortMapping, a.TURN
	s.RoutingTable, s.Records = o.directory.Counts()
	return s
}
