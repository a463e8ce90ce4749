package admission

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// rotated is a peer's next start after Rotate, by the key that is saved, not connected to
// those given.
func (p *peer) rotated(cut ...*peer) *peer {
	p.town.t.Helper()
	s, err := Load(p.dir)
	if err != nil || len(s.Seed) != ed25519.SeedSize {
		p.town.t.Fatalf("saved: %+v, %v", s, err)
	}
	p.leave()
	next := p.town.newPeer(ed25519.NewKeyFromSeed(s.Seed), p.dir)
	next.setClock(p.ahead)
	id, err := PeerID(next.key)
	if err != nil {
		p.town.t.Fatal(err)
	}
	p.town.mu.Lock()
	for _, q := range cut {
		p.town.cuts[[2]peerid.ID{id, q.Self()}], p.town.cuts[[2]peerid.ID{q.Self(), id}] = true, true
	}
	p.town.mu.Unlock()
	if err := next.resume(); err != nil {
		p.town.t.Fatal(err)
	}
	return next
}

// arrive shows a peer's chain to others, as its hello does, and waits for what follows.
func (p *peer) arrive(others ...*peer) error {
	for _, q := range others {
		if err := p.sayHello(q); err != nil {
			return err
		}
	}
	p.town.wg.Wait()
	return nil
}

// TestRotate: the name moves to the new key when the founder meets it; until then the old
// one is as good as ever, and from then on it is nobody, on any day, at anybody, also for
// who has stolen it, and can have no key in its place.
func TestRotate(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	moon := w.saved(earth, "moon", membership.InviteOptions{})
	mars := w.saved(earth, "mars", membership.InviteOptions{Roles: membership.RoleRelay})
	meet(t, earth, moon, mars)
	serial, invitation := mars.Own().Member.Serial, mars.Own().Member.Invitation

	if err := mars.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := mars.Own().Chain
	mars.Keep() // of the one that runs still: does not undo it
	if _, err := moon.Verify(old, mars.Self()); err != nil || moon.Revoked(mars.Self()) {
		t.Errorf("the old key before the new one is seen: %v", err)
	}
	next := mars.rotated(earth)
	if err := next.arrive(moon); err != nil {
		t.Fatal(err)
	}
	if earth.Revoked(mars.Self()) {
		t.Error("the old key is revoked before the founder has seen the new one")
	}
	w.mend()
	if err := next.arrive(earth, moon); err != nil {
		t.Fatal(err)
	}
	m := next.Own().Member
	if next.Self() == mars.Self() || m.Label != "mars" || !m.Confirmed || m.Serial != serial || m.Invitation != invitation || !m.Roles.Has(membership.RoleRelay) {
		t.Errorf("the new key is %+v", m)
	}
	if id, _ := earth.Holder("mars"); id != next.Self() {
		t.Errorf("mars is %v", id)
	}
	if strings.Contains(earth.log(), "more members were confirmed") {
		t.Error("it is said that a token was used too often")
	}
	number := earth.Revocations().Seq()
	if err := next.arrive(earth); err != nil || earth.Revocations().Seq() != number {
		t.Errorf("when it says hello again: %v, list %d after %d", err, earth.Revocations().Seq(), number)
	}
	// The thief, at once and on every later day.
	stale, _ := membership.VerifyChain(old, earth.Overlay(), earth.now(), nil)
	wish, err := membership.Rotation(earth.Overlay(), mars.key, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for day := 0; day <= 900; day += 12 {
		w.setClocks(time.Duration(day)*testDay, earth, moon, next)
		if _, err := earth.newList(); err != nil {
			t.Fatal(err)
		}
		for _, at := range []*peer{earth, moon} {
			_, err := at.Verify(old, mars.Self())
			if err == nil {
				t.Fatalf("on day %d the old key is a member at %s", day, at.Own().Label)
			}
			if _, err := at.Readmit(t.Context(), old, mars.Self(), err); err == nil {
				t.Fatalf("on day %d the old key is made a member at %s", day, at.Own().Label)
			}
		}
		if b, err := earth.AnswerRotate(t.Context(), stale, wish); err == nil && b[0] == confirmOK {
			t.Fatalf("on day %d the old key has another in its place", day)
		}
		if _, err := moon.Verify(next.Own().Chain, next.Self()); err != nil {
			t.Fatalf("on day %d the new key is none: %v", day, err)
		}
	}
}

// A crash, or an answer that does not come, leaves a member with a key that is good. What
// was given and not taken is never good again; a founder that starts again knows what it
// has given.
func TestRotateCut(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	mars := w.saved(earth, "mars", membership.InviteOptions{Label: "mars"})
	meet(t, earth, mars)
	// The answer is lost: the certificate is somebody's who may come with it.
	key := newKey(t)
	wish, err := membership.Rotation(earth.Overlay(), mars.key, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := earth.AnswerRotate(t.Context(), mars.Own().Member, wish)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := readConfirmAnswer(b)
	if err != nil || lost.status != confirmOK {
		t.Fatalf("%+v, %v", lost, err)
	}
	if err := mars.Confirm(t.Context(), "mars"); err != nil || earth.Revoked(mars.Self()) {
		t.Errorf("the old key is not renewed: %v", err)
	}
	if err := mars.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	id, err := PeerID(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := earth.Verify(lost.chain, id); !errors.Is(err, membership.ErrRevoked) {
		t.Errorf("what was given first is good: %v", err)
	}
	// The founder starts again before it meets the new key.
	if err := earth.Save(); err != nil {
		t.Fatal(err)
	}
	earth.leave()
	earth.Close()
	if err := earth.resume(); err != nil {
		t.Fatal(err)
	}
	next := mars.rotated()
	if err := next.arrive(earth); err != nil {
		t.Fatal(err)
	}
	if id, _ := earth.Holder("mars"); id != next.Self() || !earth.Revoked(mars.Self()) || next.Own().Label != "mars" {
		t.Errorf("mars is %v, the old key revoked: %v", id, earth.Revoked(mars.Self()))
	}
	// It comes when what it was given has ended.
	if err := next.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.setClocks(20*testDay, earth)
	w.setClocks(40*testDay, earth)
	next.setClock(40 * testDay)
	late := next.rotated()
	if err := late.arrive(earth); err != nil {
		t.Fatal(err)
	}
	if id, _ := earth.Holder("mars"); id != late.Self() || !earth.Revoked(next.Self()) || late.Own().Label != "mars" {
		t.Errorf("late: mars is %v, %q", id, late.Own().Label)
	}
}

// Who cannot have another key, and why.
func TestRotateRefused(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	venus := w.saved(earth, "venus", membership.InviteOptions{})
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	nowhere := w.join(earth.token(membership.InviteOptions{}), "nowhere")
	meet(t, earth, venus, mars)
	before := mars.document()
	if err := earth.Rotate(t.Context()); !errors.Is(err, errRootHere) {
		t.Errorf("the founder: %v", err)
	}
	if err := nowhere.Rotate(t.Context()); !errors.Is(err, errNoRecord) {
		t.Errorf("without a directory: %v", err)
	}
	w.cut(earth, mars)
	if err := mars.Rotate(t.Context()); !errors.Is(err, errNoOffice) {
		t.Errorf("without the founder: %v", err)
	}
	w.mend()
	wish := func(old, next ed25519.PrivateKey) []byte {
		b, err := membership.Rotation(earth.Overlay(), old, next)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	flipped := wish(mars.key, newKey(t))
	flipped[100] ^= 1
	for desc, c := range map[string]struct {
		at   *peer
		by   *peer
		wish []byte
	}{
		"asked of a member": {venus, mars, wish(mars.key, newKey(t))}, "another's key": {earth, venus, wish(mars.key, newKey(t))},
		"the same key": {earth, mars, wish(mars.key, mars.key)}, "a member's": {earth, mars, wish(mars.key, venus.key)},
		"the founder's": {earth, mars, wish(mars.key, earth.key)}, "changed": {earth, mars, flipped}, "cut": {earth, mars, flipped[:50]},
	} {
		if b, err := c.at.AnswerRotate(t.Context(), c.by.Own().Member, c.wish); err == nil && b[0] == confirmOK {
			t.Errorf("%s: it is given one", desc)
		}
	}
	for i := range 2 * rotationsMax {
		b, err := earth.AnswerRotate(t.Context(), mars.Own().Member, wish(mars.key, newKey(t)))
		if given := err == nil && b[0] == confirmOK; given != (i < rotationsMax) {
			t.Errorf("key %d of a day: %v", i+1, err)
		}
	}
	w.wg.Wait()
	if n := earth.Revocations().Len(); n > rotationsMax {
		t.Errorf("%d entries of the list", n)
	}
	if err := earth.Revoke(mars.Self(), Scope{}); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	earth.setClock(2 * testDay) // may be given others
	if b, err := earth.AnswerRotate(t.Context(), memberOf(t, before, earth), wish(mars.key, newKey(t))); err == nil && b[0] == confirmOK {
		t.Error("who is revoked is given one")
	}
	var none peerid.ID
	if _, ok := earth.registry.predecessor(none); ok || !bytes.Equal(before.Chain, mars.document().Chain) {
		t.Error("something was saved of what was refused")
	}
}

// TestRotateTwice: a process takes one other key, however often and by how many it is
// asked to. The founder would put out what it gave before, which is what is saved; with
// the answer lost nothing would be left.
func TestRotateTwice(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	meet(t, earth, mars)
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() { errs <- mars.Rotate(t.Context()) }()
	}
	took := 0
	for range cap(errs) {
		switch err := <-errs; {
		case err == nil:
			took++
		case !errors.Is(err, errRotated):
			t.Error(err)
		}
	}
	if err := mars.Rotate(t.Context()); took != 1 || !errors.Is(err, errRotated) {
		t.Errorf("%d times, and then %v", took, err)
	}
	w.wg.Wait()
	if n := earth.Revocations().Len(); n != 0 {
		t.Errorf("the founder has put out %d keys", n)
	}
	next := mars.rotated()
	if err := next.arrive(earth); err != nil {
		t.Fatal(err)
	}
	if id, _ := earth.Holder("mars"); id != next.Self() {
		t.Errorf("mars is %v", id)
	}
}

// Who is revoked, and has a key in its pocket that is to take its place, is out with both,
// also if it is given that in the same moment.
func TestRevokedWithSuccessor(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	moon := w.saved(earth, "moon", membership.InviteOptions{})
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	meet(t, earth, moon, mars)
	if err := mars.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := mars.successor
	if err := earth.Revoke(mars.Self(), Scope{}); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	id, err := PeerID(ed25519.NewKeyFromSeed(next.Seed))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []*peer{moon, earth} {
		if _, err := at.Verify(next.Chain, id); !errors.Is(err, membership.ErrRevoked) {
			t.Errorf("its next key at %s: %v", at.Own().Label, err)
		}
	}
	if _, waits := earth.registry.predecessor(id); waits {
		t.Error("the founder waits for it still")
	}
	for i := range 15 {
		p := w.saved(earth, "p", membership.InviteOptions{})
		key := newKey(t)
		wish, err := membership.Rotation(earth.Overlay(), p.key, key)
		if err != nil {
			t.Fatal(err)
		}
		m := p.Own().Member
		revoked := make(chan error, 1)
		go func() { revoked <- earth.Revoke(p.Self(), Scope{}) }()
		b, err := earth.AnswerRotate(t.Context(), m, wish)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-revoked; err != nil {
			t.Fatal(err)
		}
		a, err := readConfirmAnswer(b)
		if err != nil || a.status != confirmOK {
			continue
		}
		id, _ := PeerID(key)
		if _, err := earth.Verify(a.chain, id); !errors.Is(err, membership.ErrRevoked) {
			t.Fatalf("try %d: given while it was revoked, the next key is a member: %v", i, err)
		}
	}
}

// A delegate gets no other key while that would end members: what it has signed ends with
// the old one. Nor does one key take the place of two members.
func TestRotateOfDelegate(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	venus := w.saved(earth, "venus", membership.InviteOptions{Roles: membership.RoleDelegate})
	moon := w.saved(earth, "moon", membership.InviteOptions{})
	meet(t, earth, venus, moon)
	earth.leave()
	mars := w.saved(venus, "mars", membership.InviteOptions{})
	bad := w.saved(venus, "bad", membership.InviteOptions{})
	earth.run(earth.Roster, nil)
	for _, p := range []*peer{mars, bad} {
		meet(t, earth, p)
		earth.noteConfirmed(p.Own().Member) // as venus tells it
	}
	bad.leave()
	if err := earth.Revoke(bad.Self(), Scope{}); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	if err := venus.Rotate(t.Context()); err == nil || !strings.HasSuffix(err.Error(), ": mars") {
		t.Errorf("with a member below it: %v", err)
	}
	w.setClocks(20*testDay, earth, venus, moon, mars)
	if err := venus.Rotate(t.Context()); err != nil {
		t.Fatalf("the founder has renewed it: %v", err)
	}
	next := venus.rotated()
	if err := next.arrive(earth); err != nil || !next.Own().Issuer {
		t.Fatalf("a delegate: %v, %v", next.Own().Issuer, err)
	}
	if _, err := earth.Verify(mars.Own().Chain, mars.Self()); err != nil {
		t.Error(err)
	}
	key := newKey(t)
	for i, p := range []*peer{moon, mars} {
		wish, err := membership.Rotation(earth.Overlay(), p.key, key)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := earth.AnswerRotate(t.Context(), p.Own().Member, wish); err != nil || (b[0] == confirmOK) != (i == 0) {
			t.Errorf("the same key for %s: %v, %v", p.Own().Label, b, err)
		}
	}
}

// A delegate cannot have the founder's word for a name that is another's, or the founder's
// own, by giving it to somebody who then asks for another key; and what the founder has
// not heard of before it does not date back.
func TestRotateTakesNoName(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	venus := w.saved(earth, "venus", membership.InviteOptions{Roles: membership.RoleDelegate})
	saturn := w.saved(earth, "saturn", membership.InviteOptions{Roles: membership.RoleDelegate})
	meet(t, earth, venus, saturn)
	earth.leave()
	venus.leave()
	mars := w.saved(saturn, "mars", membership.InviteOptions{}) // the founder is not told
	earth.run(earth.Roster, nil)
	venus.run(venus.Roster, nil)
	meet(t, earth, mars)
	began := venus.issuing().Certificate().NotBefore
	for label, want := range map[string]bool{"mars": false, "earth": false, "nobody": true} {
		puppet, key := newKey(t), newKey(t)
		id, _ := PeerID(puppet)
		chain, err := venus.issuing().Issue(id, membership.MemberOptions{Label: label, Wildcard: true, Serial: 1}, earth.now())
		if err != nil {
			t.Fatal(err)
		}
		m, err := earth.Verify(chain, id)
		if err != nil {
			t.Fatal(err)
		}
		wish, err := membership.Rotation(earth.Overlay(), puppet, key)
		if err != nil {
			t.Fatal(err)
		}
		b, err := earth.AnswerRotate(t.Context(), m, wish)
		if err != nil || (b[0] == confirmOK) != want {
			t.Errorf("%s: given %v, %v", label, b[0] == confirmOK, err)
		}
		if !want {
			continue
		}
		a, err := readConfirmAnswer(b)
		if err != nil {
			t.Fatal(err)
		}
		next, err := membership.VerifyChain(a.chain, earth.Overlay(), earth.now(), nil)
		if holder, _ := earth.Holder(label); holder != id {
			t.Errorf("%s is %v", label, holder)
		}
		if err != nil || next.Serial < uint64(began.Add(time.Minute).UnixMilli()) {
			t.Errorf("%s: serial %d, the delegation began %d: %v", label, next.Serial, began.UnixMilli(), err)
		}
	}
}

// Nor by giving it to the new key, before the founder meets that.
func TestArriveTakesNoName(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	venus := w.saved(earth, "venus", membership.InviteOptions{Roles: membership.RoleDelegate})
	moon := w.saved(earth, "moon", membership.InviteOptions{})
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	meet(t, earth, venus, moon, mars)
	if err := moon.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, err := PeerID(ed25519.NewKeyFromSeed(moon.successor.Seed))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := venus.issuing().Issue(id, membership.MemberOptions{Label: "mars", Wildcard: true}, earth.now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := earth.Verify(chain, id); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	if holder, _ := earth.Holder("mars"); holder != mars.Self() || !earth.Revoked(moon.Self()) {
		t.Errorf("mars is %v, the old key revoked: %v", holder, earth.Revoked(moon.Self()))
	}
	if err := mars.Confirm(t.Context(), "mars"); err != nil {
		t.Errorf("mars is not renewed: %v", err)
	}
}

// However many invitations a delegate makes for that, the list has room for those whom the
// founder revokes: what all are given in as long as an entry lasts takes less than half.
func TestRotationsOfAll(t *testing.T) {
	t.Parallel()
	earth := newTown(t).found("earth")
	given := 0
	for i := range 3 * rotationsOfAll {
		m := &membership.Member{Invitation: membership.Key{byte(i), byte(i >> 8), 1}}
		switch err := earth.mayRotate(m, time.Now()); {
		case err == nil:
			given++
		case !errors.Is(err, errManyKeys):
			t.Fatal(err)
		}
	}
	if given != rotationsOfAll || given*int(membership.RevokedFor/testDay) > membership.MaxRevocations/2 {
		t.Errorf("%d keys in a day", given)
	}
	if err := earth.mayRotate(&membership.Member{Invitation: membership.Key{1}}, time.Now().Add(testDay)); err != nil {
		t.Errorf("on the next day: %v", err)
	}
}

// memberOf is the member that a document's chain makes without a list.
func memberOf(t *testing.T, s Saved, at *peer) *membership.Member {
	t.Helper()
	m, err := membership.VerifyChain(s.Chain, at.Overlay(), at.now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
