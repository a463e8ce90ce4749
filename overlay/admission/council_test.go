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

// What one of two authorities wants waits until another one approves it, whoever carries
// it, and then holds everywhere. Nothing happens before.
func TestTwoHaveToAgree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(2, "mars", "pluto")
		mars, pluto := rest[0], rest[1]
		all := []*peer{earth, venus, moon, mars, pluto}
		w.cut(earth, moon) // they meet through others only
		w.cut(venus, moon)
		err := earth.Revoke(pluto.Self(), Scope{})
		if !errors.Is(err, ErrPending) || !strings.Contains(err.Error(), "pluto") || !strings.Contains(err.Error(), "1 of 2") {
			t.Errorf("what one wants: %v", err)
		}
		w.wg.Wait()
		for _, p := range all {
			if revokes(p, pluto) {
				t.Errorf("%s takes it for revoked by one word", p.Own().Label)
			}
			if len(p.Proposals()) != 1 {
				t.Fatalf("%s knows %d proposals", p.Own().Label, len(p.Proposals()))
			}
		}
		q := moon.Proposals()[0]
		if q.By != "founder" || q.Needs != 2 || !slices.Equal(q.Approved, []string{"founder"}) || q.Mine || !strings.HasPrefix(q.What, "revoke pluto") {
			t.Errorf("%+v", q)
		}
		if err := mars.Approve(q.ID); !errors.Is(err, ErrNotFounder) {
			t.Errorf("a member approves: %v", err)
		}
		if err := moon.Approve("zz"); !errors.Is(err, ErrNoProposal) {
			t.Errorf("what nobody has proposed: %v", err)
		}
		if err := earth.Approve(q.ID[:6]); !errors.Is(err, ErrPending) {
			t.Errorf("the one that has signed already: %v", err)
		}
		if err := moon.Approve(q.ID[:6]); err != nil {
			t.Errorf("the second: %v", err)
		}
		w.agreeing(earth, venus, moon, mars)
		for _, p := range []*peer{earth, venus, moon, mars} {
			if !revokes(p, pluto) || len(p.Proposals()) != 0 {
				t.Errorf("%s: revoked %v, %d proposals wait", p.Own().Label, revokes(p, pluto), len(p.Proposals()))
			}
		}
	})
}

// Two authorities want the same at once: it is one proposal's worth of agreement, not two
// that wait for ever.
func TestBothWantTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(2, "pluto")
		if err := earth.Revoke(rest[0].Self(), Scope{}); !errors.Is(err, ErrPending) {
			t.Fatal(err)
		}
		w.wg.Wait()
		if err := venus.Revoke(rest[0].Self(), Scope{}); err != nil {
			t.Errorf("the second that wants it: %v", err)
		}
		w.agreeing(earth, venus, moon)
		if !revokes(moon, rest[0]) || len(moon.Proposals()) != 0 {
			t.Errorf("revoked: %v, %d proposals", revokes(moon, rest[0]), len(moon.Proposals()))
		}
	})
}

// Several proposals wait, and the list changes under each when another one is approved:
// who has approved one signs it again under the new list, without being asked.
func TestProposalsOutliveOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(3, "a", "b", "c")
		for _, p := range rest {
			if err := earth.Revoke(p.Self(), Scope{}); !errors.Is(err, ErrPending) {
				t.Fatal(err)
			}
		}
		w.wg.Wait()
		for _, q := range venus.Proposals() {
			if err := venus.Approve(q.ID); !errors.Is(err, ErrPending) {
				t.Fatal(err)
			}
		}
		w.wg.Wait()
		for _, q := range moon.Proposals() {
			if err := moon.Approve(q.ID); err != nil && !errors.Is(err, ErrPending) {
				t.Fatal(err)
			}
			w.wg.Wait()
		}
		time.Sleep(time.Minute)
		for _, p := range []*peer{earth, venus, moon} {
			for _, q := range p.Neighbours() {
				p.CompareLists(t.Context(), q.Peer)
			}
		}
		w.agreeing(earth, venus, moon)
		for _, p := range rest {
			if !revokes(venus, p) {
				t.Errorf("%s is not revoked; %d proposals wait", p.Own().Label, len(venus.Proposals()))
			}
		}
	})
}

// Proposals survive the restart of who has made them and of who carries them, and end when
// nobody approves them.
func TestProposalsAreSaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, _ := w.council(2)
		if err := earth.SetPolicy("allow everybody to open tcp at everybody"); !errors.Is(err, ErrPending) {
			t.Fatal(err)
		}
		w.wg.Wait()
		id := earth.Proposals()[0].ID
		for _, p := range []*peer{earth, venus, moon} {
			s := p.document()
			again := w.newPeer(p.key, nil)
			again.run(Resume(again.config(), &s, nil))
			if all := again.Proposals(); len(all) != 1 || all[0].ID != id || all[0].Mine != (p == earth) {
				t.Errorf("%s: %+v", p.Own().Label, all)
			}
			again.leave()
		}
		time.Sleep(membership.ProposalFor + time.Hour)
		for _, p := range []*peer{earth, venus, moon} {
			p.deliberate()
			if n := len(p.Proposals()); n != 0 {
				t.Errorf("%d wait after their time", n)
			}
		}
		if err := venus.Approve(id); !errors.Is(err, ErrNoProposal) {
			t.Errorf("one that has ended: %v", err)
		}
	})
}

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
		for _, a := range left {
			for _, b := range right {
				w.cut(a, b)
			}
		}
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
		w.cut(earth, venus)
		w.cut(earth, moon)
		w.cut(mars, venus)
		w.cut(mars, moon)
		w.cut(a, venus)
		w.cut(a, moon)
		w.cut(b, venus)
		w.cut(b, moon)
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

// What a list says of proposals is bounded, and nobody but authorities makes any.
func TestProposalFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(2, "mars")
		mars := rest[0]
		stranger, err := membership.NewSigner(mars.overlay, mars.key)
		if err != nil {
			t.Fatal(err)
		}
		p, err := stranger.Propose(membership.Motion{Kind: membership.MovePolicy, At: time.Now(), Policy: "# mine"})
		if err != nil {
			t.Fatal(err)
		}
		forged := (&council{waiting: map[string]*pending{p.ID(): {Proposal: p}}}).bytes()
		earth.learnProposals(forged, mars.Self())
		if n := len(earth.Proposals()); n != 0 {
			t.Errorf("%d proposals of a member", n)
		}
		full := 0
		for i := range 2 * proposalsMax {
			for _, a := range []*peer{earth, venus, moon} {
				if err := a.SetPolicy(fmt.Sprint("# ", a.Own().Label, i)); errors.Is(err, errCouncil) {
					full++
				}
			}
		}
		w.wg.Wait()
		if full == 0 || len(mars.Proposals()) > proposalsMax {
			t.Errorf("%d refused, %d known", full, len(mars.Proposals()))
		}
		of := map[string]int{}
		for _, q := range mars.Proposals() {
			of[q.By]++
		}
		for by, n := range of {
			if n > proposalsOf {
				t.Errorf("%d of %s", n, by)
			}
		}
		for i := range forged {
			b := slices.Clone(forged)
			b[i] ^= 1
			earth.learnProposals(b, mars.Self())
			earth.learnProposals(forged[:i], mars.Self())
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

// What has happened is known to who has seen it, by name, and survives a restart.
func TestHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, moon, rest := w.council(2, "mars")
		if err := earth.Revoke(rest[0].Self(), Scope{}); !errors.Is(err, ErrPending) {
			t.Fatal(err)
		}
		w.wg.Wait()
		if err := moon.Approve(moon.Proposals()[0].ID); err != nil {
			t.Fatal(err)
		}
		w.agreeing(earth, venus, moon)
		of := func(p *Roster) string {
			var out []string
			for _, h := range p.History() {
				if len(h.By) != len(h.Keys) || h.Time.IsZero() {
					t.Errorf("%+v", h)
				}
				out = append(out, fmt.Sprintf("%s %s by %s", h.What, h.Whom, strings.Join(h.By, "+")))
			}
			return strings.Join(out, "; ")
		}
		seen := of(venus.Roster)
		for _, want := range []string{"promoted venus by founder", "promoted moon by founder", "threshold  by founder", "revoked mars by founder+moon"} {
			if !strings.Contains(seen, want) {
				t.Errorf("%q is not in %s", want, seen)
			}
		}
		if all := of(earth.Roster); !strings.Contains(all, "invited ") || !strings.Contains(all, "confirmed mars by earth") {
			t.Errorf("the founder: %s", all)
		}
		s := venus.document()
		venus.Close()
		again := w.newPeer(venus.key, venus.dir)
		r, err := Resume(again.config(), &s, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if of(r) != seen {
			t.Errorf("after a restart: %s", of(r))
		}
	})
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

// Who is told of a removal before the list comes that says so notes it all the same, and by
// the name that the authority had.
func TestHistoryOfWhatWasTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth, venus, _, rest := w.council(1, "mars")
		mars := rest[0]
		for _, p := range mars.neighbours() {
			w.cut(mars, p)
		}
		if err := venus.Demote("founder", false); err != nil {
			t.Fatal(err)
		}
		w.agreeing(earth, venus)
		mars.HearCharter(venus.Self(), venus.Revocations().Charter())
		if !mars.Revocations().WasAuthority(earth.overlay.Root) {
			t.Fatal("it is not told")
		}
		w.mend()
		mars.CompareLists(t.Context(), venus.Self())
		all := mars.History()
		if last := all[len(all)-1]; last.What != "demoted" || last.Whom != "founder" || !slices.Equal(last.By, []string{"venus"}) {
			t.Errorf("%+v", last)
		}
	})
}
