package idloc

import (
	"net/netip"
	"slices"
	"time"
)

// Status is a snapshot of a node: a plain value that encodes to JSON.
// Durations are in nanoseconds there. Fields may be added.
type Status struct {
	Self  SelfStatus   `json:"self"`
	Peers []PeerStatus `json:"peers"` // whom this node knows through a pipe, an LSI or the overlay; by name
	// Drops counts datagrams and packets that this node dropped, by layer
	// and reason ("socket: …", "stun: …", "hearsay: …", "pipe: …",
	// "shim: …", "netstack: …"). What a peer's pipe dropped is with that peer; "pipe: …"
	// is what belongs to none.
	Drops map[string]uint64 `json:"drops,omitempty"`
}

// SelfStatus is the node's own part of Status.
type SelfStatus struct {
	Peer
	Domain    string           `json:"domain"`
	DNS       netip.Addr       `json:"dns"`                    // this node's DNS server, port 53; only this node reaches it, by Dial, and with a TUN device its host
	TUN       string           `json:"tun,omitempty"`          // name of the TUN device, if Config.TUN asked for one
	Port      uint16           `json:"port"`                   // the one UDP port
	Addrs     []netip.AddrPort `json:"addrs"`                  // local real addresses
	Mapped    []netip.AddrPort `json:"mapped,omitzero"`        // as STUN saw them from outside
	NAT64     netip.Prefix     `json:"nat64,omitzero"`         // by which IPv4 addresses are reached, on a host with IPv6 only
	NAT       string           `json:"nat,omitempty"`          // RFC 4787: "none", "translated" (one port was asked), "endpoint-independent", "endpoint-dependent"
	Founder   bool             `json:"founder,omitzero"`       // it has the key that the overlay was founded with; Authority says whether that still rules
	Authority bool             `json:"authority,omitzero"`     // with others it rules the overlay: Authorities
	Proposals []Proposal       `json:"proposals,omitempty"`    // what waits for authorities
	Server    bool             `json:"server,omitzero"`        // serves the database (else only asks it)
	Conns     int              `json:"conns"`                  // conns and listeners that are open, in the process's own TCP/IP
	Endpoints int              `json:"endpoints"`              // TCP endpoints there: those of these, and of connections that wait for Accept, close or are in TIME-WAIT
	Alone     bool             `json:"alone,omitzero"`         // members are known, and none is connected: the node goes on trying
	AloneWhy  string           `json:"alone_why,omitempty"`    // whom it tried last, and why each was not reached
	Clocks    int              `json:"clocks,omitzero"`        // how many members have told what time they have
	ClockOff  time.Duration    `json:"clock_off,omitempty"`    // how far this machine's clock is ahead of those of the members it has met, in whole seconds (the median; negative: behind)
	Members   int              `json:"members"`                // members connected on the peer protocol
	Servers   int              `json:"servers"`                // of those, how many serve the database
	Routing   int              `json:"routing_table"`          // servers in the Kademlia routing table
	Records   int              `json:"records,omitempty"`      // database records that this node keeps for the overlay
	Revoked   uint64           `json:"revocation_seq"`         // sequence number of the revocation list in force
	RevokedAt time.Time        `json:"revoked_as_of,omitzero"` // as of when it is known who was revoked: an authority or a delegate has said then that there is no newer list
	Reached   bool             `json:"reached"`                // a member connected to this node unasked: it can be reached from where that member is
	ReachedBy ReachStatus      `json:"reached_by,omitzero"`    // how, if so
	DialBack  DialBackStatus   `json:"dial_back,omitzero"`     // the newest try of another member to connect to this node, which asks for it while nobody has come unasked
	UDP       string           `json:"udp,omitempty"`          // "works", "silent" (nothing comes back), "unsent" (this system sends nothing); "": nobody is known to send to
	Carried   int              `json:"carried,omitzero"`       // members connected over carriers (TCP) only
	CarriedBy []string         `json:"carried_by,omitempty"`   // the carriers that this node has opened to them
	Carriers  int              `json:"carriers,omitzero"`      // that other nodes have opened to this one
	Probes    []ProbeStatus    `json:"probes,omitzero"`        // whom the node has sent to over UDP to find out about its network, the newest time each
	NotAfter  time.Time        `json:"not_after,omitzero"`     // end of the membership certificate
	Confirmed bool             `json:"confirmed,omitzero"`     // by an authority or a delegate
	Relay     RelayStatus      `json:"relay,omitzero"`         // what this node forwards for others
	Ported    PortMapping      `json:"port_mapping,omitzero"`  // what the router before this node was asked for
	Warnings  []string         `json:"warnings,omitempty"`     // what Config says and is probably not meant, and what goes wrong for long: a disk, who was revoked not heard of, no authority heard of; the log has each at Warn
	TURN      []TURNStatus     `json:"turn,omitzero"`          // one for each TURN server of Config.ICEServers
}

// ProbeStatus is what came of sending to one address over UDP: a STUN question
// about the port's own address, or a connection of the peer protocol that
// failed.
type ProbeStatus struct {
	Addr  netip.AddrPort `json:"addr"`            // a member's, or a server's of Config.ICEServers
	By    string         `json:"by"`              // "STUN", "QUIC"
	Local netip.AddrPort `json:"local,omitzero"`  // STUN: from which local address
	Heard bool           `json:"heard"`           // something came back
	Seen  netip.AddrPort `json:"seen,omitzero"`   // STUN: where it came from, as seen there; another address than Local is a NAT's
	RTT   time.Duration  `json:"rtt,omitempty"`   // STUN: until the answer
	At    time.Time      `json:"at"`              // when the answer came, or was not waited for any more
	Error string         `json:"error,omitempty"` // what went wrong, if it was not silence
}

// ReachStatus is how a member connected to this node that the node had never
// sent anything to.
type ReachStatus struct {
	From  netip.AddrPort `json:"from"`  // the member's real address
	Local netip.AddrPort `json:"local"` // where it came to
	At    time.Time      `json:"at"`
}

// DialBackStatus is what came of asking a member to have others connect to this
// node, as strangers to its NAT and firewall.
type DialBackStatus struct {
	At     time.Time `json:"at"`
	Result string    `json:"result"` // "reached", "in vain", "nobody to try", "no answer"
}

// PortMapping is what the router before this node, asked by PCP, NAT-PMP or UPnP,
// leads to the node's port. Nothing is asked where the node's address is no
// private one, or on a simulated network.
type PortMapping struct {
	Protocol string         `json:"protocol,omitempty"` // "PCP", "NAT-PMP", "UPnP"
	Addr     netip.AddrPort `json:"addr,omitzero"`      // outer address; none: there is no mapping
	Error    string         `json:"error,omitempty"`    // why not
}

// TURNStatus is what one TURN server lends this node.
type TURNStatus struct {
	Server string         `json:"server"`          // URL without credentials
	Addr   netip.AddrPort `json:"addr,omitzero"`   // where peers reach this node through it; none: not now
	Error  string         `json:"error,omitempty"` // why not
}

// RelayStatus counts what a node forwards between two other members.
type RelayStatus struct {
	Bindings  int    `json:"bindings"`   // pairs of members, now
	Packets   uint64 `json:"packets"`    // forwarded
	Bytes     uint64 `json:"bytes"`      // of these, without the hops' headers
	OverQuota uint64 `json:"over_quota"` // packets dropped because their member had used up its share
}

// PeerStatus is what the node knows of one other peer.
type PeerStatus struct {
	Peer
	// Invitation is by which one the peer came, as Invitations names them; "" is none, or
	// not known. Delegate is below whom it is a member; "" is an authority.
	Invitation    string        `json:"invitation,omitempty"`
	Delegate      string        `json:"delegate,omitempty"`
	Connected     bool          `json:"connected"`               // a pipe is up
	Session       string        `json:"session,omitempty"`       // ID of the session in use, equal on both sides
	Encapsulation string        `json:"encapsulation,omitempty"` // "outer-UDP", "null"
	AEAD          string        `json:"aead,omitempty"`
	Paths         []PathStatus  `json:"paths,omitempty"`
	Contact       ContactStatus `json:"contact,omitzero"` // on the peer protocol, beside any pipe
	RTT           time.Duration `json:"rtt,omitempty"`    // of the path in use, smoothed
	MTU           int           `json:"mtu,omitempty"`    // largest UDP payload sent to the peer, bytes
	Handshake     time.Time     `json:"handshake,omitzero"`
	Rekeys        uint64        `json:"rekeys,omitempty"`

	BytesSent       uint64            `json:"bytes_sent,omitempty"` // datagram bytes of the pipe
	BytesReceived   uint64            `json:"bytes_received,omitempty"`
	PacketsSent     uint64            `json:"packets_sent,omitempty"`
	PacketsReceived uint64            `json:"packets_received,omitempty"`
	Lost            uint64            `json:"lost,omitempty"`  // datagrams of the peer that have not come, since the last rekey
	Drops           map[string]uint64 `json:"drops,omitempty"` // by reason

	Repair RepairStatus `json:"repair,omitzero"` // of what the path loses

	Flows []FlowStatus `json:"flows,omitempty"` // those with null encapsulation; all others go through the pipe

	LastError string `json:"last_error,omitempty"` // of the newest attempt that failed
}

// RepairStatus says how a pipe makes good what its path loses (Config.Repair).
type RepairStatus struct {
	On       bool          `json:"on"`                  // TCP to the peer is repaired
	State    string        `json:"state"`               // idle, asking, on, leaving or off; with on also what the congestion control does
	Rate     float64       `json:"rate,omitempty"`      // bit/s at which data leaves when there is enough of it
	RTT      time.Duration `json:"rtt,omitempty"`       // the shortest of late
	Smoothed time.Duration `json:"smoothed,omitempty"`  // round trip
	InFlight int           `json:"in_flight,omitempty"` // bytes sent and neither acknowledged nor lost
	Window   int           `json:"window,omitempty"`    // bytes that may be in flight
	Kept     int           `json:"kept,omitempty"`      // bytes of memory in use for it
	Sent     uint64        `json:"sent,omitempty"`      // packets since the pipe began, copies included
	Repaired uint64        `json:"repaired,omitempty"`  // copies
	Late     uint64        `json:"late,omitempty"`      // copies of what had only been late
	Probes   uint64        `json:"probes,omitempty"`    // questions after what nobody had acknowledged
	Refused  uint64        `json:"refused,omitempty"`   // packets that there was no room to keep

	Datagrams uint64 `json:"datagrams,omitempty"` // of what was sent, UDP, which is not repaired
	Marked    uint64 `json:"marked,omitempty"`    // datagrams that routers have marked instead of dropping others (RFC 3168)
	Shed      uint64 `json:"shed,omitempty"`      // UDP that waited behind too much of its kind
}

// ContactStatus is a connection on the peer protocol, over which members ask each
// other for names and the way to others.
type ContactStatus struct {
	Addr    netip.AddrPort `json:"addr,omitzero"`     // real address of the member, as seen from here
	Carrier string         `json:"carrier,omitempty"` // in place of Addr: the carrier that leads there, or where the member's was opened from
	RTT     time.Duration  `json:"rtt,omitempty"`     // smoothed; 0 if not measured yet
	Server  bool           `json:"server,omitzero"`   // it serves the database
}

// FlowStatus is a flow that does not go through the pipe.
type FlowStatus struct {
	Network       string         `json:"network"`              // "tcp" or "udp"
	Local         netip.AddrPort `json:"local"`                // LSIs, as the conn has them
	Remote        netip.AddrPort `json:"remote"`               //
	Encapsulation string         `json:"encapsulation"`        // "null"
	TLS           bool           `json:"tls,omitempty"`        // under TLS 1.3 (NullTLS)
	RealLocal     netip.AddrPort `json:"real_local,omitzero"`  // what it travels between now
	RealRemote    netip.AddrPort `json:"real_remote,omitzero"` //
	Moved         int            `json:"moved,omitempty"`      // how often it got other real addresses
}

// sortPeers orders by name, then by ID, so that two snapshots compare.
func sortPeers(ps []PeerStatus) {
	slices.SortFunc(ps, func(a, b PeerStatus) int {
		if c := compareText(a.Name, b.Name); c != 0 {
			return c
		}
		return a.ID.Compare(b.ID)
	})
}

// compareText orders nameless peers last.
func compareText(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == "":
		return 1
	case b == "":
		return -1
	case a < b:
		return -1
	}
	return 1
}
