package admission

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

const (
	confirmTimeout = 4 * time.Second
	// confirmersMax is how many members are asked that cannot confirm themselves.
	confirmersMax = 3
)

// SettleName has this peer's name decided, of which it has entered with a wish:
// by a founder or delegate if one is reached, else by what the database says. A
// token that names a label leaves no choice: ErrLabelTaken if it is another's.
func (r *Roster) SettleName(ctx context.Context, t *membership.Token) error {
	label := r.Own().Label
	err := r.Confirm(ctx, label)
	if err == nil || errors.Is(err, ErrLabelTaken) || errors.Is(err, membership.ErrUsed) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the name is not decided: %w: %w", err, ctx.Err())
	}
	if r.Own().Member.Confirmed {
		return nil // upkeep has asked as well, and was answered
	}
	r.cfg.Log.Info("membership stays provisional for now", "err", err)
	named := t.Label() != membership.AnyLabel
	for n := 1; n <= maxTies; n++ {
		try := tie(label, n)
		if named {
			try = label
		}
		rec := r.cfg.Lookup(ctx, try)
		if free := rec == nil || rec.Peer == r.self || rec.Tombstone; free {
			return r.enter(t, try)
		}
		if named {
			if r.Own().Member.Reused() {
				return nil // the founder gives it the name when it is there
			}
			if rec.Member().Confirmed {
				return fmt.Errorf("%w: %q is %s", ErrLabelTaken, try, rec.Peer)
			}
			return nil // both claim it; the order decides (DESIGN §14.2)
		}
	}
	return fmt.Errorf("%w: %q and %d like it", ErrLabelTaken, label, maxTies)
}

// Confirm asks to be made a confirmed member under the label, or, if the
// label is free to choose, under one like it. The founder needs nobody for that.
// The new chain is not saved.
func (r *Roster) Confirm(ctx context.Context, label string) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if r.authority() {
		if err := r.issueSelf(label); err != nil {
			return err
		}
		r.cfg.Renewed()
		return nil
	}
	q := confirmQuestion{hops: 1, label: label, chain: r.Own().Chain}
	err := error(errNobodyConfirms)
	var refusal error
	for _, p := range r.confirmers() {
		var a confirmAnswer
		a, err = r.askConfirm(ctx, p, q)
		if err != nil || a.status == confirmNobody {
			continue
		}
		if a.status != confirmOK {
			// A certificate proves itself; a refusal is anybody's word, but for the founder's.
			refusal = cmp.Or(refusal, refused(a))
			if m, ok := r.Member(p); ok && r.isAuthority(m) {
				return refused(a)
			}
			continue
		}
		err = r.takeConfirmed(a.chain, a.text)
		if errors.Is(err, errShorter) && !bytes.Equal(r.Own().Chain, q.chain) {
			return nil // this peer has asked twice at once, and the later answer came first
		}
		if err != nil {
			continue
		}
		r.takeDelegation(a.delegation)
		r.cfg.Renewed()
		return nil
	}
	return cmp.Or(refusal, err, errNobodyConfirms)
}

// refused is the error of an answer that refuses.
func refused(a confirmAnswer) error {
	if a.status == confirmUsed {
		return fmt.Errorf("%w: %s", membership.ErrUsed, a.text)
	}
	return taken(a.text)
}

var (
	errKept    = errors.New("the founder's own certificate is kept for now")
	errShorter = errors.New("it ends before the certificate that this peer has")
	errText    = errors.New("the name that is said with a certificate is not the one in it")
)

// takeConfirmed is take for what was asked for, unless it is worth less than what this
// peer has.
func (r *Roster) takeConfirmed(chain []byte, label string) error {
	m, err := membership.VerifyChain(chain, r.overlay, r.now(), r.Revocations())
	if err != nil {
		return fmt.Errorf("own membership: %w", err)
	}
	if label != m.Label {
		return errText // who has passed it on may say anything
	}
	if !m.Delegate.IsZero() && r.keepsFounders() {
		return errKept
	}
	if own := r.Own().Member; own.Confirmed && m.NotAfter.Before(own.NotAfter) && r.standing(own) == nil {
		return errShorter
	}
	return r.setOwn(chain, label, m)
}

// taken is the error of a label that a founder or delegate has refused. Older
// ones put ErrLabelTaken's own words before theirs.
func taken(text string) error {
	return fmt.Errorf("%w: %s", ErrLabelTaken, strings.TrimPrefix(text, ErrLabelTaken.Error()+": "))
}

// confirmers returns neighbours to ask: the founder, whose word stands above that of
// delegates, then those, then who may reach one of them. A certificate of the
// founder's is not given for a delegate's before its last quarter.
func (r *Roster) confirmers() []peerid.ID {
	var founder, first, rest, last []peerid.ID
	keep := r.keepsFounders()
	for _, n := range r.cfg.Network.Neighbours() {
		m, ok := r.Member(n.Peer)
		switch issuer := n.Issuer && ok && mayIssue(m); {
		case issuer && r.isAuthority(m):
			founder = append(founder, n.Peer)
		case issuer && keep:
		case issuer:
			first = append(first, n.Peer)
		case n.Server && !keep:
			rest = append(rest, n.Peer)
		case !keep:
			last = append(last, n.Peer)
		}
	}
	rest = append(rest, last...)
	return slices.Concat(founder, first, rest[:min(len(rest), confirmersMax)])
}

// keepsFounders says whether this peer's certificate is the founder's own and good
// for a while: it is not given for a delegate's.
func (r *Roster) keepsFounders() bool {
	own := r.Own().Member
	return own.Confirmed && own.Delegate.IsZero() && own.NotAfter.Sub(r.now()) > membership.MaxMember/4
}

// mayIssue says whether a member's certificate lets it confirm. That it does its hello
// says, which anybody may: a delegate is one that the founder has given the role.
func mayIssue(m *membership.Member) bool {
	return m.Confirmed && m.Roles.Has(membership.RoleDelegate)
}

// issuers returns the neighbours that confirm, but one: the founder first.
func (r *Roster) issuers(but peerid.ID) []peerid.ID {
	var founder, delegates []peerid.ID
	for _, n := range r.cfg.Network.Neighbours() {
		switch m, ok := r.Member(n.Peer); {
		case !n.Issuer || n.Peer == but || !ok || !mayIssue(m):
		case r.isAuthority(m):
			founder = append(founder, n.Peer)
		default:
			delegates = append(delegates, n.Peer)
		}
	}
	return append(founder, delegates...)
}

// isAuthority says whether a member is an authority: one makes itself a member, the
// founder by the overlay's first key and by no invitation.
func (r *Roster) isAuthority(m *membership.Member) bool {
	if !m.Confirmed || !m.Delegate.IsZero() || !m.Roles.Has(membership.RoleDelegate) || !r.Revocations().IsAuthority(r.overlay, m.Authority) {
		return false
	}
	return m.Authority == membership.KeyOf(m.Peer) || m.Authority == r.overlay.Root && m.Invitation.IsZero()
}

func (r *Roster) askConfirm(ctx context.Context, p peerid.ID, q confirmQuestion) (confirmAnswer, error) {
	b, err := r.cfg.Network.Ask(ctx, p, ConfirmProtocol, q.append(nil))
	if err != nil {
		return confirmAnswer{}, err
	}
	return readConfirmAnswer(b)
}

// Renew asks for a confirmed certificate while this peer has none or its own
// is past half of its life (DESIGN §14.1), and saves it.
func (r *Roster) Renew(ctx context.Context) {
	own := r.Own()
	if !membership.NeedsRenewal(own.Member, r.now()) || !r.authority() && len(r.cfg.Network.Neighbours()) == 0 {
		return
	}
	if r.now().Before(own.Member.NotBefore.Add(-membership.Tolerance)) {
		return // the clock is behind: what it would date is over when it is set
	}
	if err := r.Confirm(ctx, own.Label); err != nil {
		r.cfg.Log.Debug("membership not confirmed yet", "err", err)
		return
	}
	r.Keep()
}
