package admission

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// A peer takes another key in two steps, so that a crash or an answer that is lost leaves
// it with one that is good. It asks the founder for a certificate of the new key, and
// saves that with the key; nothing else changes. When the founder meets the new key for
// the first time, whoever holds it has it on its disk: then the name moves to it, and the
// old key is revoked.
//
//	request: a rotation (membership.Rotation)
//	answer:  as in the confirm protocol
var (
	errRootHere = errors.New("the founder's directory holds the overlay's root key as well: another key for the node alone would change nothing")
	errInOffice = errors.New("this node's key is an authority of the overlay: another member has to be promoted, and this one demoted, first")
	errNoOffice = errors.New("no authority is connected: only one gives a name to another key; try again when one is there")
	errNoRecord = errors.New("nothing is saved, so the new key would be lost with the process")
	errRotated  = errors.New("there is another key already, or it is being asked for: this peer has it from its next start on")
)

// rotationsKept is how long the founder waits for a key that it has given a certificate:
// until that cannot be renewed any more.
const rotationsKept = membership.MaxMember + membership.RenewFor

// How many keys are given a day: rotationsMax to those of one invitation, and rotationsOfAll
// to all, as a delegate makes any number of invitations. Each costs an entry of the list in
// the end, and what all cost within membership.RevokedFor has to leave room in it for those
// whom the founder revokes.
const (
	rotationsMax   = 4
	rotationsOfAll = 64
)

// relievesMax is how often a day a name can go to another key by an invitation that is used
// again and again: a container that is made anew every half an hour. They count to
// rotationsOfAll as well.
const relievesMax = 48

var errManyKeys = errors.New("members have had as many keys as there are in a day: try again tomorrow")

// rotations counts them.
type rotations struct {
	day time.Time
	of  map[membership.Key]int
	all int
}

// succession says that a key is to take the place of another.
type succession struct {
	old     peerid.ID
	until   time.Time // nobody waits for it any longer
	arrived bool      // it does now
}

// Rotate has this peer be another key after its next start, under the same name: the
// founder, which has to be connected, signs for it, and revokes the old key when it meets
// the new one. When it returns the new key is saved. This Roster goes on with the old one.
//
// A Roster does so once: the founder, when it is asked again, puts the key out that it gave
// before, and that may be the one that is saved.
func (r *Roster) Rotate(ctx context.Context) error {
	if r.root != nil {
		return errRootHere
	}
	if r.authority() {
		return errInOffice
	}
	if r.cfg.State == nil {
		return errNoRecord
	}
	if !r.rotating.TryLock() {
		return errRotated
	}
	defer r.rotating.Unlock()
	r.mu.Lock()
	rotated := r.successor != nil
	r.mu.Unlock()
	if rotated {
		return errRotated
	}
	_, next, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	request, err := membership.Rotation(r.overlay, r.cfg.Key, next)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	for _, n := range r.cfg.Network.Neighbours() {
		if m, ok := r.Member(n.Peer); !ok || !r.isAuthority(m) {
			continue
		}
		b, err := r.cfg.Network.Ask(ctx, n.Peer, RotateProtocol, request)
		if err != nil {
			return err
		}
		a, err := readConfirmAnswer(b)
		if err != nil {
			return err
		}
		if a.status != confirmOK {
			return fmt.Errorf("the authority refuses: %s", a.text)
		}
		return r.become(next, a)
	}
	return errNoOffice
}

// become saves that the next start is as another key.
func (r *Roster) become(next ed25519.PrivateKey, a confirmAnswer) error {
	id, err := PeerID(next)
	if err != nil {
		return err
	}
	m, err := membership.VerifyChain(a.chain, r.overlay, r.now(), r.Revocations())
	if err != nil {
		return fmt.Errorf("the new key's membership: %w", err)
	}
	if m.Peer != id || m.Label != r.Own().Label {
		return errors.New("the new key's membership is of another key or name")
	}
	r.mu.Lock()
	r.successor = &Saved{Chain: a.chain, Label: m.Label, Delegation: a.delegation, Seed: next.Seed()}
	r.mu.Unlock()
	if err := r.Save(); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.successor = nil
		return err
	}
	return nil
}

// AnswerRotate answers the RotateProtocol: the founder gives a certificate to the key that
// is to take a member's place.
func (r *Roster) AnswerRotate(ctx context.Context, from *membership.Member, request []byte) ([]byte, error) {
	if !r.authority() {
		return nil, ErrNotFounder
	}
	old, next, err := membership.OpenRotation(request, r.overlay)
	if err != nil {
		return nil, err
	}
	if old != membership.KeyOf(from.Peer) {
		return nil, errors.New("a rotation of another peer's key")
	}
	a, err := r.succeed(ctx, from, next.Peer())
	if err != nil {
		r.cfg.Log.Info("refusing another key to a member", "peer", from.Peer, "err", err)
		a = confirmAnswer{status: confirmRefused, text: err.Error()}
	}
	return a.append(nil), nil
}

// succeed signs for the key that is to take a member's place. One that was to do so before
// and has not come never will: somebody else may have it.
func (r *Roster) succeed(ctx context.Context, m *membership.Member, next peerid.ID) (confirmAnswer, error) {
	now := r.now()
	if err := r.mayHave(m, next); err != nil {
		return confirmAnswer{}, err
	}
	if err := r.mayRotate(m, now); err != nil {
		return confirmAnswer{}, err
	}
	r.registry.issuing.Lock()
	defer r.registry.issuing.Unlock()
	serial, err := r.keepName(ctx, m)
	if err != nil {
		return confirmAnswer{}, err
	}
	if before, ok := r.registry.successor(m.Peer); ok {
		if err := r.revokeKeys(now, before); err != nil {
			return confirmAnswer{}, err
		}
		r.registry.succeeded(before)()
	}
	chain, err := r.signer.Issuer().Issue(next, membership.MemberOptions{
		Label: m.Label, Wildcard: m.Wildcard, Roles: m.Roles, Tags: m.Tags, Serial: serial, Invitation: m.Invitation, Inviter: m.Inviter,
	}, now)
	if err != nil {
		return confirmAnswer{}, err
	}
	a := confirmAnswer{status: confirmOK, text: m.Label, chain: chain}
	if m.Roles.Has(membership.RoleDelegate) {
		if a.delegation, err = r.signer.Issuer().Delegate(next, m.Roles, m.Tags, time.Time{}, now); err != nil {
			return confirmAnswer{}, err
		}
	}
	r.registry.noteSuccession(next, succession{old: m.Peer, until: now.Add(rotationsKept)})()
	if err := r.holds(m); err != nil { // it was revoked meanwhile, and Revoke may not have seen the new key
		err = errors.Join(err, r.revokeKeys(now, next))
		r.registry.succeeded(next)()
		return confirmAnswer{}, err
	}
	return a, nil
}

// mayHave says why a key is not to take a member's place; nil if it may.
func (r *Roster) mayHave(m *membership.Member, next peerid.ID) error {
	if !m.Confirmed || membership.CheckLabel(m.Label) != nil {
		return errors.New("only a member that is confirmed, and has a name, can have another key")
	}
	if err := r.holds(m); err != nil {
		return err
	}
	_, known := r.Member(next)
	if old, ok := r.registry.predecessor(next); known || next == r.self || r.Revoked(next) || ok && old != m.Peer {
		return errors.New("the new key is a member's, or was one's, or is to take another's place")
	}
	if below := r.below(m.Peer); len(below) > 0 {
		return fmt.Errorf("it is a delegate, and whom it has confirmed would end with its key; the founder has to renew them first: %s", strings.Join(below, ", "))
	}
	return nil
}

// keepName sees to it that a member's name is its own here, and returns the serial with
// which it is: what is signed next is the founder's word, also for who has had a delegate's
// only. issuing is held.
func (r *Roster) keepName(ctx context.Context, m *membership.Member) (serial uint64, err error) {
	held, ok := r.registry.get(m.Label)
	if ok && held.Peer != m.Peer || m.Label == r.Own().Label || !ok && r.takenElsewhere(ctx, m.Label, m.Peer) {
		return 0, fmt.Errorf("%w: %q", ErrLabelTaken, m.Label)
	}
	if !ok {
		held = heldBy(m)
		held.Serial = r.registry.nextSerial(r.now())
		r.registry.set(m.Label, held)()
	}
	return held.Serial, nil
}

// below returns the labels of members that a delegate has confirmed, as far as known.
func (r *Roster) below(delegate peerid.ID) (labels []string) {
	key, now, l := membership.KeyOf(delegate), r.now(), r.Revocations()
	out := func(c confirmedLabel) bool {
		return l.Has(membership.RevokePeer, membership.KeyOf(c.Peer)) || l.Has(membership.RevokeInvited, c.Invitation)
	}
	for _, m := range r.Members() {
		if m.Delegate == key && m.Confirmed {
			labels = append(labels, m.Label)
		}
	}
	r.registry.mu.Lock()
	defer r.registry.mu.Unlock()
	for label, c := range r.registry.labels {
		if c.Delegate == key && now.Before(c.NotAfter) && !out(c) && !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
	}
	slices.Sort(labels)
	return labels
}

// mayRotate counts one more key for a member.
func (r *Roster) mayRotate(m *membership.Member, now time.Time) error {
	return r.countKey(m, rotationsMax, now)
}

// relieve revokes who has a name, for another that came by the same invitation, which is
// used again and again. The registry's issuing is held.
func (r *Roster) relieve(held confirmedLabel, m *membership.Member, now time.Time) error {
	if r.Revoked(held.Peer) {
		return nil
	}
	if err := r.countKey(m, relievesMax, now); err != nil {
		return err
	}
	r.cfg.Log.Info("a name goes to another key that came by the same invitation", "label", m.Label, "from", held.Peer, "to", m.Peer)
	return r.revokeKeys(now, held.Peer)
}

// countKey counts one more key of those of an invitation, which may have so many a day.
func (r *Roster) countKey(m *membership.Member, most int, now time.Time) error {
	account := m.Invitation
	if account.IsZero() {
		account = membership.KeyOf(m.Peer)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if day := now.Truncate(24 * time.Hour); !day.Equal(r.rotations.day) {
		r.rotations = rotations{day: day, of: map[membership.Key]int{}}
	}
	switch {
	case r.rotations.of[account] >= most:
		return fmt.Errorf("those of its invitation have had %d keys today: try again tomorrow", most)
	case r.rotations.all >= rotationsOfAll:
		return errManyKeys
	}
	r.rotations.of[account]++
	r.rotations.all++
	return nil
}

// revokeKeys ends keys, and nothing else.
func (r *Roster) revokeKeys(now time.Time, keys ...peerid.ID) error {
	r.revoking.Lock()
	defer r.revoking.Unlock()
	var entries []membership.Revocation
	for _, k := range keys {
		entries = append(entries, membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(k), Until: now.Add(membership.RevokedFor)})
	}
	return r.sign(entries, now)
}

// arrived is called when a member has shown its chain and proved its key. If it is one
// that takes another's place, it does now.
func (r *Roster) arrived(m *membership.Member, chain []byte) {
	if !r.authority() {
		return
	}
	old, ok := r.registry.replaces(m.Peer)
	if !ok {
		return
	}
	chain = append([]byte(nil), chain...)
	r.cfg.Network.Go(func(ctx context.Context) {
		// In this order: after a crash between the two the old key is out, and the new one
		// finds its name free.
		if err := r.revokeKeys(r.now(), old); err != nil {
			level := slog.LevelError
			if errors.Is(err, ErrPending) {
				level = slog.LevelInfo // it comes again
			}
			r.cfg.Log.Log(ctx, level, "a key that was replaced is not revoked", "old", old, "new", m.Peer, "err", err)
			r.registry.noteSuccession(m.Peer, succession{old: old, until: r.now().Add(rotationsKept)})()
			return
		}
		r.inherit(m, old)
		r.registry.succeeded(m.Peer)()
		r.cfg.Log.Info("a member has another key", "label", m.Label, "old", old, "new", m.Peer)
		r.tellIssuers(ctx, m.Peer, chain)
	})
}

// inherit gives a member the name of the key whose place it takes, if that is the name
// in its chain: it may have another, by a delegate's word.
func (r *Roster) inherit(m *membership.Member, old peerid.ID) {
	r.registry.issuing.Lock()
	defer r.registry.issuing.Unlock()
	if held, ok := r.registry.get(m.Label); ok && held.Peer == old {
		r.registry.set(m.Label, heldBy(m))()
	}
}

// noteSuccession notes that one key is to take the place of another. What it returns
// waits until that is on the disk.
func (r *registry) noteSuccession(next peerid.ID, s succession) (wait func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.successions[next] = s
	return r.append(successionRecord(next, s))
}

// replaces says that a key takes the place of another now, and whose: once.
func (r *registry) replaces(next peerid.ID) (old peerid.ID, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.successions[next]
	if !ok || s.arrived {
		return peerid.ID{}, false
	}
	s.arrived = true
	r.successions[next] = s
	return s.old, true
}

// succeeded notes that nobody waits for a key any more. What it returns waits until that
// is on the disk.
func (r *registry) succeeded(next peerid.ID) (wait func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.successions, next)
	return r.append(successionRecord(next, succession{}))
}

// predecessor returns the key whose place one is to take.
func (r *registry) predecessor(next peerid.ID) (peerid.ID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.successions[next]
	return s.old, ok
}

// successor returns the key that is to take the place of one.
func (r *registry) successor(old peerid.ID) (peerid.ID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for next, s := range r.successions {
		if s.old == old {
			return next, true
		}
	}
	return peerid.ID{}, false
}
