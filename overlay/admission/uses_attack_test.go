package admission

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
)

// TestUsesMakeNobodyAMember is the attack: who asks an issuer by whom a token was used
// gets a fresh certificate for a member whose own has ended, or who was revoked so long
// ago that the list forgets it.
func TestUsesMakeNobodyAMember(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
	ceres := w.join(earth.token(membership.InviteOptions{}), "ceres")
	token := earth.token(membership.InviteOptions{})
	mars := w.join(token, "mars")
	invitation := token.Invitation().Subject
	for _, issuer := range []*peer{earth, venus} {
		b, err := issuer.AnswerUses(t.Context(), ceres.Own().Member, append([]byte{0}, invitation[:]...))
		if err != nil {
			t.Fatal(err)
		}
		statements, err := readUses(b)
		if err != nil || len(statements) != 1 {
			t.Fatalf("%s: %d statements, %v", issuer.Own().Label, len(statements), err)
		}
		who, err := membership.VerifyUse(statements[0], earth.Overlay(), time.Now(), nil)
		if err != nil || who.Peer != mars.Self() || who.Invitation != invitation {
			t.Errorf("%s: %+v, %v", issuer.Own().Label, who, err)
		}
		for _, q := range []*peer{earth, ceres} {
			if _, err := q.Verify(statements[0], mars.Self()); !errors.Is(err, membership.ErrNotMember) {
				t.Errorf("what %s has answered is a membership for %s: %v", issuer.Own().Label, q.Own().Label, err)
			}
		}
		for _, at := range []time.Time{time.Unix(1, 0), time.Now().Add(-5 * time.Minute), time.Now()} {
			if m, err := membership.VerifyChain(statements[0], earth.Overlay(), at, nil); err == nil {
				t.Errorf("by a clock that says %v it is: %+v", at, m)
			}
		}
	}
}

// TestUsedTokenOutlastsItsMember is the attack: a token that is good for a year is used
// again, when who has used it has been away for a month, at an issuer that has only heard
// of it; also after a restart of that.
func TestUsedTokenOutlastsItsMember(t *testing.T) {
	t.Parallel()
	d, now := openDir(t), time.Now()
	log := slog.New(slog.DiscardHandler)
	r := newRegistry(d, log, now)
	invitation := membership.Key{7}
	confirmed := &membership.Member{Peer: peerid.ID{1}, Confirmed: true, Invitation: invitation, NotBefore: now, NotAfter: now.Add(membership.MaxMember)}
	if err := r.enter(confirmed, false, now); err != nil {
		t.Fatal(err)
	}
	end := now.Add(membership.MaxInvitation)
	second := &membership.Member{Peer: peerid.ID{2}, Invitation: invitation, Uses: 1, Entry: end, NotAfter: end}
	for _, after := range []time.Duration{membership.MaxMember + 24*time.Hour, membership.MaxInvitation - time.Hour} {
		r.sweep(now.Add(after))
		if err := r.enter(second, false, now.Add(after)); !errors.Is(err, membership.ErrUsed) {
			t.Errorf("%v later: %v", after, err)
		}
		r.close()
		r = newRegistry(d, log, now.Add(after))
		if err := r.enter(second, false, now.Add(after)); !errors.Is(err, membership.ErrUsed) {
			t.Errorf("%v later, after a restart: %v", after, err)
		}
	}
	r.close()
}

// journal returns the records that an issuer has written, in their order.
func journal(t *testing.T, d *state.Dir) (all [][]byte) {
	t.Helper()
	j, err := d.OpenJournal(DocLabels)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := j.Filter(func(b []byte) bool { all = append(all, slices.Clone(b)); return true }); err != nil {
		t.Fatal(err)
	}
	return all
}

// After a crash at any moment a label that was given is that of a token which is used.
func TestCrashBetweenLabelAndUse(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	token := earth.token(membership.InviteOptions{})
	mars := w.join(token, "mars")
	earth.Close()
	records := journal(t, earth.dir)
	given := 0
	for n := range len(records) + 1 {
		r := newRegistry(nil, slog.New(slog.DiscardHandler), time.Now())
		for _, b := range records[:n] {
			r.restore(b)
		}
		if c, ok := r.get("mars"); ok {
			given++
			if used := r.usedBy(token.Invitation().Subject); c.Peer != mars.Self() || !slices.Equal(used, []peerid.ID{mars.Self()}) {
				t.Errorf("after %d of %d records mars is %v's, and the token used by %v", n, len(records), c.Peer, used)
			}
		}
	}
	if given == 0 {
		t.Error("the label was not written")
	}
}

// TestAskedAgain is the attack: who enters by a used token where no issuer is within
// reach is never asked about again, as it stays connected. So is who enters at a delegate
// that has not heard of the use and does not ask to be confirmed.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
		ceres := w.join(earth.token(membership.InviteOptions{}), "ceres")
		for _, q := range []*peer{venus, ceres} {
			w.cut(q, earth)
		}
		w.cut(venus, ceres)
		token := earth.token(membership.InviteOptions{})
		mars := w.newPeer(nil, nil)
		mars.run(Enter(mars.config(), token, "mars"))
		w.cut(mars, venus)
		w.cut(mars, ceres)
		if err := mars.SettleName(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		bad := w.intruder(token)
		w.cut(bad, earth)
		for _, q := range []*peer{venus, ceres} {
			if err := bad.hello(q); err != nil {
				t.Fatalf("where nobody knows: %s: %v", q.Own().Label, err)
			}
		}
		synctest.Wait()
		w.mend()
		w.cut(bad, earth)
		time.Sleep(2 * askUsesEvery)
		for _, q := range []*peer{venus, ceres} {
			q.Sweep()
			synctest.Wait()
			if _, ok := q.Member(bad.Self()); ok {
				t.Errorf("%s has an issuer again, and does not ask", q.Own().Label)
			}
			if q.ended == 0 {
				t.Errorf("%s drops nothing of it", q.Own().Label)
			}
		}
	})
}

// TestMembersThatClaimToConfirm is the attack: a member whose hello says that it confirms
// tells who joins that its token was used or its name is another's, and who asks whether a
// token was used that it was not.
func TestMembersThatClaimToConfirm(t *testing.T) {
	t.Parallel()
	for what, lie := range map[string]confirmAnswer{
		"used": {status: confirmUsed, text: "it is for 1"}, "taken": {status: confirmRefused, text: "mars"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t)
				earth := w.found("earth")
				liar := w.join(earth.token(membership.InviteOptions{}), "liar")
				venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
				ceres, juno := w.join(earth.token(membership.InviteOptions{}), "ceres"), w.join(earth.token(membership.InviteOptions{}), "juno")
				meet(t, earth, venus, ceres, juno, liar)
				w.lie(map[peerid.ID]map[string][]byte{liar.Self(): {ConfirmProtocol.Name: lie.append(nil), UsesProtocol.Name: {0}}})
				token := earth.token(membership.InviteOptions{})
				for n, issuer := range []*peer{venus, ceres} { // one that confirms, one that passes on
					mars := w.newPeer(nil, nil)
					mars.run(Enter(mars.config(), earth.token(membership.InviteOptions{}), "mars"))
					for _, q := range []*peer{earth, venus, ceres, juno} {
						if q != issuer {
							w.cut(mars, q)
						}
					}
					meet(t, mars, liar, issuer)
					if err := mars.Confirm(t.Context(), "mars"); err != nil || !mars.Own().Member.Confirmed {
						t.Errorf("%d: %v", n, err)
					}
					mars.leave()
				}
				w.join(token, "luna").leave()
				w.cut(juno, earth)
				w.cut(juno, venus)
				bad := w.intruder(token)
				_ = bad.hello(juno)
				synctest.Wait()
				if _, ok := juno.Member(bad.Self()); ok {
					t.Error("one that says nobody has used the token is believed")
				}
			})
		})
	}
}

// What a member says again and again is written once.
func TestNoticesAreWrittenOnce(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	mars := w.join(earth.token(membership.InviteOptions{}), "mars")
	chain := mars.Own().Chain
	notice := append([]byte{byte(len(chain) >> 8), byte(len(chain))}, chain...)
	before := earth.registry.records
	for range 100 {
		if _, err := earth.AnswerConfirmed(t.Context(), mars.Own().Member, notice); err != nil {
			t.Fatal(err)
		}
	}
	if n := earth.registry.records - before; n > 0 {
		t.Errorf("%d records", n)
	}
}

// Delegates of one token have the founder end no more invitations than one delegate, and
// what others ask for costs it no memory.
func TestWithdrawalsOfOneToken(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	token := earth.token(membership.InviteOptions{Roles: membership.RoleDelegate, Uses: 2})
	venus, vesta := w.join(token, "venus"), w.join(token, "vesta")
	last := error(nil)
	for n := range withdrawalsMax + 1 {
		p := venus
		if n%2 == 1 {
			p = vesta
		}
		wish, err := membership.Withdrawal(earth.Overlay(), p.token(membership.InviteOptions{}).Secret())
		if err != nil {
			t.Fatal(err)
		}
		_, last = earth.AnswerWithdraw(t.Context(), p.Own().Member, wish)
	}
	if !errors.Is(last, ErrNotIssuer) {
		t.Errorf("after %d of both: %v", withdrawalsMax, last)
	}
	ceres := w.join(earth.token(membership.InviteOptions{}), "ceres")
	wish, err := membership.Withdrawal(earth.Overlay(), earth.token(membership.InviteOptions{}).Secret())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := earth.AnswerWithdraw(t.Context(), ceres.Own().Member, wish); !errors.Is(err, ErrNotIssuer) {
		t.Error(err)
	}
	if n := len(earth.withdrawals); n != 1 {
		t.Errorf("%d accounts", n)
	}
}

// Two issuers that are asked at one moment may each confirm: that is said.
func TestUsedTooOftenIsSaid(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
	token := earth.token(membership.InviteOptions{})
	w.cut(earth, venus)
	var both []*peer
	for _, c := range []struct {
		label         string
		asked, silent *peer
	}{{"mars", earth, venus}, {"luna", venus, earth}} {
		p := w.newPeer(nil, nil)
		p.run(Enter(p.config(), token, c.label))
		w.cut(p, c.silent)
		for _, q := range both { // who would tell that it was used
			w.cut(p, q)
		}
		if err := p.SettleName(t.Context(), token); err != nil || !p.Own().Member.Confirmed {
			t.Fatal(c.label, err)
		}
		both = append(both, p)
	}
	for _, p := range both {
		if err := p.hello(earth); err != nil {
			t.Fatal(err)
		}
	}
	if log := earth.log(); !strings.Contains(log, InvitationID(token.Invitation().Subject)) || len(warnings(log)) != 1 {
		t.Errorf("%s", log)
	}
}
