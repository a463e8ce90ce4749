package admission

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// The revocation protocol: each side says the number of the list it has, and who
// has the newer one sends it: the answerer with its answer, the asker with a
// second request. So it is with the assurance that there is no newer list than theirs:
// each side says when the newest was given that it has, 0 for none. And with the number of
// the policy, 0 for none.
//
//	request: number 8 | length 4 | in the second: list | given at 8 | length 2 | in the second: assurance |
//	         number 8 | length 2 | in the second: policy
//	answer:  number 8 | length 4 | if the asker's is lower: list | given at 8 | length 2 | if the asker's is older: assurance |
//	         number 8 | length 2 | if the asker's is lower: policy
//
// A message may end after each of number, list, assurance and policy.
const compareTimeout = 5 * time.Second

// maxNumbered bounds one of these messages, in bytes.
const maxNumbered = 8 + 4 + membership.MaxRevocationList + 8 + 2 + membership.MaxAssurance + 8 + 2 + membership.MaxPolicy

// numbered is a request or an answer: the number of a revocation list, and if it
// is news the list; and the same of the assurance and of the
// policy.
type numbered struct {
	number    uint64
	list      []byte // empty: none
	at        uint64 // seconds since 1970
	assurance []byte // empty: none

	policyNumber uint64
	policy       []byte // empty: none
}

func (n numbered) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, n.number)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(n.list))), n.list...)
	b = field.Append16(binary.BigEndian.AppendUint64(b, n.at), n.assurance)
	return field.Append16(binary.BigEndian.AppendUint64(b, n.policyNumber), n.policy)
}

func readNumbered(b []byte) (numbered, error) {
	f := field.NewReader(bytes.NewReader(b))
	n := numbered{number: f.Uint64()}
	if len(b) > 8 {
		n.list = f.Long32(membership.MaxRevocationList)
	}
	if len(b) > 8+4+len(n.list) {
		n.at = f.Uint64()
		n.assurance = f.Short16(membership.MaxAssurance)
	}
	if len(b) > 8+4+len(n.list)+8+2+len(n.assurance) {
		n.policyNumber = f.Uint64()
		n.policy = f.Short16(membership.MaxPolicy)
	}
	return n, f.Err()
}

// numberedNow is what this peer has, without the list and the policy.
func (r *Roster) numberedNow() (n numbered) {
	n.assurance = r.Assurance()
	n.number, n.policyNumber = r.Revocations().Seq(), r.Policy().Number()
	if a := r.assured(); a != nil {
		n.at = uint64(a.At.Unix())
	}
	return n
}

var errUnsure = errors.New("the asker's own revocation list was not seen")

// ErrFounder: the founder cannot be revoked.
var ErrFounder = errors.New("the founder cannot be revoked")

// Revocations returns the revocation list in force; nil while nothing was ever
// revoked. It is what naming.Validator asks.
func (r *Roster) Revocations() *membership.RevocationList { return r.list.Load() }

// Scope says whom Revoke ends besides the peer and the invitation that it came by.
type Scope struct {
	Invited   bool // all members that came by that invitation
	Delegated bool // all whom the delegate has invited or confirmed below whom the peer is
}

// ErrScope: nobody else is known that Revoke was asked to end.
var ErrScope = errors.New("not known by which invitation it came, or below which delegate")

// Revoke signs a list that ends the membership of a peer and of the invitation it
// came by, and of whom scope says, and adopts it: when it returns the list is saved
// and is being sent to all neighbours. Only the founder can.
func (r *Roster) Revoke(id peerid.ID, scope Scope) error {
	if r.root == nil {
		return ErrNotFounder
	}
	if id == r.self {
		return ErrFounder
	}
	r.revoking.Lock()
	defer r.revoking.Unlock()
	now := r.now()
	invitation, delegate := r.origin(id)
	if scope.Invited && invitation.IsZero() || scope.Delegated && delegate.IsZero() {
		return ErrScope
	}
	var entries []membership.Revocation
	end := func(kind membership.RevocationKind, key membership.Key) {
		if key.IsZero() {
			return
		}
		e := membership.Revocation{Kind: kind, Key: key, Until: now.Add(membership.RevokedFor)}
		switch kind {
		case membership.RevokeInvitation:
			e.Until = r.registry.ends(key, now)
		case membership.RevokeDelegate:
			e.Before = now
		}
		entries = append(entries, e)
	}
	end(membership.RevokePeer, membership.KeyOf(id))
	next, hidden := r.registry.successor(id)
	if hidden { // a key that it was given and has not come with
		end(membership.RevokePeer, membership.KeyOf(next))
	}
	if scope.Invited {
		end(membership.RevokeInvited, invitation)
	} else {
		end(membership.RevokeInvitation, invitation)
	}
	if scope.Delegated {
		end(membership.RevokeDelegate, delegate)
	}
	if err := r.sign(entries, now); err != nil {
		return err
	}
	if hidden {
		r.registry.succeeded(next)()
	}
	// It may have been given one while that was signed; from now on it is given none.
	if next, hidden = r.registry.successor(id); !hidden {
		return nil
	}
	err := r.sign([]membership.Revocation{{Kind: membership.RevokePeer, Key: membership.KeyOf(next), Until: now.Add(membership.RevokedFor)}}, now)
	if err == nil {
		r.registry.succeeded(next)()
	}
	return err
}

// RevokeLabel revokes the peer that has a label, or whose ID is given as a label. find
// is asked who has one that was not given here. Only the founder can.
func (r *Roster) RevokeLabel(label string, scope Scope, find func() (peerid.ID, error)) error {
	if r.root == nil {
		return ErrNotFounder
	}
	id, ok := naming.PeerLabel(label)
	if !ok {
		id, ok = r.Holder(label)
	}
	if !ok {
		var err error
		if id, err = find(); err != nil {
			return err
		}
	}
	return r.Revoke(id, scope)
}

// sign puts a list with the entries in force; revoking is held.
func (r *Roster) sign(entries []membership.Revocation, now time.Time) error {
	for {
		l, err := r.root.Revoke(r.Revocations(), now, entries...)
		if err != nil {
			return err
		}
		r.adopt(l, r.self)
		if len(missing(r.Revocations(), entries)) == 0 {
			return nil
		} // else a newer list has come meanwhile: go on from that
	}
}

// missing returns those of the entries that a list lacks.
func missing(l *membership.RevocationList, entries []membership.Revocation) (out []membership.Revocation) {
	for _, e := range entries {
		if !l.Covers(e) {
			out = append(out, e)
		}
	}
	return out
}

// reunite is what the founder does with a list of its own that comes back to it. If
// it was restored from an older copy of its state, and has revoked somebody since,
// there may be two lists of which neither contains the other: it signs one that has
// the entries of both, so that nobody becomes a member again.
func (r *Roster) reunite(l *membership.RevocationList, from peerid.ID) {
	r.revoking.Lock()
	defer r.revoking.Unlock()
	mine, now := r.Revocations(), r.now()
	other := l
	if membership.Merge(mine, l) == l {
		other = mine
	}
	r.adopt(l, from)
	lost := r.Revocations().Lacks(other, now)
	if lost == 0 {
		return
	}
	r.cfg.Log.Warn("the overlay has two revocation lists of this founder's, as after a start from an older copy of its state: one with the entries of both follows",
		"here", mine.Seq(), "there", l.Seq(), "missing", lost)
	for r.Revocations().Lacks(other, now) > 0 {
		both, err := r.root.Unite(r.Revocations(), other, now)
		if err != nil {
			r.cfg.Log.Error("the revocation lists are not united", "err", err)
			return
		}
		r.adopt(both, r.self) // unless a newer one has come meanwhile: then that is united with it
	}
}

// origin returns the invitation by which a peer came, and the delegate below whom it
// is a member, as far as known; zero: not known, or none.
func (r *Roster) origin(id peerid.ID) (invitation, delegate membership.Key) {
	if m, ok := r.Member(id); ok {
		return m.Invitation, m.Delegate
	}
	return r.registry.origin(id)
}

// learn takes a list that a member has sent.
func (r *Roster) learn(b []byte, from peerid.ID) {
	l, err := membership.OpenRevocationList(b, r.overlay)
	if err != nil {
		r.cfg.Log.Warn("revocation list refused", "from", from, "err", err)
		return
	}
	if r.root != nil {
		r.reunite(l, from)
		return
	}
	r.adopt(l, from)
}

// HearNumbers takes the numbers of the list and of the policy that a neighbour has, from
// its hello, and compares what both have if one of the two has news.
func (r *Roster) HearNumbers(p peerid.ID, list, policy uint64) {
	if list != r.Revocations().Seq() || policy != r.Policy().Number() || r.unsure(p) {
		r.cfg.Network.Go(func(ctx context.Context) { r.CompareLists(ctx, p) })
	}
}

// unsure says whether numbers say too little. A founder that has begun with what
// was saved, maybe long ago, looks once at the list of each member, whatever its
// number is.
func (r *Roster) unsure(p peerid.ID) bool {
	if !r.resumed || r.root == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.members.Peek(p)
	return ok && !k.seen
}

// adopt makes l the list that counts if it is the newer one, saves it, and
// passes it on to all neighbours but the one that it came from.
func (r *Roster) adopt(l *membership.RevocationList, from peerid.ID) {
	for {
		old := r.list.Load()
		next := membership.Merge(old, l)
		if next == old {
			return
		}
		if r.list.CompareAndSwap(old, next) {
			break
		}
	}
	r.cfg.Log.Info("revocation list", "number", l.Seq())
	r.cfg.Changed()
	r.Keep()
	r.compareWithAll(from)
}

// compareWithAll is CompareLists with all neighbours but one.
func (r *Roster) compareWithAll(but peerid.ID) {
	for _, n := range r.cfg.Network.Neighbours() {
		if n.Peer != but {
			r.cfg.Network.Go(func(ctx context.Context) { r.CompareLists(ctx, n.Peer) })
		}
	}
}

// CompareLists exchanges the revocation lists and the policies with a neighbour:
// afterwards both have the newer ones.
func (r *Roster) CompareLists(ctx context.Context, p peerid.ID) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	q := r.numberedNow()
	q.assurance = nil
	if r.unsure(p) {
		q.number = 0 // whatever it has is news
	}
	theirs, err := r.askList(ctx, p, q)
	if err != nil {
		return
	}
	r.mu.Lock()
	if k, ok := r.members.Peek(p); ok {
		k.seen = true
	}
	r.mu.Unlock()
	if theirs.number > q.number {
		r.learn(theirs.list, p)
	}
	r.HearAssurance(p, theirs.assurance)
	if theirs.policyNumber > q.policyNumber {
		r.learnPolicy(theirs.policy, p)
	}
	mine := r.numberedNow()
	if mine.lackedBy(theirs, r.Revocations(), r.Policy()) {
		_, _ = r.askList(ctx, p, mine)
	}
}

// lackedBy leaves of what this peer has, l and policy with it, what another lacks, and
// says whether that is anything.
func (n *numbered) lackedBy(theirs numbered, l *membership.RevocationList, policy *membership.Policy) bool {
	switch {
	case theirs.number < l.Seq():
		n.list = l.Bytes()
	case theirs.number > l.Seq() || theirs.at >= n.at:
		n.assurance = nil
	}
	if theirs.policyNumber < policy.Number() {
		n.policy = policy.Bytes()
	}
	return len(n.list)+len(n.assurance)+len(n.policy) > 0
}

func (r *Roster) askList(ctx context.Context, p peerid.ID, q numbered) (numbered, error) {
	b, err := r.cfg.Network.Ask(ctx, p, RevocationProtocol, q.append(nil))
	if err != nil {
		return numbered{}, err
	}
	return readNumbered(b)
}

// AnswerList answers the RevocationProtocol.
func (r *Roster) AnswerList(ctx context.Context, from *membership.Member, request []byte) ([]byte, error) {
	theirs, err := readNumbered(request)
	if err != nil {
		return nil, err
	}
	if r.unsure(from.Peer) {
		// What is told here would replace what it has, and nobody would ever see that.
		if r.CompareLists(ctx, from.Peer); r.unsure(from.Peer) {
			return nil, errUnsure
		}
	}
	mine := r.Revocations()
	if theirs.number > mine.Seq() && len(theirs.list) > 0 {
		r.learn(theirs.list, from.Peer)
	}
	r.HearAssurance(from.Peer, theirs.assurance)
	policy := r.Policy()
	if theirs.policyNumber > policy.Number() {
		r.learnPolicy(theirs.policy, from.Peer)
	}
	answer := r.numberedNow()
	answer.number, answer.policyNumber = mine.Seq(), policy.Number()
	answer.lackedBy(theirs, mine, policy)
	return answer.append(nil), nil
}
