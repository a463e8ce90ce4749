package admission

import (
	"context"

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
}

// Policy returns what the founder has said last of who may open what at whom, as far as
// this peer knows; nil if that is nothing. What it means is package grants' business.
func (r *Roster) Policy() *membership.Policy { return r.policy.Load() }

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

// SetPolicy signs a text as the policy of the overlay: when it returns it is saved, in
// force here, and on its way to all neighbours, which pass it on. Only the founder can.
func (r *Roster) SetPolicy(text string) error {
	if r.root == nil {
		return ErrNotFounder
	}
	r.revoking.Lock()
	defer r.revoking.Unlock()
	for {
		p, err := r.root.SignPolicy(r.Policy(), text, r.now())
		if err != nil {
			return err
		}
		if r.adoptPolicy(p, r.self) {
			return nil
		} // else a newer one has come meanwhile, of this founder's, before it was restored
	}
}

// learnPolicy takes a policy that a member has sent.
func (r *Roster) learnPolicy(b []byte, from peerid.ID) {
	if len(b) == 0 {
		return
	}
	p, err := membership.OpenPolicy(b, r.overlay)
	if err != nil {
		r.cfg.Log.Warn("policy refused", "from", from, "err", err)
		return
	}
	r.adoptPolicy(p, from)
}

// adoptPolicy puts a policy in force if it is newer than the one that is, saves it, and
// passes it on to all neighbours but the one that it came from. It says whether it did.
func (r *Roster) adoptPolicy(p *membership.Policy, from peerid.ID) bool {
	for {
		old := r.policy.Load()
		if p.Number() <= old.Number() {
			return false
		}
		if r.policy.CompareAndSwap(old, p) {
			break
		}
	}
	r.cfg.Log.Info("policy", "number", p.Number(), "signed", p.At())
	if r.cfg.PolicyChanged != nil {
		r.cfg.PolicyChanged()
	}
	r.Keep()
	r.compareWithAll(from)
	return true
}

// restorePolicy takes what was saved. One that does not read says nothing: the neighbours
// have it.
func (r *Roster) restorePolicy(b []byte) {
	if len(b) == 0 {
		return
	}
	p, err := membership.OpenPolicy(b, r.overlay)
	if err != nil {
		r.cfg.Log.Warn("the saved policy is damaged: until a member shows it again there is none here", "err", err)
		return
	}
	r.policy.Store(p)
}
