package admission

import (
	"context"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// View is a Roster as whoever made the peer sees it.
type View interface {
	Tags(peerid.ID) membership.Tags
	Origin(peerid.ID) (invitation string, delegate peerid.ID)
	Grantee(peerid.ID) (label string, tags membership.Tags)
	GranteeOf(*membership.Member) (label string, tags membership.Tags)
	Invitations() []Invitation
	Withdraw(ctx context.Context, tokenOrID string) error
	Rotate(context.Context) error
	SetPolicy(text string) error
	Policy() *membership.Policy
	Authorities() (all []Authority, threshold int)
	Promote(ctx context.Context, id peerid.ID, label string) error
	Demote(name string, void bool) error
	SetThreshold(n int) error
	SetUnattended(d time.Duration) error
	AddRecovery() (line string, err error)
	Recover(line string) error
	Proposals() []Proposal
	Approve(id string) error
	History() []Happening
	Unattended() (since, until time.Time)
}

// Policy returns what the founder has said last of who may open what at whom, as far as
// this peer knows; nil if that is nothing. What it means is package grants' business.
func (r *Roster) Policy() *membership.Policy { return r.Revocations().Policy() }

// Grantee returns by which label and tags grants to a peer, or at it, count: the tags of
// its certificate, and its label if that was given to it, by an issuer or by the
// invitation, and no member is known here that has it before. A label that a peer has
// chosen itself, and nobody has confirmed, is none.
func (r *Roster) Grantee(id peerid.ID) (label string, tags membership.Tags) {
	if id == r.self {
		own := r.Own()
		return own.Label, own.Member.Tags
	}
	m, ok := r.Member(id)
	if !ok {
		return "", ""
	}
	return r.GranteeOf(m)
}

// GranteeOf is Grantee for a member whose chain was verified, whether this peer has met it
// or not.
func (r *Roster) GranteeOf(m *membership.Member) (label string, tags membership.Tags) {
	if m.Peer == r.self {
		return r.Own().Label, m.Tags
	}
	if m.Label == membership.AnyLabel || m.Wildcard && !m.Confirmed || r.outranked(m) {
		return "", m.Tags
	}
	return m.Label, m.Tags
}

// outranked says whether another member is known that has m's label before it.
func (r *Roster) outranked(m *membership.Member) bool {
	if m.Label == r.Own().Label {
		return true
	}
	if held, ok := r.registry.get(m.Label); ok && held.Peer != m.Peer && r.now().Before(held.NotAfter) && !r.Revoked(held.Peer) &&
		naming.Before(held.claim(), m, r.overlay.ID, m.Label) {
		return true
	}
	for _, o := range r.Members() {
		if o.Peer != m.Peer && o.Label == m.Label && o.Confirmed && naming.Before(o, m, r.overlay.ID, m.Label) {
			return true
		}
	}
	return false
}

// SetPolicy has a text be the policy of the overlay: when it returns it is saved, in
// force here, and on its way to all neighbours, which pass it on; or it is a proposal, with
// ErrPending. Only authorities can.
func (r *Roster) SetPolicy(text string) error {
	return r.move(membership.Motion{Kind: membership.MovePolicy, Policy: text})
}
