package upkeep

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/admission"
)

// errRevoked ends what those have open who are no members any more.
var errRevoked = errors.New("membership revoked")

// Enforcer drops what belongs to those who are no members any more, by the revocation
// list or by the clock. All but Events is required. It is safe for concurrent use.
type Enforcer struct {
	// Sweep returns who is no member any more since the last call, Check says whether
	// a chain makes a member of a peer now.
	Sweep func() []admission.Departure
	Check func(chain []byte, p peerid.ID) error
	// Expel closes the connections of those that are no members.
	Expel func()
	Pipes func() []*pipe.Pipe
	// EndUnless ends the flows of whoever is no member.
	EndUnless func(member func(chain []byte, p peerid.ID) bool)
	// Dismiss and Forget drop what the database and the mesh remember of a peer.
	Dismiss func(p peerid.ID, revoked bool)
	Forget  func(p peerid.ID)
	// Name is a label as an event has it.
	Name   func(label string) string
	Events event.Sink
	Log    *slog.Logger
}

// Enforce drops connections, pipes and flows, and what is remembered of their peers.
// Nothing that asks the Roster waits for that.
func (e Enforcer) Enforce() {
	for _, d := range e.Sweep() {
		e.dismiss(d)
	}
	e.Expel()
	for _, p := range e.Pipes() {
		if err := e.Check(p.Chain(), p.Peer()); err != nil {
			p.End(fmt.Errorf("%w: %w", errRevoked, err))
		}
	}
	e.EndUnless(func(chain []byte, p peerid.ID) bool { return e.Check(chain, p) == nil })
}

// dismiss drops what is remembered of a peer that is no member any more.
func (e Enforcer) dismiss(d admission.Departure) {
	e.Dismiss(d.Peer, d.Revoked)
	if d.Revoked {
		e.Forget(d.Peer)
		e.Events.Emit(event.Event{Kind: event.Revoked, Peer: d.Peer, Name: e.Name(d.Label)})
	}
	e.Log.Info("no member any more", "peer", d.Peer, "label", d.Label)
}
