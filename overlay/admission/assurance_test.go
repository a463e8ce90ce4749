package admission

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// hearAll has all peers compare their lists with all neighbours, as each does from time
// to time, twice.
func (w *town) hearAll() {
	w.mu.Lock()
	peers := append([]*peer(nil), w.peers...)
	w.mu.Unlock()
	for range 2 {
		for _, p := range peers {
			for _, n := range p.Neighbours() {
				p.CompareLists(w.t.Context(), n.Peer)
			}
		}
	}
}

// TestCutOff is the attack: members that hold a peer's connections keep it from what the
// founder has revoked. It notices, says so, and takes nobody any more where it is told to;
// who hears of the founder through others does not, nor who hears of a delegate.
func TestCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars, venus := w.join(earth.token(membership.InviteOptions{}), "mars"), w.join(earth.token(membership.InviteOptions{}), "venus")
		saturn := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "saturn")
		var told []bool
		const most = 2 * time.Hour
		pluto := w.newPeer(nil, nil)
		cfg := pluto.config()
		cfg.MaxListAge, cfg.Aged = most, func(_ time.Time, old bool) { told = append(told, old) }
		token := earth.token(membership.InviteOptions{})
		pluto.run(Enter(cfg, token, "pluto"))
		if err := pluto.SettleName(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		check := func(what string, want error) {
			t.Helper()
			err := pluto.Admit(mars.Own().Chain, mars.Self())
			if (want == nil) != (err == nil) || !errors.Is(err, want) {
				t.Errorf("%s: %v, as of %v ago", what, err, time.Since(pluto.ListAsOf()))
			}
			told = nil
			if pluto.TellAge(); len(told) != 1 || told[0] != (want != nil) {
				t.Errorf("%s: told %v", what, told)
			}
		}
		const round = 20 * time.Minute
		pass := func(d time.Duration) {
			for range d / round {
				time.Sleep(round)
				w.hearAll()
			}
		}
		w.cut(pluto, earth) // it hears of it through the others
		w.cut(pluto, saturn)
		pass(2 * most)
		if age := time.Since(pluto.ListAsOf()); age > round {
			t.Errorf("it knows as of %v ago, by others", age)
		}
		check("by others", nil)

		for _, p := range []*peer{mars, venus} {
			w.cut(p, earth)
			w.cut(p, saturn)
		}
		w.cut(saturn, earth)
		pass(2 * most)
		check("cut off", membership.ErrStale)

		// A delegate's word suffices; one who is none gives none.
		w.mend()
		for _, p := range []*peer{mars, venus, saturn, pluto} {
			w.cut(p, earth)
		}
		pass(round)
		check("by a delegate", nil)

		// The founder takes it back, and nobody has heard of it who is cut off.
		w.mend()
		if err := earth.Revoke(saturn.Self(), Scope{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if pluto.Revocations().Seq() != 1 {
			t.Fatalf("list %d", pluto.Revocations().Seq())
		}
		for _, p := range []*peer{pluto, mars, venus, saturn} {
			w.cut(p, earth)
		}
		pass(2 * most)
		check("by a delegate that was revoked", membership.ErrStale)
		w.mend()
		pass(round)
		check("back", nil)
	})
}

// TestAssuranceForged: what others make up is taken by nobody, and what is for another
// list, or from the future, or older, changes nothing.
func TestAssuranceForged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, foreign := newTown(t), newTown(t)
		earth, sun := w.found("earth"), foreign.found("sun")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		time.Sleep(time.Hour)
		mars.HearAssurance(earth.Self(), earth.Assurance())
		at := mars.ListAsOf()
		if time.Since(at) > time.Second {
			t.Fatalf("as of %v", time.Since(at))
		}
		earth.setClock(membership.Tolerance + time.Hour)
		ahead := earth.Assurance()
		earth.setClock(0)
		flipped := append([]byte(nil), ahead...)
		flipped[5] ^= 1
		time.Sleep(time.Minute)
		for what, b := range map[string][]byte{
			"nothing": nil, "another overlay's": sun.Assurance(), "from the future": ahead, "changed": flipped, "garbage": make([]byte, 100),
		} {
			if mars.HearAssurance(earth.Self(), b); !mars.ListAsOf().Equal(at) {
				t.Errorf("%s: as of %v", what, mars.ListAsOf().Sub(at))
			}
		}
		if err := earth.Revoke(sun.Self(), Scope{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if a := mars.assured(); a != nil && a.Number != 1 {
			t.Errorf("what was said of list %d counts for list 1", a.Number)
		}
	})
}

// TestAssuranceIsKept over a restart: who is cut off stays so.
func TestAssuranceIsKept(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	dir := openDir(t)
	mars := w.joinAs(w.newPeer(nil, dir), earth.token(membership.InviteOptions{}), "mars")
	mars.HearAssurance(earth.Self(), earth.Assurance())
	at := mars.assured()
	if err := mars.Save(); err != nil || at == nil {
		t.Fatal(at, err)
	}
	mars.leave()
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	mars.run(Resume(mars.config(), s, nil))
	if again := mars.assured(); again == nil || !again.At.Equal(at.At) {
		t.Errorf("%+v is %+v after a restart", at, again)
	}
}

// A clock that was ahead, and is set right, leaves nothing behind that counts as news for
// as long as it was ahead: no issuer's own word, and no date of a list.
func TestAssuranceAfterClockWasAhead(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars := w.join(earth.token(membership.InviteOptions{}), "mars")
	saturn := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "saturn")
	meet(t, earth, mars, saturn)
	saturn.setClock(20 * testDay)
	saturn.Assurance()
	saturn.setClock(0)
	if mars.HearAssurance(saturn.Self(), saturn.Assurance()); mars.assured() == nil {
		t.Error("a delegate whose clock was ahead gives no word that counts")
	}
	earth.setClock(300 * testDay)
	if err := earth.Revoke(saturn.Self(), Scope{}); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	earth.setClock(0)
	mars.setClock(8 * testDay)
	if _, old := mars.listAge(); !old || mars.Revocations().Seq() != 1 {
		t.Errorf("cut off for eight days, it knows list %d as of %v ago", mars.Revocations().Seq(), mars.now().Sub(mars.ListAsOf()))
	}
	earth.setClock(8 * testDay)
	if mars.HearAssurance(earth.Self(), earth.Assurance()); mars.now().Sub(mars.ListAsOf()) > time.Minute {
		t.Error("the founder's word does not count")
	}
}
