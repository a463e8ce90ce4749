// Package event is what a node tells about itself while it works: the type
// that every layer emits and idloc.Node.Watch hands out. It is a leaf so that
// each layer can emit without knowing who listens.
package event

import (
	"net/netip"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// Kind names a step. The values are stable text, used in JSON.
type Kind string

// The steps, in the order in which a first Dial meets them (draft §2, §6).
const (
	NameAsked       Kind = "name-asked"       // Name
	NameResolved    Kind = "name-resolved"    // Name, Peer, Via (the member that served the record), Duration
	NameFailed      Kind = "name-failed"      // Name, Err
	LSIAssigned     Kind = "lsi-assigned"     // Peer, Name, LSI
	Miss            Kind = "miss"             // Peer, LSI: no mapping, the packet is held, or the Dial waits
	OfferSent       Kind = "offer-sent"       // Peer, Via (zero: directly)
	OfferForwarded  Kind = "offer-forwarded"  // this node passed an offer on: From, Peer (target)
	OfferReceived   Kind = "offer-received"   // Peer, Via
	AnswerReceived  Kind = "answer-received"  // Peer, Via (the forwarder), Duration since the offer
	Candidates      Kind = "candidates"       // Peer, Detail: local and remote candidates
	PairChosen      Kind = "pair-chosen"      // Peer, Local, Remote, Duration since the checks began
	PipeUp          Kind = "pipe-up"          // Peer, Local, Remote, Detail (AEAD), Duration since the miss
	PipeMoved       Kind = "pipe-moved"       // Peer, Local, Remote
	PipeRekeyed     Kind = "pipe-rekeyed"     // Peer
	PipeClosed      Kind = "pipe-closed"      // Peer, Err
	PipeFailed      Kind = "pipe-failed"      // Peer, Stage, Err
	FlowUp          Kind = "flow-up"          // null encapsulation: Peer, Local, Remote, Detail (protocol)
	FlowMoved       Kind = "flow-moved"       // the same flow has other real addresses: Peer, Local, Remote, Detail
	FlowClosed      Kind = "flow-closed"      // Peer, Local, Remote, Detail
	PacketsReleased Kind = "packets-released" // Peer, LSI, Detail: how many, Dials that waited included
	PeerConnected   Kind = "peer-connected"   // a member on the peer protocol: Peer, Name, Remote
	PeerGone        Kind = "peer-disconnected"
	Alone           Kind = "alone"    // no member is reached, and this node goes on trying: Err; PeerConnected ends it
	Revoked         Kind = "revoked"  // Peer, Name
	Proposed        Kind = "proposed" // something waits for authorities, or one more has signed it: Name (who wants it), Detail (ID, what, signatures)
	NamePublished   Kind = "name-published"
	Dialed          Kind = "dialed" // a Dial has ended: Peer, Name, Duration; Stage and Err if it failed
)

// Event is one step. Fields that a Kind does not use are zero. It is a plain
// value and may be copied and used concurrently. Whoever emits one does so
// before the step can have a consequence: an offer is told before it leaves,
// an answer when it has been read.
type Event struct {
	Seq      uint64         `json:"seq,omitempty"` // position among the node's events, from 1; the node's hub gives it
	Time     time.Time      `json:"time"`
	Kind     Kind           `json:"kind"`
	Peer     peerid.ID      `json:"peer,omitzero"`
	Name     string         `json:"name,omitempty"`
	Via      peerid.ID      `json:"via,omitzero"`
	From     peerid.ID      `json:"from,omitzero"`
	LSI      netip.Addr     `json:"lsi,omitzero"`
	Local    netip.AddrPort `json:"local,omitzero"`
	Remote   netip.AddrPort `json:"remote,omitzero"`
	Duration time.Duration  `json:"duration,omitempty"`
	Stage    string         `json:"stage,omitempty"`
	Detail   string         `json:"detail,omitempty"`
	Err      string         `json:"error,omitempty"`
}

// Sink takes events. It must not block and may be called from any goroutine.
// A nil Sink is silent through Emit.
type Sink func(Event)

// Emit stamps e if it has no time and hands it to s.
func (s Sink) Emit(e Event) {
	if s == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s(e)
}
