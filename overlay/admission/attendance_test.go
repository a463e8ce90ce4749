package admission

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// hears has a peer take the assurance that another one has, as its hello shows it.
func (p *peer) hears(q *peer) { p.HearAssurance(q.Self(), q.Assurance()) }

// No authority is heard of any more. Members go on among themselves after their certificates
// have ended, those that start again as well, for as long as the authorities have said;
// who was revoked before does not. Then nobody is a member of nobody's.
func TestNobodyIsThereToRenew(t *testing.T) {
	t.Parallel()
	for _, said := range []time.Duration{0, 90 * testDay} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t)
			earth := w.found("earth")
			moon := w.saved(earth, "moon", membership.InviteOptions{})
			mars := w.saved(earth, "mars", membership.InviteOptions{})
			bad := w.saved(earth, "bad", membership.InviteOptions{})
			meet(t, earth, moon, mars, bad)
			most := membership.DefaultUnattended
			if said != 0 {
				most = said
				if err := earth.SetUnattended(said); err != nil {
					t.Fatal(err)
				}
			}
			if err := earth.Revoke(bad.Self(), Scope{}); err != nil {
				t.Fatal(err)
			}
			w.wg.Wait()
			earth.leave()
			if since, until := moon.Unattended(); !since.IsZero() || !until.IsZero() {
				t.Errorf("on the first day: since %v, until %v", since, until)
			}
			end := moon.Own().Member.NotAfter
			time.Sleep(membership.MaxMember + testDay)
			if err := mars.resume(); err != nil {
				t.Fatal(err)
			}
			for _, p := range []*peer{moon, mars} {
				if p.Lapsed() != nil {
					t.Errorf("%s is no member: %v", p.Own().Label, p.Lapsed())
				}
			}
			if err := errors.Join(mars.hello(moon), moon.hello(mars)); err != nil {
				t.Errorf("they do not take each other for members: %v", err)
			}
			if err := bad.hello(moon); err == nil || moon.Revoked(bad.Self()) != true {
				t.Errorf("who was revoked is a member: %v", err)
			}
			since, until := moon.Unattended()
			if !until.Equal(end.Add(most)) || since.After(end) {
				t.Errorf("since %v, until %v; the certificate ended %v", since, until, end)
			}
			time.Sleep(time.Until(until) - time.Hour)
			if err := mars.hello(moon); err != nil {
				t.Errorf("an hour before the end: %v", err)
			}
			time.Sleep(2 * time.Hour)
			if err := mars.hello(moon); !errors.Is(err, membership.ErrExpired) || moon.Lapsed() == nil {
				t.Errorf("after it: %v, %v", err, moon.Lapsed())
			}
			if len(moon.Members()) != 0 {
				t.Errorf("%d members after it", len(moon.Members()))
			}
		})
	}
}

// An authority is back after long. What ends by that has a day to be renewed; who has not
// been then is no member until it is.
func TestAuthorityIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		moon := w.saved(earth, "moon", membership.InviteOptions{})
		mars := w.saved(earth, "mars", membership.InviteOptions{})
		meet(t, earth, moon, mars)
		earth.leave()
		time.Sleep(100 * testDay)
		if err := mars.hello(moon); err != nil {
			t.Fatal(err)
		}
		earth.run(earth.Roster, nil)
		earth.Renew(t.Context())
		moon.hears(earth)
		if err := mars.hello(moon); err != nil {
			t.Errorf("at once when the founder is back: %v", err)
		}
		if err := moon.sayHello(earth); err != nil {
			t.Fatal(err)
		}
		for range 24 {
			time.Sleep(time.Hour)
			moon.hears(earth)
		}
		if err := mars.hello(moon); !errors.Is(err, membership.ErrExpired) {
			t.Errorf("a day later: %v", err)
		}
		if err := mars.sayHello(moon); err != nil {
			t.Errorf("it is not renewed: %v", err)
		}
		if err := mars.hello(moon); err != nil {
			t.Error(err)
		}
	})
}

// A delegate's word is not that of an authority: it cannot be renewed itself. Nor is one
// from the future.
func TestWhoseWordCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.saved(earth, "venus", membership.InviteOptions{Roles: membership.RoleDelegate})
		moon := w.saved(earth, "moon", membership.InviteOptions{})
		meet(t, earth, venus, moon)
		time.Sleep(20 * time.Hour)
		moon.hears(earth)
		before := moon.Attended()
		if !before.Equal(time.Now().Truncate(time.Second)) {
			t.Errorf("as of %v, now %v", before, time.Now())
		}
		earth.leave()
		for range 5 {
			time.Sleep(time.Hour)
			moon.hears(venus)
		}
		if at := moon.assured(); at == nil || at.Delegate.IsZero() {
			t.Fatal("the delegate has given no word")
		}
		if !moon.Attended().Equal(before) {
			t.Errorf("by the delegate's word as of %v, before %v", moon.Attended(), before)
		}
		moon.heardOfAuthorities(time.Now().Add(membership.Tolerance + time.Second))
		moon.heardOfAuthorities(before.Add(-time.Hour))
		if !moon.Attended().Equal(before) {
			t.Errorf("as of %v, before %v", moon.Attended(), before)
		}
		// An authority says it again when the newest word is a delegate's.
		earth.run(earth.Roster, nil)
		earth.hears(venus)
		time.Sleep(time.Second)
		moon.hears(earth)
		if a := moon.assured(); !a.Delegate.IsZero() {
			t.Error("an authority that has a delegate's word gives none of its own")
		}
	})
}
