package admission

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// A member whose certificate has ended is a stranger: no connection, pipe or flow of it
// is served. But its hello, which shows the chain that it had and proves that it has the
// key, is answered with a new certificate if an issuer gives one (Readmit). The answer is
// that of the confirm protocol, and the peer says hello again with what is in it.
const (
	// readmitMax is how many are made members again at a time, here or by an issuer that
	// is asked for them; readmitOf of them by one invitation.
	readmitMax = 32
	readmitOf  = 8
	// readmitKept is how long one that comes once more, as it has not got the answer, is
	// given the same. readmitPause is how long one that was refused is not asked for again.
	readmitKept  = 10 * time.Minute
	readmitPause = 5 * time.Second
	// readmittedMax is how many are remembered for that.
	readmittedMax = 1024
)

var (
	errCrowd   = errors.New("too many members come back at once: try again")
	errPaused  = errors.New("it was refused a moment ago: try again later")
	errFounder = errors.New("only an authority renews the membership of a delegate that has ended")
	errUnasked = errors.New("a certificate that was not asked for")
	errUnknown = errors.New("the delegation below which it was a member has ended too, and nothing is known of it here: it needs a new token")
)

// readmissions are those that come back, here. It is safe for concurrent use.
type readmissions struct {
	mu      sync.Mutex // guards the rest
	running int
	of      account.Counts // running
	last    *simplelru.LRU[peerid.ID, readmission]
}

// readmission is the last of one peer.
type readmission struct {
	at     time.Time
	answer confirmAnswer // none if err is not nil
	err    error
}

func newReadmissions() *readmissions {
	l := &readmissions{}
	l.last, _ = simplelru.NewLRU[peerid.ID, readmission](readmittedMax, nil) // fails for a size of zero
	return l
}

// begin says whether a member may be made one again now. end is to be called then.
func (l *readmissions) begin(m *membership.Member) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running >= readmitMax || l.of.Full(m.Account(), readmitOf) {
		return false
	}
	l.running++
	l.of.Add(m.Account())
	return true
}

func (l *readmissions) end(m *membership.Member, what readmission) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	l.of.Remove(m.Account())
	l.last.Add(m.Peer, what)
}

// before returns what came of the last one of a peer, if that counts still.
func (l *readmissions) before(p peerid.ID, now time.Time) (readmission, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, ok := l.last.Get(p)
	kept := readmitKept
	if last.err != nil {
		kept = readmitPause
	}
	if ok && now.Sub(last.at).Abs() >= kept {
		l.last.Remove(p)
		ok = false
	}
	return last, ok
}

// Lapsed says why this peer is no member itself any more, although it was confirmed:
// its certificate has ended by the clock, and nobody has renewed it. nil if it is one.
func (r *Roster) Lapsed() error {
	own := r.Own().Member
	if r.authority() || !own.Confirmed || own.Unattended(r.now(), r.attended(), r.Revocations()) {
		return nil
	}
	return membership.CheckTimes("own membership", time.Time{}, own.NotAfter, r.now())
}

// Readmit is what a peer is answered that has shown chain in a hello and is no member by
// it, for the reason why: if the chain has merely ended, a new one, which this peer gives
// as an issuer or brings from one. from is who has shown the chain and proved to have its
// own key. The error is why it gets none. chain is borrowed.
func (r *Roster) Readmit(ctx context.Context, chain []byte, from peerid.ID, why error) ([]byte, error) {
	if !errors.Is(why, membership.ErrExpired) {
		return nil, why
	}
	m, err := membership.VerifyLapsed(chain, r.overlay, r.now(), r.Revocations())
	if errors.Is(err, membership.ErrIncomplete) {
		return nil, why // it was never confirmed
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", membership.ErrNotMember, err)
	}
	if m.Peer != from {
		return nil, fmt.Errorf("%w: the chain is another peer's", membership.ErrNotMember)
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	a, err := r.readmit(ctx, confirmQuestion{hops: 1, label: m.Label, chain: chain}, m, from)
	if err != nil {
		return nil, fmt.Errorf("%w, and it is not renewed here: %w", why, err)
	}
	return a.append(nil), nil
}

// readmit has a member made one again whose chain has ended, with regard to what came of
// that before. from is who asks for it: the member itself, or who was asked by it.
func (r *Roster) readmit(ctx context.Context, q confirmQuestion, m *membership.Member, from peerid.ID) (confirmAnswer, error) {
	if last, ok := r.returning.before(m.Peer, r.now()); ok {
		if last.err != nil {
			return confirmAnswer{}, fmt.Errorf("%w (%w)", errPaused, last.err)
		}
		if _, err := membership.VerifyChain(last.answer.chain, r.overlay, r.now(), r.Revocations()); err == nil {
			return last.answer, nil
		}
	}
	q.label = m.Label // who passes it on has no say
	if !r.returning.begin(m) {
		return confirmAnswer{}, errCrowd
	}
	a, err := r.readmitNow(ctx, q, m, from)
	r.returning.end(m, readmission{r.now(), a, err})
	return a, err
}

func (r *Roster) readmitNow(ctx context.Context, q confirmQuestion, m *membership.Member, from peerid.ID) (confirmAnswer, error) {
	issuer := r.issuing()
	if issuer != nil && (issuer.IsRoot() || !m.Roles.Has(membership.RoleDelegate)) {
		return r.issueAgain(ctx, issuer, q, m)
	}
	a, err := r.bring(ctx, q, m, from)
	if issuer != nil && err != nil {
		return a, errFounder // a delegate makes no delegates, and must not make it less than it was
	}
	return a, err
}

// issueAgain is readmit of an issuer.
func (r *Roster) issueAgain(ctx context.Context, issuer *membership.Issuer, q confirmQuestion, m *membership.Member) (confirmAnswer, error) {
	now := r.now()
	if !m.Delegate.IsZero() && now.After(m.DelegationEnd) {
		// Whoever was a delegate could date it back: it counts only if it was known before, had
		// the roles and tags, and came by that invitation, which may have been revoked with all who did.
		if held, ok := r.registry.get(m.Label); !ok || held.Peer != m.Peer || held.Invitation != m.Invitation ||
			m.Roles&^held.Roles != 0 || len(m.Tags.Beyond(held.Tags)) > 0 {
			return confirmAnswer{}, errUnknown
		}
	}
	a, err := r.issueTo(ctx, issuer, q, m, membership.Readmit)
	if err == nil {
		r.cfg.Log.Info("a member that was away is one again", "peer", m.Peer, "label", a.text, "ended", m.NotAfter.Format(time.RFC3339))
	}
	return a, err
}

// bring asks those who can confirm, or, if there is none, some who may reach one. Each has
// its part of the time that is left: one that is silent must not be the last.
func (r *Roster) bring(ctx context.Context, q confirmQuestion, m *membership.Member, from peerid.ID) (confirmAnswer, error) {
	err := errNobodyConfirms
	if q.hops == 0 {
		return confirmAnswer{}, err
	}
	q.hops = 0
	whom := r.issuers(from)
	if len(whom) == 0 {
		q.hops = 1
		for _, n := range r.cfg.Network.Neighbours() {
			if n.Peer != from && len(whom) < confirmersMax {
				whom = append(whom, n.Peer)
			}
		}
	}
	for i, p := range whom {
		a, e := r.askInTime(ctx, p, q, len(whom)-i)
		switch {
		case e != nil || a.status == confirmNobody:
			continue
		case a.status != confirmOK:
			err = refused(a)
			continue
		}
		given, e := membership.VerifyChain(a.chain, r.overlay, r.now(), r.Revocations())
		if e != nil || !given.Confirmed || given.Peer != m.Peer {
			err = errors.New("what was given for it is no membership")
			continue
		}
		return a, nil
	}
	return confirmAnswer{}, err
}

// askInTime is askConfirm of one of so many that are still to be asked until ctx ends.
func (r *Roster) askInTime(ctx context.Context, p peerid.ID, q confirmQuestion, left int) (confirmAnswer, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	return r.askConfirm(ctx, p, q)
}

// TakeReadmission takes what a member's Readmit has given this peer, whose certificate
// has ended, or is due to be renewed. Of two members that do so at once the second is late,
// and nothing is wrong with that. b is borrowed.
func (r *Roster) TakeReadmission(b []byte) error {
	a, err := readConfirmAnswer(b)
	if err != nil {
		return err
	}
	own := r.Own().Member
	if r.authority() || !own.Confirmed {
		return errUnasked
	}
	if !membership.NeedsRenewal(own, r.now()) {
		if m, err := membership.VerifyChain(a.chain, r.overlay, r.now(), r.Revocations()); err != nil || m.Peer != r.self {
			return errUnasked
		}
		return nil // it was renewed meanwhile
	}
	err = r.takeConfirmed(a.chain, a.text)
	if errors.Is(err, errShorter) {
		return nil
	}
	if err != nil {
		return err
	}
	r.takeDelegation(a.delegation)
	r.cfg.Log.Info("membership renewed", "label", a.text, "until", r.Own().Member.NotAfter.Format(time.RFC3339))
	r.Keep()
	r.cfg.Renewed()
	return nil
}
