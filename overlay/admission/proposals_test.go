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
