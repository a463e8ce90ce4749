package admission

import (
	"errors"
	"testing"

	"github.com/idloc/idloc/overlay/membership"
)

// TestRevokeAPerson is the attack: one token has made two members, and when one is
// revoked the other stays. An option ends all that came by the invitation, another all
// whom the delegate has let in through which it came.
func TestRevokeAPerson(t *testing.T) {
	t.Parallel()
	many := membership.InviteOptions{Uses: membership.AnyNumber}
	for what, scope := range map[string]Scope{"alone": {}, "all of its invitation": {Invited: true}, "all below its delegate": {Delegated: true}, "both": {Invited: true, Delegated: true}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newTown(t)
			earth := w.found("earth")
			venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
			token := venus.token(many)
			var below []*peer
			enter := func(token *membership.Token, label string) *peer {
				p := w.newPeer(nil, nil)
				p.run(Enter(p.config(), token, label))
				w.cut(p, earth) // venus confirms it
				if err := p.SettleName(t.Context(), token); err != nil || p.Own().Member.Delegate.IsZero() {
					t.Fatalf("%+v, %v", p.Own(), err)
				}
				below = append(below, p)
				return p
			}
			mars, mars2, other := enter(token, "mars"), enter(token, "mars"), enter(venus.token(many), "other")
			aside := w.join(earth.token(many), "aside")
			w.mend()
			meet(t, append(below, earth, venus, aside)...)
			if err := earth.Revoke(mars.Self(), scope); err != nil {
				t.Fatal(err)
			}
			w.wg.Wait()
			for _, c := range []struct {
				p     *peer
				stays bool
			}{{mars, false}, {mars2, !scope.Invited && !scope.Delegated}, {other, !scope.Delegated}, {aside, true}, {venus, true}} {
				for _, q := range []*peer{earth, aside, venus} {
					if q == c.p {
						continue
					}
					if _, ok := q.Member(c.p.Self()); ok != c.stays {
						t.Errorf("for %s, %s is a member: %v", q.Own().Label, c.p.Own().Label, ok)
					}
				}
			}
			for _, token := range []*membership.Token{token} {
				if err := w.intruder(token).hello(aside); !errors.Is(err, membership.ErrRevoked) {
					t.Errorf("the token: %v", err)
				}
			}
			if err := earth.Revoke(aside.Self(), Scope{Delegated: true}); !errors.Is(err, ErrScope) {
				t.Errorf("below no delegate: %v", err)
			}
			if _, ok := venus.Member(aside.Self()); !ok {
				t.Error("what was refused was done")
			}
		})
	}
}
