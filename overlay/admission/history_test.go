package admission

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

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
