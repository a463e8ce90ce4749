package admission

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// The revocation protocol: each side says the rank of the list that it has, and a digest
// of it, and who has one that the other lacks sends it: the answerer with its answer, the
// asker with a second request. So it is with the assurance that there is no newer list
// than theirs: each side says when the newest was given that it has, 0 for none. And with
// the proposals that wait for authorities (council.go), of which there is a digest as well.
//
//	request: rank 8 | digest 8 | length 4 | in the second: list | given at 8 | length 2 | in the second: assurance |
//	         digest 8 | length 4 | in the second: proposals
//	answer:  rank 8 | digest 8 | length 4 | if the asker may lack it: list | given at 8 | length 2 | if the asker's is older: assurance |
//	         digest 8 | length 4 | if the asker's differ: proposals
//
// A message may end after each of list, assurance and proposals. What is said after that
// is for later versions, and not read.
const compareTimeout = 5 * time.Second

// maxNumbered bounds one of these messages, in bytes.
const maxNumbered = 8 + 8 + 4 + membership.MaxRevocationList + 8 + 2 + membership.MaxAssurance + 8 + 4 + maxProposals

// numbered is a request or an answer: the rank of a revocation list, and if it
// is news the list; and the same of the assurance and of the proposals.
type numbered struct {
	number    uint64
	digest    uint64
	list      []byte // empty: none
	at        uint64 // seconds since 1970
	assurance []byte // empty: none

	proposed  uint64 // digest; 0: none
	proposals []byte // empty: none
}

func (n numbered) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, n.number), n.digest)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(n.list))), n.list...)
	b = field.Append16(binary.BigEndian.AppendUint64(b, n.at), n.assurance)
	b = binary.BigEndian.AppendUint64(b, n.proposed)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(n.proposals))), n.proposals...)
}

func readNumbered(b []byte) (numbered, error) {
	f := field.NewReader(bytes.NewReader(b))
	n := numbered{number: f.Uint64(), digest: f.Uint64(), list: f.Long32(membership.MaxRevocationList)}
	if read := 8 + 8 + 4 + len(n.list); len(b) > read {
		n.at = f.Uint64()
		n.assurance = f.Short16(membership.MaxAssurance)
	}
	if read := 8 + 8 + 4 + len(n.list) + 8 + 2 + len(n.assurance); len(b) > read {
		n.proposed = f.Uint64()
		n.proposals = f.Long32(maxProposals)
	}
	return n, f.Err()
}

// numberedNow is what this peer has, without the list and the proposals.
func (r *Roster) numberedNow() (n numbered) {
	n.assurance = r.Assurance()
	l := r.Revocations()
	n.number, n.digest, n.proposed = l.Rank(), l.Digest(), r.office.digest()
	if a := r.assured(); a != nil {
		n.at = uint64(a.At.Unix())
	}
	return n
}

var errUnsure = errors.New("the asker's own revocation list was not seen")

// ErrFounder: an authority cannot be revoked.
var ErrFounder = errors.New("an authority cannot be revoked: it has to be demoted first")

// Revocations returns the revocation list in force; nil while nothing was ever
// said. It is what naming.Validator asks.
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
// and is being sent to all neighbours; or it is a proposal, with ErrPending. Only authorities can.
func (r *Roster) Revoke(id peerid.ID, scope Scope) error {
	if !r.authority() {
		return ErrNotFounder
	}
	if m, ok := r.Member(id); id == r.self || ok && r.isAuthority(m) || r.Revocations().IsAuthority(r.overlay, membership.KeyOf(id)) {
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
// is asked who has one that was not given here. Only authorities can.
func (r *Roster) RevokeLabel(label string, scope Scope, find func() (peerid.ID, error)) error {
	if !r.authority() {
		return ErrNotFounder
	}
	id, ok := naming.PeerLabel(label)
	if !ok {
		id, ok = r.Holder(label)
	}
	if !ok {
		id, ok = r.holding(label) // one that another issuer has confirmed
	}
	if !ok {
		var err error
		if id, err = find(); err != nil {
			return err
		}
	}
	return r.Revoke(id, scope)
}

// holding returns the confirmed member of a label among those that are remembered; of
// several the first in the order of names.
func (r *Roster) holding(label string) (id peerid.ID, ok bool) {
	var best *membership.Member
	for _, m := range r.Members() {
		if m.Confirmed && m.Label == label && (best == nil || naming.Before(m, best, r.overlay.ID, label)) {
			best = m
		}
	}
	if best == nil {
		return id, false
	}
	return best.Peer, true
}

// sign puts a list with the entries in force, or proposes that; revoking is held.
func (r *Roster) sign(entries []membership.Revocation, now time.Time) error {
	return r.moveLocked(membership.Motion{Kind: membership.MoveRevoke, Revoke: entries, At: now})
}

// reunite is what an authority does with a list that comes to it. Two authorities may have
// signed one each at once, or one that was restored from an older copy of its state has
// signed again: then there are two lists of which neither contains the other. It has one
// signed that has the entries of both, so that nobody becomes a member again.
func (r *Roster) reunite(l *membership.RevocationList, from peerid.ID) {
	r.revoking.Lock()
	defer r.revoking.Unlock()
	mine, now := r.Revocations(), r.now()
	r.adopt(l, from)
	for _, other := range []*membership.RevocationList{mine, l} {
		lost := r.Revocations().Lacks(other, now)
		if lost == 0 || !r.authority() {
			continue
		}
		if !r.standsBehind(other) {
			r.cfg.Log.Warn("a list is left aside whose signers rule the overlay no more", "number", other.Seq(), "entries", lost)
			continue
		}
		r.cfg.Log.Warn("the overlay has two revocation lists, signed at once, or after a start from an older copy of an authority's state: one with the entries of both follows",
			"here", mine.Seq(), "there", l.Seq(), "missing", lost)
		if err := r.unite(other, now); err != nil {
			r.cfg.Log.Error("the revocation lists are not united", "err", err)
		}
	}
}

// standsBehind says whether enough of those who rule the overlay now have signed a list:
// what was signed by others, who were removed, must not come back by the signature of one
// who was not.
func (r *Roster) standsBehind(other *membership.RevocationList) bool {
	_, threshold := r.Revocations().Authorities(r.overlay)
	n := 0
	for _, k := range other.Signers() {
		if r.Revocations().IsAuthority(r.overlay, k) {
			n++
		}
	}
	return n >= threshold
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
	if r.authority() {
		r.reunite(l, from)
		return
	}
	r.adopt(l, from)
}

// HearNumber takes the rank of the list that a neighbour has, from its hello, and compares
// what both have if that is another one.
func (r *Roster) HearNumber(p peerid.ID, rank uint64) {
	if rank != r.Revocations().Rank() || r.office.some() || r.unsure(p) {
		r.cfg.Network.Go(func(ctx context.Context) { r.CompareLists(ctx, p) })
	}
}

// unsure says whether numbers say too little. A founder that has begun with what
// was saved, maybe long ago, looks once at the list of each member, whatever its
// number is.
func (r *Roster) unsure(p peerid.ID) bool {
	if !r.resumed || !r.authority() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.members.Peek(p)
	return ok && !k.seen
}

// settledFor is how long after a change of who rules the overlay was adopted here another
// one that forks from it can still take its place. Two authorities that have not heard of
// each other make two changes at once, and all members settle on one of them by the same
// rule (membership.Merge); after that whoever was removed could try until its own change
// is the one that the rule prefers.
const settledFor = 24 * time.Hour

// settled says why a list cannot take the place of the one in force: nil if it can.
func (r *Roster) settled(old, l *membership.RevocationList) error {
	at, forks := membership.ForkAt(old, l)
	if !forks {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if at < len(r.changed) && r.now().Sub(r.changed[at]) > settledFor {
		return fmt.Errorf("another change of the authorities than that of %s, which this peer has adopted at %s",
			old.Changes()[at].At.Format(time.RFC3339), r.changed[at].Format(time.RFC3339))
	}
	return nil
}

// noteChanges remembers when the changes of l were adopted; old was in force before.
func (r *Roster) noteChanges(old, l *membership.RevocationList) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, forks := membership.ForkAt(old, l); forks {
		r.changed = r.changed[:min(at, len(r.changed))]
	}
	for len(r.changed) < len(l.Changes()) {
		r.changed = append(r.changed, r.now())
	}
}

// adopt makes l the list that counts if it is the newer one, saves it, and
// passes it on to all neighbours but the one that it came from.
func (r *Roster) adopt(l *membership.RevocationList, from peerid.ID) {
	var old, next *membership.RevocationList
	for {
		old = r.list.Load()
		if was := old.Untold(); was.Digest() == l.Digest() || membership.Merge(was, l) != l {
			return
		}
		if err := r.settled(old, l); err != nil {
			r.cfg.Log.Error("a list of the authorities is refused", "from", from, "why", err)
			return
		}
		next = l.After(old)
		if r.list.CompareAndSwap(old, next) {
			break
		}
	}
	r.cfg.Changed() // before all else: who is no member any more loses what it has
	if membership.Forks(old, l) {
		r.cfg.Log.Warn("two lists of the authorities contradict each other; the one that all members settle on counts", "number", l.Seq(), "here before", old.Seq(), "from", from)
	}
	r.cfg.Log.Info("revocation list", "number", l.Seq())
	r.noteChanges(old, l)
	r.heardOfAuthorities(l.Issued())
	r.takeOffice()
	r.history.adopted(old, l, r)
	if old.Policy().Number() != l.Policy().Number() && r.cfg.PolicyChanged != nil {
		r.cfg.PolicyChanged()
	}
	r.deliberate()
	r.Keep()
	r.history.keep()
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

// CompareLists exchanges the revocation lists and the proposals with a neighbour:
// afterwards both have the newer ones.
func (r *Roster) CompareLists(ctx context.Context, p peerid.ID) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	q := r.numberedNow()
	q.assurance = nil
	if r.unsure(p) {
		q.number, q.digest = 0, 0 // whatever it has is news
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
	r.hear(theirs, p)
	mine := r.numberedNow()
	if r.lackedBy(&mine, theirs) {
		if theirs, err = r.askList(ctx, p, mine); err == nil {
			r.hear(theirs, p) // it has said which of two lists counts, or more proposals
		}
	}
}

// hear takes what another has sent.
func (r *Roster) hear(theirs numbered, p peerid.ID) {
	if len(theirs.list) > 0 {
		r.learn(theirs.list, p)
	}
	r.HearAssurance(p, theirs.assurance)
	r.learnProposals(theirs.proposals, p)
}

// lackedBy leaves of what this peer has, which is n so far, what another lacks, and
// says whether that is anything.
func (r *Roster) lackedBy(n *numbered, theirs numbered) bool {
	l := r.Revocations()
	switch {
	case theirs.digest != l.Digest() && theirs.number <= l.Rank() && l.Rank() > 0:
		n.list = l.Bytes()
	case len(theirs.list) > 0 && theirs.digest != l.Digest():
		n.list = l.Bytes() // of two that fork that with the lower rank may count
	case theirs.number > l.Rank() || theirs.at >= n.at:
		n.assurance = nil
	}
	if theirs.proposed != n.proposed {
		n.proposals = r.office.bytes()
	}
	return len(n.list)+len(n.assurance)+len(n.proposals) > 0
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
	r.hear(theirs, from.Peer)
	answer := r.numberedNow()
	r.lackedBy(&answer, theirs)
	return answer.append(nil), nil
}
