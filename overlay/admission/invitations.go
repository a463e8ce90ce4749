package admission

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// ErrNoInvitation: no invitation is known here by that ID, or several are by its beginning.
var ErrNoInvitation = errors.New("no such invitation")

// made is an invitation that this issuer has made.
type made struct {
	from, end time.Time
	uses      int // 0: any number
	roles     membership.Roles
	tags      membership.Tags
	label     string
	withdrawn bool
	secret    [32]byte // a delegate's; zero: the founder needs none
}

// Invitation is one that this issuer has made, and who came by it.
type Invitation struct {
	ID        string
	Label     string // membership.AnyLabel: the member chooses
	Roles     membership.Roles
	Tags      membership.Tags
	Made      time.Time
	Expires   time.Time
	Uses      int // for how many members it is; 0: any number
	Withdrawn bool
	Members   []InvitedMember
}

// InvitedMember is one that came by an invitation, as far as is known here.
type InvitedMember struct {
	Peer      peerid.ID
	Label     string // "": not known
	Confirmed bool
}

// InvitationID is how people name an invitation: the first bytes of its key, in
// hexadecimal digits. "" for none.
func InvitationID(k membership.Key) string {
	if k.IsZero() {
		return ""
	}
	return hex.EncodeToString(k[:8])
}

// Origin returns by which invitation another member came, as InvitationID has it, and
// the delegate below whom it is one; zero for the founder, and where nothing is known.
func (r *Roster) Origin(id peerid.ID) (invitation string, delegate peerid.ID) {
	if m, ok := r.Member(id); ok {
		return InvitationID(m.Invitation), m.Delegate.Peer()
	}
	return "", peerid.ID{}
}

// Invitations returns the invitations that this issuer has made and that have ended no
// longer than a week ago, and who came by them, newest first.
func (r *Roster) Invitations() []Invitation {
	label := map[peerid.ID]string{r.self: r.Own().Label}
	for _, m := range r.Members() {
		label[m.Peer] = m.Label
	}
	l := r.Revocations()
	r.registry.mu.Lock()
	defer r.registry.mu.Unlock()
	for name, c := range r.registry.labels {
		label[c.Peer] = name
	}
	var out []Invitation
	for key, m := range r.registry.made {
		i := Invitation{
			ID: InvitationID(key), Label: m.label, Roles: m.roles, Tags: m.tags, Made: m.from, Expires: m.end, Uses: m.uses,
			Withdrawn: m.withdrawn || l.Has(membership.RevokeInvitation, key) || l.Has(membership.RevokeInvited, key),
		}
		for _, v := range r.registry.came.all(key) {
			i.Members = append(i.Members, InvitedMember{v.peer, strings.TrimPrefix(label[v.peer], membership.AnyLabel), v.confirmed})
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b Invitation) int { return cmp.Or(b.Made.Compare(a.Made), cmp.Compare(a.ID, b.ID)) })
	return out
}

// all returns who came by an invitation, whoever noted or confirmed them.
func (c came) all(invitation membership.Key) (out []visitor) {
	for _, b := range c.below {
		v, ok := b.invitations.Peek(invitation)
		if !ok {
			continue
		}
		for _, w := range v.peers {
			if i := slices.IndexFunc(out, func(o visitor) bool { return o.peer == w.peer }); i >= 0 {
				out[i].confirmed = out[i].confirmed || w.confirmed
			} else {
				out = append(out, w)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b visitor) int { return cmp.Compare(flag(b.confirmed), flag(a.confirmed)) })
	return out
}

// noteMade notes an invitation. What it returns waits until that is on the disk.
func (r *registry) noteMade(key membership.Key, m made) (wait func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made[key] = m
	return r.append(madeRecord(key, m))
}

// withdrawn says whether this issuer has withdrawn the invitation of a provisional
// member.
func (r *registry) withdrawn(m *membership.Member) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !m.Confirmed && r.made[m.Invitation].withdrawn
}

// find returns the invitation that has an ID, or the beginning of one.
func (r *Roster) find(id string) (membership.Key, error) {
	id = strings.ToLower(strings.TrimSpace(id))
	if len(id) < 4 {
		return membership.Key{}, fmt.Errorf("%w: %q", ErrNoInvitation, id)
	}
	found := map[membership.Key]bool{}
	take := func(k membership.Key) {
		if !k.IsZero() && strings.HasPrefix(hex.EncodeToString(k[:]), id) {
			found[k] = true
		}
	}
	for _, m := range r.Members() {
		take(m.Invitation)
	}
	r.registry.mu.Lock()
	defer r.registry.mu.Unlock()
	for k := range r.registry.made {
		take(k)
	}
	for _, c := range r.registry.labels {
		take(c.Invitation)
	}
	switch len(found) {
	case 0:
		return membership.Key{}, fmt.Errorf("%w: %q", ErrNoInvitation, id)
	case 1:
		for k := range found {
			return k, nil
		}
	}
	return membership.Key{}, fmt.Errorf("%w: %d have an ID that begins with %q", ErrNoInvitation, len(found), id)
}

// Withdraw ends an invitation, of which the token or the ID is given, whether it was
// used or not: nobody enters by it any more, and who has and was not confirmed ends.
// Who was confirmed stays: Revoke ends members. The founder ends any. A delegate ends
// those that it has made, or of which it has the token, and has to be connected to the
// founder for that, whose list tells the others.
func (r *Roster) Withdraw(ctx context.Context, tokenOrID string) error {
	if r.issuing() == nil {
		return ErrNotIssuer
	}
	var key membership.Key
	var secret [32]byte
	if t, err := membership.ParseToken(tokenOrID); err == nil {
		if t.Overlay() != r.overlay {
			return membership.ErrWrongOverlay
		}
		key, secret = t.Invitation().Subject, t.Secret()
	} else if key, err = r.find(tokenOrID); err != nil {
		return err
	}
	if r.authority() {
		return r.withdraw(key)
	}
	r.registry.mu.Lock()
	m, mine := r.registry.made[key]
	r.registry.mu.Unlock()
	if mine {
		m.withdrawn, secret = true, m.secret // it confirms nobody out of it from now on
		r.registry.noteMade(key, m)()
	}
	if secret == [32]byte{} {
		return ErrNotFounder
	}
	wish, err := membership.Withdrawal(r.overlay, secret)
	if err != nil {
		return err
	}
	for _, n := range r.cfg.Network.Neighbours() {
		if who, ok := r.Member(n.Peer); ok && r.isAuthority(who) {
			_, err := r.cfg.Network.Ask(ctx, n.Peer, WithdrawProtocol, wish)
			return err
		}
	}
	return errFounderAway
}

var errFounderAway = errors.New("no authority is connected: this node confirms nobody by the invitation any more, and others do not know of it; try again when one is there")

// withdraw is Withdraw of the founder.
func (r *Roster) withdraw(key membership.Key) error {
	r.revoking.Lock()
	defer r.revoking.Unlock()
	now := r.now()
	return r.sign([]membership.Revocation{{Kind: membership.RevokeInvitation, Key: key, Until: r.registry.ends(key, now)}}, now)
}

// withdrawalsMax is how many invitations the delegates of one invitation may have the
// founder end, between two starts of the founder: each is an entry of the list.
const withdrawalsMax = 64

// AnswerWithdraw answers the WithdrawProtocol: the founder ends an invitation for a
// member that has its token, and answers one byte.
func (r *Roster) AnswerWithdraw(_ context.Context, from *membership.Member, request []byte) ([]byte, error) {
	if !r.authority() {
		return nil, ErrNotFounder
	}
	key, err := membership.OpenWithdrawal(request, r.overlay)
	if err != nil {
		return nil, err
	}
	if l := r.Revocations(); l.Has(membership.RevokeInvitation, key) || l.Has(membership.RevokeInvited, key) {
		return []byte{1}, nil
	}
	if !mayIssue(from) {
		return nil, ErrNotIssuer
	}
	payer := from.Invitation // a token may make any number of delegates
	if payer.IsZero() {
		payer = membership.KeyOf(from.Peer)
	}
	r.mu.Lock()
	r.withdrawals[payer]++
	n := r.withdrawals[payer]
	r.mu.Unlock()
	if n > withdrawalsMax {
		return nil, ErrNotIssuer
	}
	r.cfg.Log.Info("a delegate withdraws an invitation", "delegate", from.Peer, "invitation", InvitationID(key))
	return []byte{1}, r.withdraw(key)
}
