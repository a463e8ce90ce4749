package membership

import (
	"errors"
	"testing"
	"time"
)

// Who was a member when the last authority was heard of is one beyond its certificate's
// end, for as long as the authorities say; who had ended before, or was signed for by one
// that was removed, or was confirmed by none, is not.
func TestVerifyAsOf(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	const long = 48 * time.Hour
	list := must(pass(c.list, Motion{Kind: MoveUnattended, Unattended: long, At: epoch}, c.f))(t)
	chain := issued(t, c.mars.Issuer(), 71, epoch)
	end := must(VerifyChain(chain, c.o, epoch, list))(t).NotAfter
	heard := end.Add(-time.Hour)
	token := must(c.root.Issuer().Invite(InviteOptions{Expires: 60 * day}, epoch))(t)
	provisional := must(token.SelfIssue(seedKey(73), "y", epoch))(t)
	gone := must(VerifyChain(provisional, c.o, epoch, list))(t).NotAfter
	retired := must(pass(list, demote(c.mars, false, end.Add(time.Minute)), c.f))(t)
	for what, p := range map[string]struct {
		chain     []byte
		now, asOf time.Time
		rev       *RevocationList
		want      error
	}{
		"it has not ended":                         {chain, end, heard, list, nil},
		"it ended since":                           {chain, end.Add(Tolerance + time.Hour), heard, list, nil},
		"at the end of that":                       {chain, end.Add(long), heard, list, nil},
		"after that":                               {chain, end.Add(long + time.Second), heard, list, ErrExpired},
		"for as long as nobody has said":           {chain, end.Add(DefaultUnattended), heard, c.list, nil},
		"and no longer":                            {chain, end.Add(DefaultUnattended + time.Second), heard, c.list, ErrExpired},
		"an authority was heard of at its end":     {chain, end.Add(Tolerance + time.Hour), end.Add(Tolerance), list, nil},
		"an authority was heard of after that":     {chain, end.Add(Tolerance + time.Hour), end.Add(Tolerance + time.Second), list, ErrExpired},
		"one that was confirmed by none":           {provisional, gone.Add(Tolerance + time.Hour), gone.Add(-time.Hour), list, ErrExpired},
		"signed for by one that was removed":       {chain, end.Add(Tolerance + time.Hour), heard, retired, ErrExpired},
		"revoked":                                  {chain, end.Add(Tolerance + time.Hour), heard, must(pass(list, revoke(end, RevokePeer, KeyOf(idOf(seedKey(71)))), c.f))(t), ErrExpired},
		"it has not begun, which is another thing": {chain, epoch.Add(-day), heard, list, ErrNotYetValid},
	} {
		m, err := VerifyAsOf(p.chain, c.o, p.now, p.asOf, p.rev)
		if !errors.Is(err, p.want) || (err == nil) != (m != nil) || m != nil && m.Peer != idOf(seedKey(71)) {
			t.Errorf("%s: %v, %v, want %v", what, m, err, p.want)
		}
	}
}

// A delegate may hand on the roles that were named, and not the right to be one, nor
// any that were not.
func TestRolesOfDelegate(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	for _, roles := range []Roles{0, RoleRelay} {
		b := must(root.Delegate(idOf(seedKey(5)), roles, "", time.Time{}, epoch))(t)
		ch := must(parseChain(b))(t)
		if got := ch.leaf().Roles; got != roles|RoleDelegate {
			t.Errorf("asked for %v: %v", roles, got)
		}
		d := must(NewDelegate(seedKey(5), b, root.Overlay(), epoch, nil))(t)
		for _, hand := range []Roles{0, RoleRelay, RoleDelegate} {
			if _, err := d.Issue(idOf(seedKey(6)), MemberOptions{Label: "x", Roles: hand}, epoch); (err == nil) != (hand&^roles == 0) {
				t.Errorf("who may hand on %v hands on %v: %v", roles, hand, err)
			}
		}
	}
}

// On whose word a token is taken is of no interest once there is a list.
func TestTrustedUntilList(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	if k := Trusting(c.o, c.mars.Key()).Trusted(); k != c.mars.Key() {
		t.Errorf("at first: %v", k)
	}
	l := *c.list
	l.charter = Trusting(c.o, c.mars.Key()).charter
	if k := l.Trusted(); k != (Key{}) {
		t.Errorf("with a list: %v", k)
	}
}
