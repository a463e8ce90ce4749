package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Authorities rule the overlay: the founder's key at first, then whom they promote. What
// one of them wants is a motion. Where one signature is enough, it is in force at once.
// Else it is a proposal: all members carry it, with the signatures under it, as they carry
// the revocation list, and authorities that meet it can sign it, too (Approve). The member
// that has enough of them under one and the same list makes the list of it, whoever it is.

var (
	// ErrPending: other authorities have to agree before that is in force.
	ErrPending = errors.New("other authorities have to approve it")
	// ErrNoProposal: no proposal has that ID, or several have one that begins so.
	ErrNoProposal = errors.New("no such proposal")
	errCouncil    = errors.New("as many proposals wait already as there can be")
)

// Authority is one that rules the overlay.
type Authority struct {
	Name     string
	Key      membership.Key
	Peer     peerid.ID // zero: a recovery line, or the founder's key, which is none of a peer's
	Recovery bool
	Self     bool // it is this peer
}

// authority says whether this peer is one.
func (r *Roster) authority() bool {
	return r.Revocations().IsAuthority(r.overlay, r.signer.Key())
}

// Authority says whether this peer is one of those that rule the overlay.
func (r *Roster) Authority() bool { return r.authority() }

// SignRoot is this authority's word that an X.509 root is its own, and by which key it is one.
func (r *Roster) SignRoot(der []byte) (membership.Key, []byte, error) {
	sig, err := r.signer.SignRoot(der)
	return r.signer.Key(), sig, err
}

// Key returns the key by which this peer is an authority, if it is one.
func (r *Roster) Key() membership.Key { return r.signer.Key() }

// Rules says whether a member is an authority.
func (r *Roster) Rules(m *membership.Member) bool { return r.isAuthority(m) }

// onlyAuthority says whether nobody else is one.
func (r *Roster) onlyAuthority() bool {
	all, _ := r.Revocations().Authorities(r.overlay)
	return len(all) == 1 && r.authority()
}

// trust takes the word of who has made this peer's token.
func (r *Roster) trust(maker membership.Key) {
	if l := membership.Trusting(r.overlay, maker); l != nil {
		r.list.Store(l)
	}
}

// HearCharter takes what somebody has shown of who rules the overlay, before its chain is
// verified. b is borrowed.
func (r *Roster) HearCharter(p peerid.ID, b []byte) {
	for {
		old := r.list.Load()
		next, err := old.Told(r.overlay, b)
		if err != nil {
			r.cfg.Log.Warn("what was shown of the overlay's authorities is refused", "from", p, "err", err)
			return
		}
		if next == old || r.list.CompareAndSwap(old, next) {
			return
		}
	}
}

// takeOffice has this peer be an issuer by its own word if it is an authority now, and by
// its delegation or not at all if it is none any more.
func (r *Roster) takeOffice() {
	was, is := r.issuing(), r.authority()
	switch {
	case is && (was == nil || !was.IsRoot()):
		r.mu.Lock()
		r.setIssuer(r.signer.Issuer())
		label := r.own.Label
		r.mu.Unlock()
		r.registry.noteDelegate()() // there are others
		if err := r.issueSelf(label); err != nil {
			r.cfg.Log.Error("this node is an authority of the overlay now, and has no certificate of its own", "err", err)
			return
		}
		r.cfg.Log.Info("this node is an authority of the overlay")
		r.cfg.Renewed()
	case !is && was != nil && was.IsRoot():
		r.mu.Lock()
		delegation := r.delegation
		r.issuer = nil
		r.issues.Store(false)
		r.mu.Unlock()
		r.takeDelegation(delegation)
		r.cfg.Log.Warn("this node is no authority of the overlay any more")
	}
}

// move is what an authority wants: when it returns without an error that is in force, and
// saved. ErrPending: it waits for others.
func (r *Roster) move(m membership.Motion) error {
	r.revoking.Lock()
	defer r.revoking.Unlock()
	m.At = r.now()
	return r.moveLocked(m)
}

// moveLocked is move while revoking is held.
func (r *Roster) moveLocked(m membership.Motion) error {
	if !r.authority() {
		return ErrNotFounder
	}
	return r.moveBy(r.signer, m)
}

// moveBy is moveLocked of some authority.
func (r *Roster) moveBy(s *membership.Signer, m membership.Motion) error {
	m.At = m.At.Truncate(time.Second).UTC()
	for {
		d, err := r.Revocations().Untold().Draft(r.overlay, m)
		if errors.Is(err, membership.ErrNothing) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.Needs() > 1 {
			return r.propose(s, m)
		}
		sig, err := d.Sign(s)
		if err != nil {
			return err
		}
		l, err := d.List([]membership.Signature{sig})
		if err != nil {
			return err
		}
		if r.adopt(l, r.self); r.Revocations().Digest() == l.Digest() {
			return nil
		} // else a newer list has come meanwhile: go on from that
	}
}

// unite has a list signed that has what another one has as well; revoking is held.
func (r *Roster) unite(other *membership.RevocationList, now time.Time) error {
	for r.Revocations().Lacks(other, now) > 0 {
		mine := r.Revocations().Untold()
		m, err := mine.Unite(other, now)
		if err != nil {
			return err
		}
		if _, threshold := mine.Authorities(r.overlay); threshold > 1 {
			return r.proposeUnion(m, mine, other)
		}
		if err := r.moveBy(r.signer, m); err != nil {
			return err
		}
	}
	return nil
}

// proposeUnion is unite where several have to sign: as much at a time as a proposal holds.
func (r *Roster) proposeUnion(m membership.Motion, mine, other *membership.RevocationList) error {
	at := m.At.Truncate(time.Second).UTC()
	var all []membership.Motion
	for entries := range slices.Chunk(m.Revoke, membership.MaxProposed) {
		all = append(all, membership.Motion{Kind: membership.MoveRevoke, At: at, Revoke: entries})
	}
	if p := other.Policy(); p.Number() > mine.Policy().Number() {
		all = append(all, membership.Motion{Kind: membership.MovePolicy, At: at, Policy: p.Text()})
	}
	var failed error
	for _, m := range all {
		if err := r.propose(r.signer, m); !errors.Is(err, ErrPending) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// Authorities returns who rules the overlay, and how many of them have to agree.
func (r *Roster) Authorities() (all []Authority, threshold int) {
	keys, threshold := r.Revocations().Authorities(r.overlay)
	for _, a := range keys {
		v := Authority{Name: a.Name, Key: a.Key, Recovery: a.Recovery, Self: a.Key == r.signer.Key()}
		if !a.Recovery && a.Key != r.overlay.Root {
			v.Peer = a.Key.Peer()
		}
		all = append(all, v)
	}
	return all, threshold
}

// Promote makes a member an authority. Only authorities can. The member signs as itself:
// it needs to know nothing of it before.
func (r *Roster) Promote(_ context.Context, id peerid.ID, label string) error {
	if r.Revoked(id) {
		return membership.ErrRevoked
	}
	if m, ok := r.Member(id); id != r.self && (!ok || !m.Confirmed) {
		return fmt.Errorf("%w: %s is not known here as a member that was confirmed", membership.ErrAuthority, label)
	}
	if id == r.self && r.root != nil {
		return fmt.Errorf("%w: this node has the founder's key", membership.ErrAuthority)
	}
	c := membership.Change{Kind: membership.ChangePromote, Authority: membership.Authority{Key: membership.KeyOf(id), Name: label}}
	return r.move(membership.Motion{Kind: membership.MoveChange, Change: c})
}

// Demote removes an authority, by its name or the beginning of its key. What it has signed
// itself ends at once if void is set, else after membership.RetiredFor. Its node stays a
// member, as a delegate, until it is revoked.
func (r *Roster) Demote(name string, void bool) error {
	if !r.authority() {
		return ErrNotFounder
	}
	keys, _ := r.Revocations().Authorities(r.overlay)
	var found []membership.Authority
	for _, a := range keys {
		if a.Name == name || len(name) >= 8 && strings.HasPrefix(a.Key.String(), strings.ToLower(name)) {
			found = append(found, a)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%w: %d have the name %q, or a key that begins so", membership.ErrAuthority, len(found), name)
	}
	return r.move(membership.Motion{Kind: membership.MoveChange, Change: membership.Change{Kind: membership.ChangeDemote, Authority: found[0], Void: void}})
}

// SetThreshold says how many authorities have to agree.
func (r *Roster) SetThreshold(n int) error {
	return r.move(membership.Motion{Kind: membership.MoveChange, Change: membership.Change{Kind: membership.ChangeThreshold, Threshold: n}})
}

// SetUnattended says for how long members go on that hear of no authority.
func (r *Roster) SetUnattended(d time.Duration) error {
	return r.move(membership.Motion{Kind: membership.MoveUnattended, Unattended: d})
}

// AddRecovery makes a recovery line, whose key is worth one authority. It is returned once,
// and kept nowhere; with ErrPending, too.
func (r *Roster) AddRecovery() (line string, err error) {
	if !r.authority() {
		return "", ErrNotFounder
	}
	line, c, err := membership.NewRecovery(r.overlay)
	if err != nil {
		return "", err
	}
	err = r.move(membership.Motion{Kind: membership.MoveChange, Change: c})
	if err != nil && !errors.Is(err, ErrPending) {
		return "", err
	}
	return line, err
}

// Recover makes this peer an authority by a recovery line, as far as that is enough: with
// ErrPending others have to agree. Until the end of this Roster the line signs what this
// peer approves, as another authority.
func (r *Roster) Recover(line string) error {
	s, err := membership.OpenRecovery(r.overlay, line)
	if err != nil {
		return err
	}
	if !r.Revocations().IsAuthority(r.overlay, s.Key()) {
		return fmt.Errorf("%w: its key is no authority of this overlay", membership.ErrRecoveryLine)
	}
	r.office.mu.Lock()
	if !slices.ContainsFunc(r.office.extra, func(o *membership.Signer) bool { return o.Key() == s.Key() }) {
		r.office.extra = append(r.office.extra, s)
	}
	r.office.mu.Unlock()
	r.deliberate() // what this peer has approved before
	if r.authority() {
		return nil
	}
	r.revoking.Lock()
	defer r.revoking.Unlock()
	c := membership.Change{Kind: membership.ChangePromote, Authority: membership.Authority{Key: r.signer.Key(), Name: r.Own().Label}}
	return r.moveBy(s, membership.Motion{Kind: membership.MoveChange, At: r.now(), Change: c})
}

// namesOf returns what calls the authorities of a list by their names.
func (r *Roster) namesOf(l *membership.RevocationList) func(membership.Key) string {
	all, _ := l.Authorities(r.overlay)
	return func(k membership.Key) string {
		for _, a := range all {
			if a.Key == k {
				return a.Name
			}
		}
		return r.called(k)
	}
}

// called is how a key is called that is, or was, a member's: by its label if one is known.
func (r *Roster) called(k membership.Key) string {
	id := k.Peer()
	if id == r.self {
		return r.Own().Label
	}
	r.mu.Lock()
	known, ok := r.members.Peek(id)
	r.mu.Unlock()
	if ok && membership.CheckLabel(known.member.Label) == nil {
		return known.member.Label
	}
	if label, ok := r.registry.labelOf(id); ok {
		return label
	}
	return id.String()
}

// inWords is what a motion does.
func (r *Roster) inWords(m membership.Motion) string {
	switch m.Kind {
	case membership.MoveChange:
		return r.changeInWords(m.Change)
	case membership.MovePolicy:
		return fmt.Sprintf("set grants (%d lines)", strings.Count(m.Policy, "\n"))
	case membership.MoveUnattended:
		return fmt.Sprintf("let members go on for %v that hear of no authority", m.Unattended)
	}
	var whom []string
	name := m.Whom
	for _, e := range m.Revoke {
		text := r.revocationInWords(e)
		if e.Kind == membership.RevokePeer && name != "" {
			if text != name {
				text = fmt.Sprintf("%s, which the proposal calls %s", text, name)
			}
			name = ""
		}
		whom = append(whom, text)
	}
	return "revoke " + strings.Join(whom, ", ")
}

func (r *Roster) revocationInWords(e membership.Revocation) string {
	switch e.Kind {
	case membership.RevokeInvitation:
		return "invitation " + InvitationID(e.Key)
	case membership.RevokeInvited:
		return "invitation " + InvitationID(e.Key) + " and all who came by it"
	case membership.RevokeDelegate:
		return "what delegate " + r.called(e.Key) + " has signed"
	}
	return r.called(e.Key)
}

func (r *Roster) changeInWords(c membership.Change) string {
	names := r.namesOf(r.Revocations())
	switch {
	case c.Kind == membership.ChangePromote && c.Authority.Recovery:
		return "add a recovery line"
	case c.Kind == membership.ChangePromote:
		return fmt.Sprintf("promote %s (key %.16s)", c.Authority.Name, c.Authority.Key)
	case c.Kind == membership.ChangeDemote && c.Void:
		return "demote " + names(c.Authority.Key) + " and void what it has signed"
	case c.Kind == membership.ChangeDemote:
		return "demote " + names(c.Authority.Key)
	}
	return fmt.Sprintf("have %d authorities agree from now on", c.Threshold)
}
