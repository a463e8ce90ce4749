package admission

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Two members that are called at once, and both bring a new certificate: the second is
// late, and no reason to part with who has brought it.
func TestReadmittedTwice(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	moon := w.saved(earth, "moon", membership.InviteOptions{})
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	meet(t, earth, moon)
	w.lapse([]*peer{mars}, earth, moon)
	old := mars.Own().Chain
	var answers [][]byte
	for i, at := range []*peer{earth, moon} {
		at.setClock(40*testDay + time.Duration(i)*time.Second)
		_, why := at.Verify(old, mars.Self())
		b, err := at.Readmit(t.Context(), old, mars.Self(), why)
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, b)
	}
	for _, b := range answers {
		if err := mars.TakeReadmission(b); err != nil {
			t.Error(err)
		}
	}
	if n := mars.renewals(); n != 1+1 { // with the first one
		t.Errorf("it was renewed %d times", n)
	}
}

// Nor what is worth less than what it has: one that ends before it.
func TestReadmissionShorter(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	first := mars.Own().Chain
	w.setClocks(10*testDay, earth, mars)
	if err := mars.Confirm(t.Context(), "mars"); err != nil {
		t.Fatal(err)
	}
	w.setClocks(29*testDay, earth)
	mars.setClock(29 * testDay)
	have := mars.Own().Member
	if !membership.NeedsRenewal(have, mars.now()) {
		t.Fatal("it is not due")
	}
	if err := mars.TakeReadmission(confirmAnswer{text: "mars", chain: first}.append(nil)); err != nil || mars.Own().Member != have {
		t.Errorf("an older one: %v, it has one until %v, had %v", err, mars.Own().Member.NotAfter, have.NotAfter)
	}
	if err := mars.sayHello(earth); err != nil {
		t.Fatal(err)
	}
	mars.Renew(t.Context())
	if !mars.Own().Member.NotAfter.After(have.NotAfter) {
		t.Error("it is not renewed")
	}
}

// A member that answers with another's membership keeps nobody from coming back: it is as
// if it had none to give.
func TestReadmissionOfAnother(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	moon := w.saved(earth, "moon", membership.InviteOptions{})
	liar := w.saved(earth, "liar", membership.InviteOptions{})
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	meet(t, earth, moon, liar)
	w.lapse([]*peer{mars}, earth, moon, liar)
	w.lie(map[peerid.ID]map[string][]byte{liar.Self(): {ConfirmProtocol.Name: confirmAnswer{text: "mars", chain: liar.Own().Chain}.append(nil)}})
	w.cut(moon, earth)
	if err := mars.sayHello(moon); !errors.Is(err, membership.ErrExpired) {
		t.Errorf("by the liar alone: %v", err)
	}
	w.mend()
	moon.setClock(40*testDay + readmitPause)
	if err := mars.sayHello(moon); err != nil {
		t.Errorf("by the founder, a moment later: %v", err)
	}
}

// Somebody who is asked for a membership and says nothing keeps nobody from coming back:
// neither delegates nor other members, as long as one reaches the founder.
func TestReadmissionBesideTheSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		moon := w.saved(earth, "moon", membership.InviteOptions{})
		sun := w.saved(earth, "sun", membership.InviteOptions{})
		mars := w.saved(earth, "mars", membership.InviteOptions{})
		pluto := w.saved(earth, "pluto", membership.InviteOptions{})
		up, silent := []*peer{earth, moon, sun}, []*peer{}
		for i := range 4 {
			opts := membership.InviteOptions{}
			if i < 2 {
				opts.Roles = membership.RoleDelegate
			}
			silent = append(silent, w.saved(earth, fmt.Sprint("silent", i), opts))
		}
		up = append(up, silent...)
		meet(t, up...)
		w.lapse([]*peer{mars, pluto}, up...)
		w.mu.Lock()
		for _, p := range silent {
			w.silent[p.Self()] = true
		}
		w.mu.Unlock()
		for _, p := range []*peer{sun, earth} { // the last ones to be asked
			p.leave()
			p.run(p.Roster, nil)
		}
		if err := mars.sayHello(moon); err != nil {
			t.Errorf("beside two delegates: %v", err)
		}
		for _, p := range append([]*peer{earth}, silent[:2]...) {
			w.cut(moon, p)
		}
		if err := pluto.sayHello(moon); err != nil {
			t.Errorf("beside two members: %v", err)
		}
	})
}

// Whoever was a delegate cannot help somebody out who was revoked with all that came by
// its invitation, by saying that it came by none; nor give roles that it did not have. What
// says what was known is given what it had, also by a founder that has started again.
func TestFormerDelegateDatesBack(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	venus := w.saved(earth, "venus", membership.InviteOptions{Roles: membership.RoleDelegate | membership.RoleRelay})
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	moon := w.saved(earth, "moon", membership.InviteOptions{Roles: membership.RoleRelay})
	pluto := w.saved(earth, "pluto", membership.InviteOptions{})
	meet(t, earth, venus, mars, moon, pluto)
	issuer := venus.issuing()
	if err := earth.Save(); err != nil {
		t.Fatal(err)
	}
	earth.leave()
	earth.Close()
	if err := earth.resume(); err != nil {
		t.Fatal(err)
	}
	earth.revoking.Lock()
	err := earth.sign([]membership.Revocation{{Kind: membership.RevokeInvited, Key: mars.Own().Member.Invitation, Until: earth.now().Add(membership.RevokedFor)}}, earth.now())
	earth.revoking.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	earth.setClock(400 * testDay)
	for desc, c := range map[string]struct {
		p     *peer
		roles membership.Roles
		by    membership.Key
		want  error
	}{
		"without its invitation": {mars, 0, membership.Key{}, errUnknown},
		"with another role":      {pluto, membership.RoleRelay, pluto.Own().Member.Invitation, errUnknown},
		"as it was":              {moon, membership.RoleRelay, moon.Own().Member.Invitation, nil},
	} {
		chain, err := issuer.Issue(c.p.Self(), membership.MemberOptions{Label: c.p.Own().Label, Roles: c.roles, Serial: 1, Invitation: c.by}, time.Now().Add(340*testDay))
		if err != nil {
			t.Fatal(err)
		}
		_, why := earth.Verify(chain, c.p.Self())
		if _, err := earth.Readmit(t.Context(), chain, c.p.Self(), why); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", desc, err)
		}
	}
}
