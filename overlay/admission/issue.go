package admission

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

const (
	tellTimeout = time.Second // for the other issuers to note what one has confirmed
	maxTies     = 200         // mars-2 … mars-200
)

// Invite makes a token. Only the founder and delegates can.
func (r *Roster) Invite(opts membership.InviteOptions) (*membership.Token, error) {
	issuer := r.issuing()
	if issuer == nil {
		return nil, ErrNotIssuer
	}
	t, err := issuer.Invite(opts, r.now())
	if err != nil {
		return nil, err
	}
	c := t.Invitation()
	m := made{from: r.now(), end: c.NotAfter, uses: c.Uses, roles: c.Roles, tags: c.Tags, label: c.Label}
	if !r.authority() {
		m.secret = t.Secret()
	}
	r.registry.noteMade(c.Subject, m)()
	r.note(Happening{What: "invited", Whom: InvitationID(c.Subject), Key: c.Subject.String(), Text: c.Label})
	return t, nil
}

// issueSelf makes an authority a member by its own word: the founder, or one that was
// promoted, which keeps what it was before.
func (r *Roster) issueSelf(label string) error {
	opts := membership.MemberOptions{Label: label, Roles: membership.RoleRelay | membership.RoleDelegate, Serial: 1}
	if own := r.Own().Member; own != nil && r.root == nil {
		opts.Serial, opts.Wildcard, opts.Tags, opts.Invitation = own.Serial, own.Wildcard, own.Tags, own.Invitation
		if opts.Serial == 0 { // it was not confirmed: its name is no older than that
			opts.Serial = r.registry.nextSerial(r.now())
		}
	}
	chain, err := r.signer.Issuer().Issue(r.self, opts, r.now())
	if err != nil {
		return fmt.Errorf("an authority's own certificate: %w", err)
	}
	return r.take(chain, label)
}

// AnswerConfirm answers the ConfirmProtocol, or passes the question on to
// somebody who can.
func (r *Roster) AnswerConfirm(ctx context.Context, from *membership.Member, request []byte) ([]byte, error) {
	q, err := readConfirmQuestion(request)
	if err != nil {
		return nil, err
	}
	return r.answer(ctx, q, from).append(nil), nil
}

func (r *Roster) answer(ctx context.Context, q confirmQuestion, from *membership.Member) confirmAnswer {
	issuer := r.issuing()
	if issuer == nil {
		return r.passOn(ctx, q, from.Peer)
	}
	a, err := r.issueConfirmed(ctx, issuer, q, from)
	if err != nil {
		r.cfg.Log.Info("refusing to confirm", "label", q.label, "err", err)
		if errors.Is(err, membership.ErrUsed) {
			return confirmAnswer{status: confirmUsed, text: strings.TrimPrefix(err.Error(), membership.ErrUsed.Error()+": ")}
		}
		return confirmAnswer{status: confirmRefused, text: strings.TrimPrefix(err.Error(), ErrLabelTaken.Error()+": ")}
	}
	return a
}

// passOn brings a question to an issuer.
func (r *Roster) passOn(ctx context.Context, q confirmQuestion, from peerid.ID) confirmAnswer {
	if q.hops > 0 {
		q.hops--
		for _, p := range r.issuers(from) {
			if a, err := r.askConfirm(ctx, p, q); err == nil {
				return a
			}
		}
	}
	return confirmAnswer{status: confirmNobody}
}

// issueConfirmed makes the subject of a chain a confirmed member under a
// label that nobody else holds. Who has let a provisional member in, and passes its
// question on, is the witness that it came in time.
func (r *Roster) issueConfirmed(ctx context.Context, issuer *membership.Issuer, q confirmQuestion, from *membership.Member) (confirmAnswer, error) {
	now := r.now()
	m, err := membership.VerifyChain(q.chain, r.overlay, now, r.Revocations())
	if errors.Is(err, membership.ErrExpired) {
		if gone, e := membership.VerifyLapsed(q.chain, r.overlay, now, r.Revocations()); e == nil {
			return r.readmit(ctx, q, gone, from.Peer) // who was asked by it passes it on
		}
	}
	if err != nil {
		return confirmAnswer{}, err
	}
	if m.Reused() && !r.authority() {
		return r.passOn(ctx, q, from.Peer), nil // who had the name before is to be revoked
	}
	if !m.Confirmed && from.Confirmed && from.Peer != m.Peer {
		r.registry.witness(m, now)
	}
	if err := r.registry.enter(m, false, now); err != nil && !errors.Is(err, membership.ErrUsed) {
		return confirmAnswer{}, err
	}
	r.inquireOthers(ctx, m)
	return r.issueTo(ctx, issuer, q, m, membership.Confirm)
}

// confirming is membership.Confirm, or Readmit for a member whose chain has ended.
type confirming func(i *membership.Issuer, chain []byte, label string, serial uint64, now time.Time, rev *membership.RevocationList) ([]byte, error)

// issueTo makes a member, whose chain was verified, a confirmed one, and has all know it
// that have to.
func (r *Roster) issueTo(ctx context.Context, issuer *membership.Issuer, q confirmQuestion, m *membership.Member, confirm confirming) (confirmAnswer, error) {
	now := r.now()
	label, chain, err := r.give(ctx, issuer, q, m, now, confirm)
	if err != nil {
		return confirmAnswer{}, err
	}
	if !m.Confirmed {
		r.note(Happening{What: "confirmed", Whom: label, Key: membership.KeyOf(m.Peer).String(), Text: "came by invitation " + InvitationID(m.Invitation)})
	}
	r.tellIssuers(ctx, m.Peer, chain)
	a := confirmAnswer{status: confirmOK, text: label, chain: chain}
	if issuer.IsRoot() && m.Roles.Has(membership.RoleDelegate) {
		r.registry.noteDelegate()()
		if a.delegation, err = issuer.Delegate(m.Peer, m.Roles, m.Tags, time.Time{}, now); err != nil {
			return confirmAnswer{}, err
		}
	}
	return a, nil
}

// give chooses a label for a member and signs its certificate. When it returns that is
// on the disk.
func (r *Roster) give(ctx context.Context, issuer *membership.Issuer, q confirmQuestion, m *membership.Member, now time.Time, confirm confirming) (string, []byte, error) {
	r.registry.issuing.Lock()
	locked := true
	unlock := func() {
		if locked {
			r.registry.issuing.Unlock()
		}
		locked = false
	}
	defer unlock()
	label, serial, err := r.assign(ctx, m, q.label, now)
	if err != nil {
		return "", nil, err
	}
	chain, err := confirm(issuer, q.chain, label, serial, now, r.Revocations())
	if err != nil {
		return "", nil, err
	}
	done, err := membership.VerifyChain(chain, r.overlay, now, r.Revocations())
	if err != nil {
		return "", nil, err
	}
	// In this order: after a crash between the two the token is used, and who has used it
	// asks again. In the other one it could be used again.
	r.Note(done)
	saved := r.registry.set(label, heldBy(done))
	unlock()
	saved()
	return label, chain, nil
}

// assign picks the label and the serial. The registry is what this issuer has
// confirmed and what others have told it; the database tells the rest.
func (r *Roster) assign(ctx context.Context, m *membership.Member, want string, now time.Time) (string, uint64, error) {
	if !m.Wildcard {
		want = m.Label // a named invitation leaves no choice
	}
	if err := membership.CheckLabel(want); err != nil {
		return "", 0, err
	}
	if err := r.mayUse(m, want); err != nil {
		return "", 0, err
	}
	for n := 1; n <= maxTies; n++ {
		label := tie(want, n)
		held, ok := r.registry.get(label)
		if old, next := r.registry.predecessor(m.Peer); ok && next && held.Peer == old {
			return label, held.Serial, nil // it comes late, and is to have the name
		}
		if ok && held.Peer == m.Peer {
			return label, held.Serial, nil
		}
		if ok && m.Reused() && held.Invitation == m.Invitation {
			return label, held.Serial, r.relieve(held, m, now)
		}
		taken := label == r.Own().Label && m.Peer != r.self ||
			ok && now.Before(held.NotAfter) && !r.Revoked(held.Peer)
		if !taken {
			taken = r.takenElsewhere(ctx, label, m.Peer)
		}
		if !taken {
			return label, r.registry.nextSerial(now), nil
		}
		if !m.Wildcard {
			break
		}
	}
	return "", 0, fmt.Errorf("%w: %q", ErrLabelTaken, want)
}

// mayUse says why a member is not confirmed by its invitation, which is for a label or for
// so many members.
func (r *Roster) mayUse(m *membership.Member, label string) error {
	switch {
	case r.registry.withdrawn(m):
		return fmt.Errorf("the invitation was withdrawn: %w", membership.ErrRevoked)
	case !r.registry.used(m):
		return nil
	case m.Wildcard:
		return fmt.Errorf("%w: it is for %d", membership.ErrUsed, m.Uses)
	}
	return fmt.Errorf("%w: it is for %q", membership.ErrUsed, label)
}

// tie is the n-th try for a label: mars, mars-2, mars-3 (draft §5, "some
// scheme to break ties").
func tie(label string, n int) string {
	if n <= 1 {
		return label
	}
	return fmt.Sprintf("%s-%d", label[:min(len(label), maxBaseLabel)], n)
}

// takenElsewhere says whether another confirmed member than p has the label, as
// far as the members here and the database know.
func (r *Roster) takenElsewhere(ctx context.Context, label string, p peerid.ID) bool {
	if r.OnlyIssuer() {
		return false
	}
	if r.Held(label, p) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout/2)
	defer cancel()
	rec := r.cfg.Lookup(ctx, label)
	return rec != nil && rec.Peer != p && !rec.Tombstone && rec.Member().Confirmed
}

// tellIssuers shows a chain that this issuer has just confirmed to the others
// it is connected to, so that none of them gives the label away again, or lets
// somebody else in by the same token, also while the database is out of reach.
func (r *Roster) tellIssuers(ctx context.Context, subject peerid.ID, chain []byte) {
	notice := field.Append16(nil, chain)
	r.eachIssuer(ctx, subject, func(ctx context.Context, p peerid.ID) error {
		_, err := r.cfg.Network.Ask(ctx, p, ConfirmedProtocol, notice)
		return err
	})
}

// AnswerConfirmed answers the ConfirmedProtocol: it notes a chain that another
// issuer has confirmed, and answers one byte. The chain speaks for itself: who
// shows it does not matter.
//
//	notice: chain length 2 | chain
func (r *Roster) AnswerConfirmed(_ context.Context, _ *membership.Member, notice []byte) ([]byte, error) {
	f := field.NewReader(bytes.NewReader(notice))
	chain := f.Short16(membership.MaxChain)
	if f.Err() != nil {
		return nil, f.Err()
	}
	m, err := membership.VerifyChain(chain, r.overlay, r.now(), r.Revocations())
	if err != nil {
		return nil, err
	}
	if !m.Confirmed {
		return nil, errors.New("a chain that nobody has confirmed")
	}
	r.noteConfirmed(m)
	return []byte{1}, nil
}

// noteConfirmed keeps what another issuer has confirmed. Of two claims the one that
// stands before the other in the order of names stands (package naming); the founder
// leaves its opinion of who has a label to no delegate.
func (r *Roster) noteConfirmed(m *membership.Member) {
	r.Note(m)
	if r.issuing() == nil {
		return
	}
	held, ok := r.registry.get(m.Label)
	if ok && held.Peer != m.Peer && r.now().Before(held.NotAfter) && !r.Revoked(held.Peer) {
		if r.authority() && !m.Delegate.IsZero() || !naming.Before(m, held.claim(), r.overlay.ID, m.Label) {
			return
		}
	}
	if ok && held.Peer == m.Peer && !m.NotAfter.After(held.NotAfter) && held.Delegate == m.Delegate {
		return // known already: anybody may say it as often as it likes
	}
	r.registry.set(m.Label, heldBy(m))()
}

// takeDelegation makes this peer a delegate, if b, which may be empty, is a
// delegation for it that holds now.
func (r *Roster) takeDelegation(b []byte) {
	if len(b) == 0 {
		return
	}
	i, err := membership.NewDelegate(r.cfg.Key, b, r.overlay, r.now(), r.Revocations())
	if err != nil {
		r.cfg.Log.Warn("delegation not usable", "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.issuer != nil && r.issuer.IsRoot() {
		r.delegation = b // for when it is no authority any more
		return
	}
	if old := r.issuer; old != nil && len(r.delegation) > 0 {
		// What it has confirmed counts from when it became a delegate: the older one is
		// the better, as long as it lasts.
		was, is := old.Certificate(), i.Certificate()
		_, err := membership.NewDelegate(r.cfg.Key, r.delegation, r.overlay, r.now(), r.Revocations())
		if err == nil && !r.Revocations().WasAuthority(old.Authority()) && was.Roles == is.Roles && was.NotBefore.Before(is.NotBefore) && was.NotAfter.Sub(r.now()) > membership.MaxInvitation/2 {
			return
		}
	}
	r.setIssuer(i)
	r.delegation = b
}

// OnlyIssuer says whether nobody but this peer confirms: the founder, who has made
// no delegate.
func (r *Roster) OnlyIssuer() bool { return r.onlyAuthority() && r.registry.alone() }

// Holder returns who was confirmed under a label by this issuer, or by another
// that has told it.
func (r *Roster) Holder(label string) (peerid.ID, bool) {
	c, ok := r.registry.get(label)
	return c.Peer, ok
}

var errNobodyConfirms = errors.New("no authority or delegate reached")
