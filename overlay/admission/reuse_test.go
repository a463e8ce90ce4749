package admission

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// A token that is used again and again gives one name to whoever came last, and puts out
// who had it.
func TestReuse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		token := earth.token(membership.InviteOptions{Label: "web", Reuse: true, Tags: "web"})
		var last *peer
		for i := range 5 {
			next := w.join(token, "")
			synctest.Wait()
			if own := next.Own(); own.Label != "web" || !own.Member.Confirmed || own.Member.Tags != "web" {
				t.Fatalf("number %d is %+v", i, own.Member)
			}
			if id, ok := earth.Holder("web"); !ok || id != next.Self() {
				t.Errorf("number %d has not the name: %v", i, id)
			}
			if last != nil && (!earth.Revoked(last.Self()) || !mars.Revoked(last.Self()) || !last.Revoked(last.Self())) {
				t.Errorf("who was there before number %d stays", i)
			}
			if _, err := mars.Verify(next.Own().Chain, next.Self()); err != nil {
				t.Errorf("number %d: %v", i, err)
			}
			last = next
		}
		// It renews like others, and its token can be ended.
		time.Sleep(membership.MaxMember / 2)
		last.Renew(t.Context())
		if own := last.Own(); own.Label != "web" || time.Until(own.Member.NotAfter) < membership.MaxMember*3/4 {
			t.Errorf("renewed: %+v", own.Member)
		}
	})
}

// Only the founder gives the name on; until it is there who comes is provisional, and
// nothing is taken from who has the name.
func TestReuseWithoutFounder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
		token := earth.token(membership.InviteOptions{Label: "web", Reuse: true})
		first := w.join(token, "")
		earth.leave()
		second := w.newPeer(nil, nil)
		second.run(Enter(second.config(), token, ""))
		if err := second.SettleName(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		if second.Own().Member.Confirmed || venus.Revoked(first.Self()) {
			t.Errorf("a delegate has confirmed it: %+v", second.Own().Member)
		}
		if _, err := venus.Verify(second.Own().Chain, second.Self()); err != nil {
			t.Errorf("it is no member: %v", err)
		}
		w.mu.Lock()
		w.peers = append(w.peers, earth)
		w.mu.Unlock()
		second.Renew(t.Context())
		synctest.Wait()
		if !second.Own().Member.Confirmed || !venus.Revoked(first.Self()) {
			t.Errorf("the founder is back: %+v", second.Own().Member)
		}
	})
}

// What a container does that starts in a loop costs the list no more than so many entries
// a day.
func TestReuseIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		token := earth.token(membership.InviteOptions{Label: "web", Reuse: true, Expires: 48 * time.Hour})
		time.Sleep(time.Until(time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)))
		come := func() error {
			p := w.newPeer(nil, nil)
			p.run(Enter(p.config(), token, ""))
			defer p.leave()
			return p.SettleName(t.Context(), token)
		}
		for i := range relievesMax + 1 {
			if err := come(); err != nil {
				t.Fatalf("number %d: %v", i, err)
			}
		}
		if err := come(); err == nil || !strings.Contains(err.Error(), "tomorrow") {
			t.Errorf("once more: %v", err)
		}
		if n := len(earth.Revocations().Entries()); n != relievesMax {
			t.Errorf("the list has %d entries", n)
		}
		time.Sleep(24 * time.Hour)
		if err := come(); err != nil {
			t.Errorf("the next day: %v", err)
		}
	})
}

// Nobody takes the name of another by such a token: not who came by one of that name that
// is not for it, nor the founder's own.
func TestReuseTakesNoOthersName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.join(earth.token(membership.InviteOptions{Label: "mars"}), "")
		for _, label := range []string{"mars", "earth"} {
			token := earth.token(membership.InviteOptions{Label: label, Reuse: true})
			p := w.newPeer(nil, nil)
			p.run(Enter(p.config(), token, ""))
			if err := p.SettleName(t.Context(), token); !errors.Is(err, ErrLabelTaken) {
				t.Errorf("%s: %v", label, err)
			}
			p.leave()
		}
		if earth.Revoked(mars.Self()) {
			t.Error("mars was revoked")
		}
		// Withdrawn it admits nobody, and who has the name keeps it.
		token := earth.token(membership.InviteOptions{Label: "web", Reuse: true})
		web := w.join(token, "")
		if err := earth.Withdraw(t.Context(), token.String()); err != nil {
			t.Fatal(err)
		}
		p := w.newPeer(nil, nil)
		p.run(Enter(p.config(), token, ""))
		// Where all that it asks know the list already nobody answers it, and it waits.
		if err := p.SettleName(t.Context(), token); err == nil && p.Own().Member.Confirmed {
			t.Error("a withdrawn token gives the name")
		}
		if _, err := membership.VerifyChain(p.Own().Chain, earth.Overlay(), time.Now(), earth.Revocations()); !errors.Is(err, membership.ErrRevoked) {
			t.Errorf("a withdrawn token admits: %v", err)
		}
		if earth.Revoked(web.Self()) {
			t.Error("who has the name was revoked")
		}
	})
}
