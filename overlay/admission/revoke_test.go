package admission

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// A list goes to all neighbours, from them to theirs, and no further question is
// asked when all have it.
func TestListSpreads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		var row []*peer
		for range 5 {
			row = append(row, w.join(earth.token(membership.InviteOptions{}), "peer"))
		}
		bad := w.join(earth.token(membership.InviteOptions{}), "bad")
		bad.leave()
		all := append([]*peer{earth}, row...)
		for i, a := range all {
			for j, b := range all {
				if j > i+1 {
					w.cut(a, b)
				}
			}
		}
		if err := earth.Revoke(bad.Self(), Scope{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i, p := range all {
			if p.Revocations().Seq() != 1 || !p.Revoked(bad.Self()) {
				t.Errorf("place %d has list %d", i, p.Revocations().Seq())
			}
		}
		asked := w.asked[RevocationProtocol.Name]
		for _, p := range all {
			for _, n := range p.Neighbours() {
				p.CompareLists(t.Context(), n.Peer)
			}
		}
		if got := w.asked[RevocationProtocol.Name] - asked; got != 2*(len(all)-1) {
			t.Errorf("%d questions where nobody has news, want one for each pair and direction", got)
		}
	})
}

// Whoever asks, both have the newer list afterwards.
func TestCompareLists(t *testing.T) {
	t.Parallel()
	for _, newer := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t)
			earth := w.found("earth")
			mars := w.join(earth.token(membership.InviteOptions{}), "mars")
			w.cut(earth, mars)
			for i := range 3 {
				if err := earth.Revoke(peerid.ID{byte(i + 1)}, Scope{}); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			if mars.Revocations().Seq() != 0 {
				t.Fatal("mars has the list already")
			}
			w.mend()
			if newer {
				earth.CompareLists(t.Context(), mars.Self())
			} else {
				mars.CompareLists(t.Context(), earth.Self())
			}
			if got := mars.Revocations().Seq(); got != 3 || !mars.Revoked(peerid.ID{2}) {
				t.Errorf("mars has list %d", got)
			}
			synctest.Wait()
		})
	}
}

// Lists that another root has signed, or that are damaged, and requests that make
// no sense, change nothing, and are said.
func TestListRefused(t *testing.T) {
	t.Parallel()
	w, other := newTown(t), newTown(t)
	earth := w.found("earth")
	mars := w.join(earth.token(membership.InviteOptions{}), "mars")
	sun := other.found("sun")
	if err := sun.Revoke(peerid.ID{1}, Scope{}); err != nil {
		t.Fatal(err)
	}
	foreign := sun.Revocations().Bytes()
	from := earth.Own().Member
	for what, request := range map[string][]byte{
		"another overlay's": numbered{number: 9, list: foreign}.append(nil),
		"damaged":           numbered{number: 9, list: foreign[:len(foreign)-1]}.append(nil),
	} {
		before := len(warnings(mars.log()))
		if _, err := mars.AnswerList(t.Context(), from, request); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if mars.Revocations() != nil || mars.changed != 0 {
			t.Errorf("%s: list %d is in force", what, mars.Revocations().Seq())
		}
		if got := len(warnings(mars.log())) - before; got != 1 {
			t.Errorf("%s: said %d times", what, got)
		}
	}
	for what, request := range map[string][]byte{"nothing": nil, "half a number": {0, 0, 0, 0}, "a list cut short": append(numbered{number: 9}.append(nil)[:8], 0, 0, 0, 9, 1)} {
		if b, err := mars.AnswerList(t.Context(), from, request); err == nil {
			t.Errorf("%s is answered with %x", what, b)
		}
	}
	// Whose list is lower gets the newer one, whatever it has sent.
	if err := earth.Revoke(peerid.ID{5}, Scope{}); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	b, err := mars.AnswerList(t.Context(), from, numbered{}.append(nil))
	if n, e := readNumbered(b); err != nil || e != nil || n.number != 1 || len(n.list) == 0 {
		t.Errorf("%+v, %v, %v", n, err, e)
	}
}

// Only the founder revokes, and not itself. What it does is saved when Revoke has
// returned, and a label's next holder is not hit.
func TestRevokeRights(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	dir := openDir(t)
	earth := w.newPeer(nil, dir)
	earth.run(Found(earth.config(), "example.com", "earth"))
	mars := w.join(earth.token(membership.InviteOptions{}), "mars")
	if err := mars.Revoke(earth.Self(), Scope{}); !errors.Is(err, ErrNotFounder) {
		t.Errorf("a member revokes: %v", err)
	}
	if err := earth.Revoke(earth.Self(), Scope{}); !errors.Is(err, ErrFounder) {
		t.Errorf("the founder itself: %v", err)
	}
	inv := mars.Own().Member.Invitation
	mars.leave()
	if err := earth.Revoke(mars.Self(), Scope{}); err != nil {
		t.Fatal(err)
	}
	l := earth.Revocations()
	if !l.Has(membership.RevokePeer, membership.KeyOf(mars.Self())) || !l.Has(membership.RevokeInvitation, inv) {
		t.Errorf("entries: %+v", l.Entries())
	}
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if saved, err := membership.OpenRevocationList(s.Revocation, s.Overlay()); err != nil || saved.Seq() != l.Seq() {
		t.Errorf("saved: %v, %v", saved, err)
	}
}

// Several revocations at once are all in the list, each by a number of its own.
func TestRevokeAtTheSameTime(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if err := earth.Revoke(peerid.ID{byte(i + 1)}, Scope{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 16 {
		if !earth.Revoked(peerid.ID{byte(i + 1)}) {
			t.Errorf("revocation %d is lost", i)
		}
	}
}

// A founder that was restored from an older copy of its state has an older list:
// it learns the newer one from the first member it meets, and what it revokes then
// comes on top.
func TestRestoredFounderLearns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		dir := openDir(t)
		earth := w.newPeer(nil, dir)
		earth.run(Found(earth.config(), "example.com", "earth"))
		if err := earth.Save(); err != nil {
			t.Fatal(err)
		}
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		copied, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		first, second := peerid.ID{1}, peerid.ID{2}
		for _, p := range []peerid.ID{first, second} {
			if err := earth.Revoke(p, Scope{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		earth.leave()
		again := w.newPeer(earth.key, openDir(t))
		again.run(Resume(again.config(), copied, nil))
		if again.Revoked(first) || !again.Founder() {
			t.Fatal("the copy is not an older one")
		}
		again.CompareLists(t.Context(), mars.Self())
		if !again.Revoked(first) || !again.Revoked(second) || again.Revocations().Seq() != 2 {
			t.Errorf("the founder has list %d", again.Revocations().Seq())
		}
		if got := again.Sweep(); len(got) != 2 || !got[0].Revoked {
			t.Errorf("what the founder drops: %+v", got)
		}
		if again.LabelRevoked("mars") {
			t.Error("a member's label is revoked")
		}
		third := peerid.ID{3}
		if err := again.Revoke(third, Scope{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, p := range []*peer{again, mars} {
			for _, id := range []peerid.ID{first, second, third} {
				if !p.Revoked(id) {
					t.Errorf("%v is a member again", id)
				}
			}
		}
		if saved, err := Load(again.dir); err != nil || saved == nil || len(saved.Revocation) == 0 {
			t.Errorf("saved: %+v, %v", saved, err)
		}
	})
}

// A founder that was restored from an older copy and has revoked somebody before it
// met a member has made a list of which neither contains the other, with a number
// that may be lower, the same or higher: it puts one in force that has all entries,
// and nobody is a member again.
func TestListsAreUnited(t *testing.T) {
	t.Parallel()
	for own := 1; own <= 3; own++ {
		for _, hears := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t)
				dir := openDir(t)
				earth := w.newPeer(nil, dir)
				earth.run(Found(earth.config(), "example.com", "earth"))
				if err := earth.Save(); err != nil {
					t.Fatal(err)
				}
				mars := w.join(earth.token(membership.InviteOptions{}), "mars")
				venus := w.join(earth.token(membership.InviteOptions{}), "venus")
				copied, err := Load(dir)
				if err != nil {
					t.Fatal(err)
				}
				var all []peerid.ID
				revoke := func(p *peer) {
					id := peerid.ID{byte(len(all) + 1)}
					all = append(all, id)
					if err := p.Revoke(id, Scope{}); err != nil {
						t.Fatal(err)
					}
				}
				revoke(earth)
				revoke(earth)
				synctest.Wait()
				earth.leave()
				again := w.newPeer(earth.key, openDir(t))
				again.run(Resume(again.config(), copied, nil))
				w.cut(again, mars)
				w.cut(again, venus)
				for range own {
					revoke(again)
				}
				synctest.Wait()
				w.mend()
				meet(t, again, mars, venus)
				if hears {
					again.HearNumber(mars.Self(), mars.Revocations().Rank())
				} else {
					mars.HearNumber(again.Self(), again.Revocations().Rank())
					synctest.Wait()
					again.CompareLists(t.Context(), venus.Self()) // of its pulse
				}
				synctest.Wait()
				for _, p := range []*peer{again, mars, venus} {
					for _, id := range all {
						if !p.Revoked(id) {
							t.Errorf("%d beside 2, heard %v: %v is a member again, by list %d", own, hears, id[0], p.Revocations().Seq())
						}
					}
					if p.Revocations().Seq() != again.Revocations().Seq() {
						t.Errorf("lists %d and %d", p.Revocations().Seq(), again.Revocations().Seq())
					}
				}
				if n := len(warnings(again.log())); n != 1 {
					t.Errorf("said %d times:\n%s", n, again.log())
				}
				// Once each list was seen, numbers are enough.
				asked := w.asked[RevocationProtocol.Name]
				for _, p := range []*peer{mars, venus} {
					again.CompareLists(t.Context(), p.Self())
					again.HearNumber(p.Self(), p.Revocations().Rank())
				}
				synctest.Wait()
				if got := w.asked[RevocationProtocol.Name] - asked; got > 4 {
					t.Errorf("%d questions", got)
				}
				asked = w.asked[RevocationProtocol.Name]
				for _, p := range []*peer{mars, venus} {
					again.HearNumber(p.Self(), p.Revocations().Rank())
				}
				synctest.Wait()
				if got := w.asked[RevocationProtocol.Name] - asked; got != 0 {
					t.Errorf("%d questions where nobody has news", got)
				}
			})
		}
	}
}

// A neighbour that says nothing keeps nobody: the question ends in its time.
func TestCompareEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		w.hush(mars)
		start := time.Now()
		earth.CompareLists(t.Context(), mars.Self())
		if took := time.Since(start); took != compareTimeout {
			t.Errorf("ended after %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		earth.CompareLists(ctx, mars.Self())
		if took := time.Since(start); took != compareTimeout {
			t.Errorf("cancelled after %v", took)
		}
	})
}

func TestListIsSaid(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	if err := earth.Revoke(peerid.ID{1}, Scope{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(earth.log(), "number=1") {
		t.Errorf("log: %s", earth.log())
	}
}

// A label is looked up where it was given, and asked for elsewhere only if it was not;
// an ID in its place needs neither.
func TestRevokeLabel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		venus := w.join(earth.token(membership.InviteOptions{}), "venus")
		errUnknown := errors.New("no such name")
		nobody := func() (peerid.ID, error) { return peerid.ID{}, errUnknown }
		never := func() (peerid.ID, error) {
			t.Error("asked elsewhere")
			return nobody()
		}
		if err := mars.RevokeLabel("venus", Scope{}, never); !errors.Is(err, ErrNotFounder) {
			t.Errorf("by somebody else: %v", err)
		}
		if err := earth.RevokeLabel("pluto", Scope{}, nobody); !errors.Is(err, errUnknown) || earth.Revocations().Seq() != 0 {
			t.Errorf("a label of nobody: %v, list %d", err, earth.Revocations().Seq())
		}
		if err := earth.RevokeLabel("earth", Scope{}, func() (peerid.ID, error) { return earth.Self(), nil }); !errors.Is(err, ErrFounder) {
			t.Errorf("the founder: %v", err)
		}
		if err := earth.RevokeLabel("mars", Scope{}, never); err != nil || !earth.Revoked(mars.Self()) {
			t.Errorf("%v", err)
		}
		if err := earth.RevokeLabel(venus.Self().Label(), Scope{}, never); err != nil || !earth.Revoked(venus.Self()) {
			t.Errorf("by ID: %v", err)
		}
		other := peerid.ID{9}
		if err := earth.RevokeLabel("saturn", Scope{}, func() (peerid.ID, error) { return other, nil }); err != nil || !earth.Revoked(other) {
			t.Errorf("found elsewhere: %v", err)
		}
		synctest.Wait()
	})
}
