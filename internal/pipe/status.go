package pipe

import (
	"net/netip"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// Status is a snapshot of a pipe for people and metrics.
type Status struct {
	Peer            peerid.ID         `json:"peer"`
	Up              bool              `json:"up"`
	Initiator       bool              `json:"initiator"`
	Session         string            `json:"session"` // ID of the session in use, hex; equal on both sides
	AEAD            string            `json:"aead"`
	Handshake       time.Time         `json:"handshake"` // when the keys in use were made
	Rekeys          uint64            `json:"rekeys"`
	MTU             int               `json:"mtu"` // UDP payload of the active path, bytes
	RTT             time.Duration     `json:"rtt"` // of the active path, smoothed; 0 = not measured
	Paths           []PathStatus      `json:"paths"`
	BytesSent       uint64            `json:"bytes_sent"` // UDP payload
	BytesReceived   uint64            `json:"bytes_received"`
	PacketsSent     uint64            `json:"packets_sent"`
	PacketsReceived uint64            `json:"packets_received"` // authenticated
	Lost            uint64            `json:"lost"`             // packets of the peer under the keys in use that have not come, from the gaps in their counters
	Drops           map[string]uint64 `json:"drops,omitempty"`  // by DropReason
	Repair          RepairStatus      `json:"repair"`
}

// RepairStatus is a snapshot of how a pipe makes good what its path loses.
type RepairStatus struct {
	On       bool          `json:"on"`       // TCP is repaired
	State    string        `json:"state"`    // idle, asking, on, leaving or off; behind it what the congestion control does
	Rate     float64       `json:"rate"`     // bit/s at which it sends
	RTT      time.Duration `json:"rtt"`      // the shortest of late
	Smoothed time.Duration `json:"smoothed"` // round trip
	InFlight int           `json:"in_flight"`
	Window   int           `json:"window"` // bytes that may be in flight
	Kept     int           `json:"kept"`   // bytes of memory
	Sent     uint64        `json:"sent"`   // packets, copies included
	Repaired uint64        `json:"repaired"`
	Late     uint64        `json:"late"` // of these, such as had only been late
	Probes   uint64        `json:"probes"`
	Refused  uint64        `json:"refused"` // packets that there was no room to keep

	Datagrams uint64 `json:"datagrams"` // of what was sent, UDP, which is not repaired
	Marked    uint64 `json:"marked"`    // datagrams that routers have marked instead of dropping others (RFC 3168)
	Shed      uint64 `json:"shed"`      // UDP that waited behind too much of its kind
}

// PathStatus is a snapshot of one path of a pipe.
type PathStatus struct {
	Local     netip.AddrPort `json:"local"`
	Remote    netip.AddrPort `json:"remote"`           // of the relay, if there is one
	Via       peerid.ID      `json:"via,omitzero"`     // the relay; zero: direct
	TURN      bool           `json:"turn,omitzero"`    // through a TURN server, of either side
	Carried   bool           `json:"carried,omitzero"` // over a carrier
	Active    bool           `json:"active"`
	Validated bool           `json:"validated"`
	RTT       time.Duration  `json:"rtt"`
	MTU       int            `json:"mtu"`
	Heard     time.Time      `json:"heard"` // last authenticated packet
}
