package admission

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// council makes an overlay whose authorities are earth, venus and moon, of whom threshold
// have to agree, with the members that are named.
func (w *town) council(threshold int, names ...string) (earth, venus, moon *peer, rest []*peer) {
	w.t.Helper()
	earth = w.foundSaved("earth")
	venus = w.joinAs(w.newPeer(nil, openDir(w.t)), earth.token(membership.InviteOptions{}), "venus")
	moon = w.joinAs(w.newPeer(nil, openDir(w.t)), earth.token(membership.InviteOptions{}), "moon")
	for _, n := range names {
		rest = append(rest, w.joinAs(w.newPeer(nil, openDir(w.t)), earth.token(membership.InviteOptions{}), n))
	}
	for _, p := range []*peer{venus, moon} {
		if err := earth.Promote(w.t.Context(), p.Self(), p.Own().Label); err != nil {
			w.t.Fatal(err)
		}
	}
	w.wg.Wait()
	if threshold > 1 {
		if err := earth.SetThreshold(threshold); err != nil {
			w.t.Fatal(err)
		}
	}
	w.wg.Wait()
	all := append([]*peer{earth, venus, moon}, rest...)
	meet(w.t, all...)
	w.agreeing(all...)
	return earth, venus, moon, rest
}

// agreeing fails unless all have one list.
func (w *town) agreeing(all ...*peer) {
	w.t.Helper()
	w.wg.Wait()
	for _, p := range all {
		if p.Revocations().Digest() != all[0].Revocations().Digest() {
			w.t.Fatalf("%s has list %d, %s list %d", p.Own().Label, p.Revocations().Seq(), all[0].Own().Label, all[0].Revocations().Seq())
		}
	}
}

// revokes says whether a peer takes another for revoked.
func revokes(p, who *peer) bool { return p.Revoked(who.Self()) }

// The founder's directory is lost. The two that are left remove it, promote another one,
// invite, revoke and rename the threshold; who comes by an invitation of theirs is a member
// for all, and old members that were away meanwhile follow.
func TestFounderIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(2, "mars", "away", "pluto")
		mars, away, pluto := rest[0], rest[1], rest[2]
		away.leave()
		earth.leave()
		agree := func(err error) {
			t.Helper()
			if !errors.Is(err, ErrPending) {
				t.Fatalf("venus alone: %v", err)
			}
			w.wg.Wait()
			if err := moon.Approve(moon.Proposals()[0].ID); err != nil {
				t.Fatal(err)
			}
			w.wg.Wait()
		}
		agree(venus.Promote(t.Context(), mars.Self(), "mars"))
		agree(venus.Demote("founder", false))
		agree(venus.Revoke(pluto.Self(), Scope{}))
		w.agreeing(venus, moon, mars)
		if own := mars.Own(); !own.Issuer || !mars.authority() || own.Label != "mars" {
			t.Errorf("mars: %+v", own)
		}
		token := mars.token(membership.InviteOptions{})
		young := w.join(token, "young")
		if own := young.Own(); !own.Member.Confirmed || own.Label != "young" {
			t.Errorf("who was invited by mars: %+v", own)
		}
		w.wg.Wait()
		if err := young.hello(venus); err != nil {
			t.Errorf("at venus: %v", err)
		}
		if err := venus.hello(young); err != nil {
			t.Errorf("venus at the young one: %v", err)
		}
		// Who was away has the list of before, in which mars is nobody and earth rules.
		away.run(away.Roster, nil)
		for _, p := range []*peer{young, mars, venus} {
			away.HearCharter(p.Self(), p.Revocations().Charter())
			if err := p.hello(away); err != nil {
				t.Errorf("%s at who was away: %v", p.Own().Label, err)
			}
		}
		away.CompareLists(t.Context(), mars.Self())
		w.agreeing(venus, moon, mars, away, young)
		if !revokes(away, pluto) {
			t.Error("who was away does not know who was revoked")
		}
		if names, threshold := authorityNames(away); threshold != 2 || names != "mars moon venus" {
			t.Errorf("%d of %s", threshold, names)
		}
	})
}

func authorityNames(p *peer) (string, int) {
	all, threshold := p.Authorities()
	var names []string
	for _, a := range all {
		names = append(names, a.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " "), threshold
}

// An authority that was removed goes on: what it signs from its own state counts nowhere,
// whatever its number, and it takes nobody over that has heard of the removal.
func TestRemovedAuthorityGoesOn(t *testing.T) {
	t.Parallel()
	for _, threshold := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t)
			earth, venus, moon, rest := w.council(threshold, "mars", "pluto")
			mars, pluto := rest[0], rest[1]
			for _, p := range []*peer{earth, venus, mars, pluto} {
				w.cut(p, moon)
			}
			err := earth.Demote("moon", false)
			if threshold == 2 {
				w.wg.Wait()
				err = venus.Approve(venus.Proposals()[0].ID)
			}
			if err != nil {
				t.Fatal(err)
			}
			w.agreeing(earth, venus, mars)
			time.Sleep(settledFor + time.Hour)
			// It has not heard of it, and makes as many lists as it likes.
			for i := range 20 {
				err := moon.SetPolicy(fmt.Sprint("# mine ", i))
				if threshold == 1 && err != nil || threshold == 2 && !errors.Is(err, ErrPending) && !errors.Is(err, errCouncil) {
					t.Fatal(err)
				}
			}
			if err := moon.Revoke(pluto.Self(), Scope{}); threshold == 1 && err != nil {
				t.Fatal(err)
			}
			if err := moon.Demote("founder", true); threshold == 1 && err != nil {
				t.Fatal(err)
			}
			before := mars.Revocations().Digest()
			for _, p := range []*peer{mars, earth, venus} {
				for range 2 {
					if _, err := p.AnswerList(t.Context(), mars.Own().Member, numbered{number: 1 << 62, digest: 1, list: moon.Revocations().Bytes(), proposed: 1, proposals: moon.office.bytes()}.append(nil)); err != nil {
						t.Fatal(err)
					}
				}
				if p.Revocations().Digest() != before || p.Policy() != nil || revokes(p, pluto) || len(p.Proposals()) != 0 {
					t.Errorf("threshold %d: %s follows who was removed", threshold, p.Own().Label)
				}
			}
			// It comes back, and learns what it is.
			w.mend()
			moon.CompareLists(t.Context(), mars.Self())
			w.agreeing(earth, venus, mars)
			if moon.Revocations().IsAuthority(moon.overlay, moon.signer.Key()) && threshold == 2 {
				t.Error("it has heard of its removal, and takes itself for an authority")
			}
		})
	}
}

// Two authorities remove each other at once. All members settle on one of the two changes,
// whichever they heard first, and the log says so; the entries of the other are not lost.
func TestAuthoritiesFork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(1, "mars", "pluto", "bad")
		mars, pluto, bad := rest[0], rest[1], rest[2]
		left, right := []*peer{earth, mars}, []*peer{venus, moon, pluto, bad}
		w.part(left, right)
		if err := earth.Demote("venus", false); err != nil {
			t.Fatal(err)
		}
		if err := venus.Demote("founder", false); err != nil {
			t.Fatal(err)
		}
		if err := moon.Revoke(bad.Self(), Scope{}); err != nil {
			t.Fatal(err)
		}
		w.wg.Wait()
		if a, b := mars.Revocations(), pluto.Revocations(); !membership.Forks(a, b) {
			t.Fatal("they do not fork")
		}
		w.mend()
		for range 3 {
			for _, p := range []*peer{mars, pluto, earth, venus, moon} {
				for _, q := range []*peer{mars, pluto, earth, venus, moon} {
					if p != q {
						q.HearCharter(p.Self(), p.Revocations().Charter())
						p.CompareLists(t.Context(), q.Self())
					}
				}
			}
			w.wg.Wait()
		}
		w.agreeing(mars, pluto, moon)
		names, _ := authorityNames(mars)
		if names != "founder moon" && names != "moon venus" {
			t.Errorf("authorities: %s", names)
		}
		if !revokes(mars, bad) || !revokes(pluto, bad) {
			t.Errorf("who was revoked in one half is a member in the other: %v, %v", revokes(mars, bad), revokes(pluto, bad))
		}
		if !strings.Contains(mars.log()+pluto.log(), "contradict each other") {
			t.Error("nobody says so")
		}
	})
}

// Authorities of whom one is enough revoke two members at once, on two sides: both stay
// revoked.
func TestTwoListsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(1, "mars", "a", "b")
		mars, a, b := rest[0], rest[1], rest[2]
		w.part([]*peer{earth, mars, a, b}, []*peer{venus, moon})
		if err := errors.Join(earth.Revoke(a.Self(), Scope{}), venus.Revoke(b.Self(), Scope{})); err != nil {
			t.Fatal(err)
		}
		w.wg.Wait()
		w.mend()
		for range 3 {
			mars.CompareLists(t.Context(), venus.Self())
			earth.CompareLists(t.Context(), moon.Self())
			w.wg.Wait()
		}
		w.agreeing(earth, venus, moon, mars)
		if !revokes(mars, a) || !revokes(mars, b) {
			t.Errorf("revoked: %v, %v", revokes(mars, a), revokes(mars, b))
		}
	})
}

// A recovery line is worth one authority: alone where one has to agree, with another one
// where two have to; and what it gives is the node's own afterwards.
func TestRecoveryLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(1, "mars")
		mars := rest[0]
		line, err := earth.AddRecovery()
		if err != nil {
			t.Fatal(err)
		}
		if err := earth.SetThreshold(2); err != nil {
			t.Fatal(err)
		}
		w.agreeing(earth, venus, moon, mars)
		earth.leave()
		moon.leave() // all but one and the line are lost
		if err := mars.Recover("recover1 aaaa"); !errors.Is(err, membership.ErrRecoveryLine) {
			t.Errorf("another text: %v", err)
		}
		other, _, _ := membership.NewRecovery(mars.overlay)
		if err := mars.Recover(other); !errors.Is(err, membership.ErrRecoveryLine) {
			t.Errorf("a line that is no authority's: %v", err)
		}
		if err := mars.Recover(strings.ToUpper(line)); !errors.Is(err, ErrPending) {
			t.Fatalf("one of two: %v", err)
		}
		w.wg.Wait()
		if err := venus.Approve(venus.Proposals()[0].ID); err != nil {
			t.Fatal(err)
		}
		w.agreeing(venus, mars)
		if !mars.authority() || !mars.Own().Issuer {
			t.Fatal("mars is no authority")
		}
		for _, lost := range []string{"founder", "moon", "recovery"} {
			if err := mars.Demote(lost, false); lost == "recovery" && err != nil {
				t.Fatalf("%s: %v", lost, err) // its own signature, and the line's
			}
			w.wg.Wait()
			for _, q := range venus.Proposals() {
				if err := venus.Approve(q.ID); err != nil {
					t.Fatal(err)
				}
			}
			w.wg.Wait()
		}
		if names, threshold := authorityNames(venus); names != "mars venus" || threshold != 2 {
			t.Errorf("%d of %s", threshold, names)
		}
	})
}

// An authority cannot be revoked, rotates no key, and is a plain member again when it was
// removed.
func TestAuthorityKeepsItsKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, _, _ := w.council(1)
		if err := earth.Revoke(venus.Self(), Scope{}); !errors.Is(err, ErrFounder) {
			t.Errorf("an authority is revoked: %v", err)
		}
		if err := venus.Revoke(earth.Self(), Scope{}); !errors.Is(err, ErrFounder) {
			t.Errorf("the founder is revoked: %v", err)
		}
		if err := venus.Rotate(t.Context()); !errors.Is(err, errInOffice) {
			t.Errorf("an authority takes another key: %v", err)
		}
		if err := earth.Demote("venus", false); err != nil {
			t.Fatal(err)
		}
		w.wg.Wait()
		if venus.authority() || venus.SetPolicy("") == nil {
			t.Error("it is an authority still")
		}
		time.Sleep(20 * testDay)
		venus.Renew(t.Context())
		if own := venus.Own().Member; own.Authority != earth.overlay.Root || own.Label != "venus" {
			t.Errorf("renewed as %+v", own)
		}
		if err := earth.Revoke(venus.Self(), Scope{}); err != nil {
			t.Errorf("who was one: %v", err)
		}
	})
}

// What an authority has signed is void with its removal, or counts for a while.
func TestVoidAuthority(t *testing.T) {
	t.Parallel()
	for _, void := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t)
			earth, venus, moon, _ := w.council(1)
			token := moon.token(membership.InviteOptions{})
			late := moon.token(membership.InviteOptions{})
			earth.leave()
			venus.leave()
			young := w.join(token, "young")
			earth.run(earth.Roster, nil)
			venus.run(venus.Roster, nil)
			if young.Own().Member.Authority != membership.KeyOf(moon.Self()) {
				t.Fatalf("confirmed by %v", young.Own().Member.Authority)
			}
			moon.leave()
			w.mend()
			if err := earth.Demote("moon", void); err != nil {
				t.Fatal(err)
			}
			w.wg.Wait()
			if err := young.hello(venus); (err != nil) != void || void && !errors.Is(err, membership.ErrRevoked) {
				t.Errorf("void %v: whom it has confirmed: %v", void, err)
			}
			time.Sleep(time.Hour)
			if l := w.newPeer(nil, nil); void {
				l.run(Enter(l.config(), late, "late"))
				if err := l.hello(venus); err == nil {
					t.Error("somebody comes by a token that is void")
				}
			}
		})
	}
}

// A member whose state was rolled back to before a removal follows the others again.
func TestRollback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(1, "mars", "pluto")
		mars := rest[0]
		old := mars.document()
		if err := errors.Join(earth.Demote("moon", false), earth.Revoke(rest[1].Self(), Scope{})); err != nil {
			t.Fatal(err)
		}
		w.agreeing(earth, venus, mars)
		mars.leave()
		again := w.newPeer(mars.key, nil)
		again.run(Resume(again.config(), &old, nil))
		if again.Revocations().IsAuthority(earth.overlay, membership.KeyOf(moon.Self())) != true {
			t.Fatal("it is not rolled back")
		}
		venus.HearNumber(again.Self(), again.Revocations().Rank())
		w.agreeing(earth, venus, again)
		if !revokes(again, rest[1]) {
			t.Error("it does not know who was revoked")
		}
	})
}

// Somebody who was away for long comes back by a token of an authority of which it has
// never heard.
func TestTokenOfUnknownAuthority(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(1, "away", "mars")
		away, mars := rest[0], rest[1]
		away.leave()
		if err := venus.Promote(t.Context(), mars.Self(), "mars"); err != nil {
			t.Fatal(err)
		}
		w.agreeing(earth, venus, moon, mars)
		time.Sleep(membership.MaxMember + membership.RenewFor + 24*time.Hour)
		for _, p := range []*peer{earth, venus, moon, mars} {
			p.Renew(t.Context())
		}
		s := away.document()
		again := w.newPeer(away.key, nil)
		again.run(Resume(again.config(), &s, mars.token(membership.InviteOptions{})))
		if own := again.Own().Member; own.Authority != membership.KeyOf(mars.Self()) || own.Confirmed {
			t.Errorf("it has entered as %+v", own)
		}
		if err := again.hello(earth); err != nil {
			t.Error(err)
		}
		again.HearCharter(mars.Self(), mars.Revocations().Charter())
		if err := mars.hello(again); err != nil {
			t.Error(err)
		}
	})
}

// Who was not confirmed is promoted by nobody: its name would be older than all others'.
func TestPromoteProvisional(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.newPeer(nil, nil)
		mars.run(Enter(mars.config(), earth.token(membership.InviteOptions{}), "mars"))
		if err := mars.hello(earth); err != nil {
			t.Fatal(err)
		}
		if err := earth.Promote(t.Context(), mars.Self(), "mars"); !errors.Is(err, membership.ErrAuthority) {
			t.Errorf("one that was not confirmed: %v", err)
		}
		if err := earth.Promote(t.Context(), earth.Self(), "earth"); !errors.Is(err, membership.ErrAuthority) {
			t.Errorf("the founder: %v", err)
		}
	})
}
