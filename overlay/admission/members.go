package admission

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// membersMax bounds how many other members are remembered. Who is asked about
// least recently is forgotten first.
const membersMax = 16384

// known is what the Roster remembers of another member.
type known struct {
	member *membership.Member
	swept  bool                                      // Sweep has said that it is none any more
	seen   bool                                      // its revocation list was looked at
	clear  atomic.Pointer[membership.RevocationList] // that is known not to hit it
}

// stands is holds of one that is remembered: a list is looked through once.
func (r *Roster) stands(k *known) bool {
	if l := r.Revocations(); l == nil || k.clear.Load() != l {
		if r.holds(k.member) != nil {
			return false
		}
		k.clear.Store(l)
		return true
	}
	m := k.member
	return r.entered(m) == nil && r.inTime(m) == nil
}

// holds says why a member that was verified is none now; nil if it is one.
func (r *Roster) holds(m *membership.Member) error {
	if err := r.entered(m); err != nil {
		return err
	}
	return r.standing(m)
}

// entered is the part of holds that is about invitations.
func (r *Roster) entered(m *membership.Member) error {
	if m.Confirmed {
		return nil
	}
	return r.registry.holds(m, r.firstCounts(), r.now())
}

// firstCounts says whether a provisional member that was heard of first stands before
// another one of the same invitation: not on an issuer, which says which one stands.
func (r *Roster) firstCounts() bool { return !r.issues.Load() }

// standing is holds without what is known of invitations.
func (r *Roster) standing(m *membership.Member) error {
	if err := r.inTime(m); err != nil {
		return err
	}
	if l := r.Revocations(); l.Revokes(m) {
		return fmt.Errorf("member certificate: %w (list %d)", membership.ErrRevoked, l.Seq())
	}
	return nil
}

// Verify says who a chain makes a member now, and notes it. from is who has
// shown the chain and proved to have its own key. Errors wrap membership.ErrNotMember.
// chain is borrowed.
func (r *Roster) Verify(chain []byte, from peerid.ID) (*membership.Member, error) {
	m, err := r.verify(chain, from)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", membership.ErrNotMember, err)
	}
	return m, nil
}

// verify is Verify; its errors say only what is wrong with the chain.
func (r *Roster) verify(chain []byte, from peerid.ID) (*membership.Member, error) {
	m, err := membership.VerifyAsOf(chain, r.overlay, r.now(), r.attended(), r.Revocations())
	if err != nil {
		return nil, err
	}
	if m.Peer != from {
		return nil, errors.New("the chain is another peer's")
	}
	if err := r.registry.enter(m, r.firstCounts(), r.now()); err != nil {
		return nil, err
	}
	r.Note(m)
	r.inquire(m)
	r.arrived(m, chain)
	return m, nil
}

// Note remembers a member whose chain was verified under this overlay's root: by
// a naming.Validator, with its record. Of two memberships of one peer the better
// one counts: confirmed before provisional, the founder's word before a delegate's,
// then the newer.
func (r *Roster) Note(m *membership.Member) {
	if m.Peer == r.self || r.registry.enter(m, r.firstCounts(), r.now()) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.members.Peek(m.Peer)
	if ok && r.stands(old) && better(old.member, m) {
		return
	}
	r.members.Add(m.Peer, &known{member: m, seen: ok && old.seen})
}

// better says whether a is to be preferred to b, a later membership of its peer.
func better(a, b *membership.Member) bool {
	if a.Confirmed != b.Confirmed {
		return a.Confirmed
	}
	if a.Delegate.IsZero() != b.Delegate.IsZero() {
		return a.Delegate.IsZero()
	}
	return a.NotBefore.After(b.NotBefore)
}

// remembered returns a member that is one now, of those remembered.
func (r *Roster) remembered(id peerid.ID) (*membership.Member, bool) {
	r.mu.Lock()
	k, ok := r.members.Get(id)
	r.mu.Unlock()
	if !ok || !r.stands(k) {
		return nil, false
	}
	return k.member, true
}

// Member returns the membership of another peer, if it is a member now. One that
// is not remembered is looked for where it has shown its chain (Config.Shown).
// What is returned is not to be changed.
func (r *Roster) Member(id peerid.ID) (*membership.Member, bool) {
	if m, ok := r.remembered(id); ok {
		return m, true
	}
	if r.cfg.Shown == nil {
		return nil, false
	}
	chain := r.cfg.Shown(id)
	if len(chain) == 0 {
		return nil, false
	}
	m, err := r.verify(chain, id)
	return m, err == nil
}

// Account is to whom what a member uses is charged besides itself; nobody for who is none.
func (r *Roster) Account(id peerid.ID) (a account.Account) {
	if m, ok := r.Member(id); ok {
		a = m.Account()
	}
	return a
}

// OwnAccount is to whom this peer itself is charged besides.
func (r *Roster) OwnAccount() (a account.Account) {
	if m := r.Own().Member; m != nil {
		a = m.Account()
	}
	return a
}

// FullName returns the full name that a peer's certificate gives it, this peer's own
// included; "" if none is known.
func (r *Roster) FullName(id peerid.ID) string {
	label := r.Own().Label
	if id != r.self {
		m, ok := r.Member(id)
		if !ok {
			return ""
		}
		label = m.Label
	}
	return r.overlay.FullName(label)
}

// Tags are those of a member's certificate, this peer's own included.
func (r *Roster) Tags(id peerid.ID) (t membership.Tags) {
	if id == r.self {
		t = r.Own().Member.Tags
	} else if m, ok := r.Member(id); ok {
		t = m.Tags
	}
	return t
}

// RelayFor says whether this peer may forward what comes from a peer, and to whom that is
// charged: see Account.
func (r *Roster) RelayFor(from peerid.ID) (payer account.Account, ok bool) {
	if me := r.Own().Member; me == nil || !me.Roles.Has(membership.RoleRelay) {
		return payer, false
	}
	m, ok := r.Member(from)
	if ok {
		payer = m.Account()
	}
	return payer, ok
}

// Current returns the best membership of a peer that has shown m once, false if
// it is no member any more. It is what the owner of a connection asks each time,
// and cheap.
func (r *Roster) Current(m *membership.Member) (*membership.Member, bool) {
	if k, ok := r.remembered(m.Peer); ok {
		return k, true
	}
	if r.holds(m) != nil {
		return nil, false
	}
	r.Note(m)
	return m, true
}

// Check says why a peer that has shown chain once is no member any more, nil if
// it is one: by that chain or by another. chain is borrowed.
func (r *Roster) Check(chain []byte, from peerid.ID) error {
	if _, ok := r.remembered(from); ok {
		return nil
	}
	_, err := r.verify(chain, from)
	return err
}

// Members returns the other members that are remembered and are members now, in
// no order.
func (r *Roster) Members() []*membership.Member {
	r.mu.Lock()
	all := r.members.Values()
	r.mu.Unlock()
	var out []*membership.Member
	for _, k := range all {
		if r.stands(k) {
			out = append(out, k.member)
		}
	}
	return out
}

// Held says whether a peer other than p is a confirmed member under a label.
func (r *Roster) Held(label string, p peerid.ID) bool {
	for _, m := range r.Members() {
		if m.Peer != p && m.Confirmed && m.Label == label {
			return true
		}
	}
	return false
}

// Revoked says whether the founder has taken a peer's membership back.
func (r *Roster) Revoked(id peerid.ID) bool {
	l := r.Revocations()
	if l.Has(membership.RevokePeer, membership.KeyOf(id)) {
		return true
	}
	r.mu.Lock()
	k, ok := r.members.Peek(id)
	r.mu.Unlock()
	return ok && l.Revokes(k.member)
}

// LabelRevoked says whether a label, which may be a peer ID, was that of a peer
// whose membership was taken back, and is nobody else's, as far as is remembered.
func (r *Roster) LabelRevoked(label string) bool {
	if id, ok := naming.PeerLabel(label); ok {
		return r.Revoked(id)
	}
	l := r.Revocations()
	r.mu.Lock()
	all := r.members.Values()
	r.mu.Unlock()
	held, ok := r.registry.get(label) // of an issuer, which may not have met it since it began
	revoked := ok && r.Revoked(held.Peer)
	for _, k := range all {
		switch {
		case k.member.Label != label:
		case l.Revokes(k.member):
			revoked = true
		case r.holds(k.member) == nil:
			return false
		}
	}
	return revoked
}

// Departure is a peer that has ceased to be a member.
type Departure struct {
	Peer    peerid.ID
	Label   string // of its certificate; "": not known, or none
	Revoked bool   // the peer itself was revoked; else its certificate has ended, or what it stood on
}

// Sweep returns who has ceased to be a member since the last call, by the list or
// by the clock, so that what is kept for them can be dropped. A peer that is
// named by a new list is among them even if it is not remembered.
func (r *Roster) Sweep() []Departure {
	r.registry.sweep(r.now())
	r.history.keep()
	r.inquireAgain()
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Departure
	l := r.Revocations()
	said := map[peerid.ID]bool{}
	for _, k := range r.members.Values() {
		if k.swept || r.stands(k) {
			continue
		}
		k.swept = true
		d := Departure{Peer: k.member.Peer, Label: k.member.Label, Revoked: l.Has(membership.RevokePeer, membership.KeyOf(k.member.Peer))}
		if d.Label == membership.AnyLabel {
			d.Label = ""
		}
		said[d.Peer] = true
		out = append(out, d)
	}
	if l == r.swept {
		return out
	}
	for _, e := range l.Entries() {
		id := e.Key.Peer()
		if e.Kind == membership.RevokePeer && !said[id] && !r.swept.Has(e.Kind, e.Key) {
			out = append(out, Departure{Peer: id, Revoked: true})
		}
	}
	r.swept = l
	return out
}
