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
	"github.com/idloc/idloc/overlay/membership"
)

// intruder is a program that enters by a token and asks nobody to confirm it.
func (w *town) intruder(t *membership.Token) *peer {
	w.t.Helper()
	p := w.newPeer(nil, nil)
	return p.run(Enter(p.config(), t, "mars"))
}

// hello is what q makes of p's hello.
func (p *peer) hello(q *peer) error {
	_, err := q.Verify(p.Own().Chain, p.Self())
	return err
}

// TestUsedToken is the attack: a named token that has been confirmed to one key lets
// three others in. Each member that can know of that refuses them: the issuer at once,
// who has met the one that was confirmed at once, and who has not when an issuer, of
// which it may know only another member, has told.
func TestUsedToken(t *testing.T) {
	t.Parallel()
	for what, opts := range map[string]membership.InviteOptions{"named": {Label: "mars"}, "without a name": {}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t)
				earth := w.found("earth")
				venus, ceres, juno := w.join(earth.token(membership.InviteOptions{}), "venus"), w.join(earth.token(membership.InviteOptions{}), "ceres"), w.join(earth.token(membership.InviteOptions{}), "juno")
				w.cut(juno, earth) // it knows no issuer, but members that do
				token := earth.token(opts)
				mars := w.newPeer(nil, nil)
				mars.run(Enter(mars.config(), token, "mars"))
				for _, other := range []*peer{ceres, juno} {
					w.cut(mars, other)
				}
				if err := mars.SettleName(t.Context(), token); err != nil {
					t.Fatal(err)
				}
				meet(t, mars, venus)
				for n := range 3 {
					bad := w.intruder(token)
					if err := bad.hello(earth); !errors.Is(err, membership.ErrUsed) {
						t.Errorf("%d: the founder: %v", n, err)
					}
					if err := bad.hello(venus); !errors.Is(err, membership.ErrUsed) {
						t.Errorf("%d: who has met mars: %v", n, err)
					}
					for _, other := range []*peer{ceres, juno} {
						err := bad.hello(other)
						synctest.Wait()
						if n > 0 && !errors.Is(err, membership.ErrUsed) {
							t.Errorf("%d: %s: %v", n, other.Own().Label, err)
						}
						if _, ok := other.Member(bad.Self()); ok {
							t.Errorf("%d: it is a member for %s", n, other.Own().Label)
						}
						if err := bad.hello(other); !errors.Is(err, membership.ErrUsed) {
							t.Errorf("%d: %s, again: %v", n, other.Own().Label, err)
						}
						if n == 0 && (other.ended == 0 || !slices.ContainsFunc(other.Sweep(), func(d Departure) bool { return d.Peer == bad.Self() })) {
							t.Errorf("%s drops nothing of it", other.Own().Label)
						}
					}
					if err := bad.SettleName(t.Context(), token); !errors.Is(err, membership.ErrUsed) {
						t.Errorf("%d: it is confirmed, or told something else: %v", n, err)
					}
					bad.leave()
				}
				// The one that was confirmed is not harmed.
				for _, q := range []*peer{earth, venus, ceres, juno} {
					if err := mars.hello(q); err != nil {
						t.Errorf("mars at %s: %v", q.Own().Label, err)
					}
				}
			})
		})
	}
}

// Who is confirmed stands, whoever came first; until then the first does, where it was
// heard of first.
func TestFirstCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{}), "venus")
		token := earth.token(membership.InviteOptions{Label: "mars"})
		w.cut(venus, earth)
		bad := w.intruder(token)
		if err := bad.hello(venus); err != nil {
			t.Fatal(err)
		}
		mars := w.newPeer(nil, nil)
		mars.run(Enter(mars.config(), token, ""))
		if err := mars.hello(venus); !errors.Is(err, membership.ErrContested) {
			t.Errorf("the second, at who has met the first: %v", err)
		}
		// The founder looks at neither, and confirms who asks.
		if err := bad.hello(earth); err != nil {
			t.Error(err)
		}
		w.cut(mars, venus)
		if err := mars.SettleName(t.Context(), token); err != nil || !mars.Own().Member.Confirmed {
			t.Fatal(err)
		}
		if err := mars.hello(venus); err != nil {
			t.Errorf("confirmed: %v", err)
		}
		for _, q := range []*peer{earth, venus} {
			if _, ok := q.Member(bad.Self()); ok {
				t.Errorf("the first is still a member for %s", q.Own().Label)
			}
			if err := bad.hello(q); !errors.Is(err, membership.ErrUsed) {
				t.Errorf("the first, at %s: %v", q.Own().Label, err)
			}
		}
	})
}

// A token for three makes three, of whatever names, and one for any number any.
func TestUses(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	token := earth.token(membership.InviteOptions{Uses: 3})
	var in []*peer
	for range 3 {
		in = append(in, w.join(token, "mars"))
	}
	if got := []string{in[0].Own().Label, in[1].Own().Label, in[2].Own().Label}; !slices.Equal(got, []string{"mars", "mars-2", "mars-3"}) {
		t.Errorf("%q", got)
	}
	if err := w.intruder(token).SettleName(t.Context(), token); !errors.Is(err, membership.ErrUsed) {
		t.Errorf("the fourth: %v", err)
	}
	if err := in[1].Confirm(t.Context(), "mars-2"); err != nil {
		t.Errorf("the second asks again: %v", err)
	}
	many := earth.token(membership.InviteOptions{Uses: membership.AnyNumber})
	for range membership.MaxUses + 2 {
		w.join(many, "venus").leave()
	}
	for _, opts := range []membership.InviteOptions{{Uses: -2}, {Uses: membership.MaxUses + 1}, {Label: "mars", Uses: 2}, {Label: "mars", Uses: membership.AnyNumber}} {
		if _, err := earth.Invite(opts); !errors.Is(err, membership.ErrUses) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}

// Issuers that were apart when a token was used find that out before one of them
// confirms again.
func TestIssuersShareUses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testIssuersShareUses)
}

func testIssuersShareUses(t *testing.T) {
	w := newTown(t)
	earth := w.found("earth")
	venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
	token := earth.token(membership.InviteOptions{})
	w.cut(earth, venus)
	mars := w.newPeer(nil, nil)
	mars.run(Enter(mars.config(), token, "mars"))
	w.cut(mars, earth)
	if err := mars.SettleName(t.Context(), token); err != nil || !mars.Own().Member.Confirmed {
		t.Fatal(err)
	}
	w.mend()
	if err := w.intruder(token).SettleName(t.Context(), token); !errors.Is(err, membership.ErrUsed) {
		t.Errorf("the founder does not ask: %v", err)
	}
	w.hush(venus) // and a delegate that says nothing holds nobody up twice
	for n := range 2 {
		start := time.Now()
		w.join(earth.token(membership.InviteOptions{}), "luna")
		if took := time.Since(start); took > tellTimeout || n > 0 && took > 0 {
			t.Errorf("%d: %v", n, took)
		}
	}
}

// TestExpiresMeansIt is the attack: Expires of a second lets somebody in after a
// minute, and who dates its own certificate back for a week more.
func TestExpiresMeansIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{}), "venus")
		token := earth.token(membership.InviteOptions{Expires: time.Second, Uses: membership.AnyNumber})
		timely, early := w.intruder(token), w.intruder(token)
		if err := timely.hello(venus); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second + membership.EntryTolerance)
		if err := early.hello(venus); err != nil {
			t.Errorf("within what clocks may differ by: %v", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := Enter(w.newPeer(nil, nil).config(), token, "mars"); !errors.Is(err, membership.ErrExpired) {
			t.Errorf("33 s later: %v", err)
		}
		backdated := w.newPeer(nil, nil)
		backdated.setClock(-time.Minute)
		backdated.run(Enter(backdated.config(), token, "luna"))
		for _, q := range []*peer{venus, earth} {
			if err := backdated.hello(q); !errors.Is(err, membership.ErrExpired) {
				t.Errorf("with a certificate that is dated back, at %s: %v", q.Own().Label, err)
			}
		}
		if err := backdated.SettleName(t.Context(), token); err == nil && backdated.Own().Member.Confirmed {
			t.Error("it is confirmed")
		}
		// Who came in time stays, where it is known, and a member that has let it in is the
		// witness of that for the founder, who was away.
		if _, ok := venus.Member(timely.Self()); !ok {
			t.Error("who came in time is out")
		}
		if err := timely.hello(earth); !errors.Is(err, membership.ErrExpired) {
			t.Errorf("the founder has not seen it: %v", err)
		}
		w.cut(timely, earth)
		if err := timely.Confirm(t.Context(), "mars"); err != nil || !timely.Own().Member.Confirmed {
			t.Errorf("through venus: %v", err)
		}
	})
}

// What was used stays used over a restart, of the issuer and of a member, and so does
// who came in time.
func TestUsesAreKept(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	venus := w.newPeer(nil, openDir(t))
	w.joinAs(venus, earth.token(membership.InviteOptions{}), "venus")
	one, many := earth.token(membership.InviteOptions{Label: "mars"}), earth.token(membership.InviteOptions{Uses: membership.AnyNumber})
	mars, timely := w.join(one, ""), w.intruder(many)
	meet(t, mars, venus)
	if err := timely.hello(venus); err != nil {
		t.Fatal(err)
	}
	bad := w.intruder(one)
	for _, p := range []*peer{earth, venus} {
		if err := p.Save(); err != nil {
			t.Fatal(err)
		}
		p.Close()
		p.leave()
		s, err := Load(p.dir)
		if err != nil {
			t.Fatal(err)
		}
		again := w.newPeer(p.key, p.dir)
		again.run(Resume(again.config(), s, nil))
		if err := bad.hello(again); !errors.Is(err, membership.ErrUsed) {
			t.Errorf("%s: %v", again.Own().Label, err)
		}
		if p == venus {
			again.setClock(time.Until(many.Expires().Add(time.Hour)))
			if err := again.registry.enter(mustMember(t, again, timely, many), false, again.now()); err != nil {
				t.Errorf("who came in time: %v", err)
			}
		}
		if list := again.Invitations(); p == earth && (len(list) != 3 || !slices.ContainsFunc(list, func(i Invitation) bool {
			return i.Label == "mars" && i.Uses == 1 && len(i.Members) == 1 && i.Members[0] == InvitedMember{mars.Self(), "mars", true}
		})) {
			t.Errorf("invitations: %+v", list)
		}
		again.Close()
	}
}

// mustMember is what p's chain says in the time of its token.
func mustMember(t *testing.T, q, p *peer, token *membership.Token) *membership.Member {
	t.Helper()
	m, err := membership.VerifyChain(p.Own().Chain, q.Overlay(), token.Expires(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// An invitation can be ended before and after it was used, by its token or its ID.
func TestWithdrawInvitation(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
	ceres := w.join(earth.token(membership.InviteOptions{}), "ceres")
	meet(t, earth, venus)
	for what, issuer := range map[string]*peer{"the founder": earth, "a delegate": venus} {
		unused, used := issuer.token(membership.InviteOptions{Label: "a"}), issuer.token(membership.InviteOptions{Uses: 3})
		mars := w.join(used, "mars")
		id := ""
		for _, i := range issuer.Invitations() {
			if len(i.Members) == 1 && i.Members[0].Peer == mars.Self() {
				id = i.ID
			}
		}
		bad := w.intruder(used)
		if err := bad.hello(ceres); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(issuer.Withdraw(t.Context(), unused.String()), issuer.Withdraw(t.Context(), id)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		w.wg.Wait() // the list is everywhere
		for _, token := range []*membership.Token{unused, used} {
			late := w.intruder(token)
			for _, q := range []*peer{earth, venus, ceres} {
				if err := late.hello(q); !errors.Is(err, membership.ErrRevoked) {
					t.Errorf("%s has withdrawn it; at %s: %v", what, q.Own().Label, err)
				}
			}
			late.leave()
		}
		if _, ok := ceres.Member(bad.Self()); ok {
			t.Errorf("%s: who was not confirmed is still a member", what)
		}
		if err := mars.hello(ceres); err != nil {
			t.Errorf("%s: who was confirmed: %v", what, err)
		}
		for _, i := range issuer.Invitations() {
			if want := i.ID == id || i.Label == "a"; i.Withdrawn != want {
				t.Errorf("%s: %+v", what, i)
			}
		}
		bad.leave()
	}
	for what, c := range map[string]struct {
		who  *peer
		what string
		want error
	}{
		"a member":          {ceres, "abcdef", ErrNotIssuer},
		"another's":         {venus, InvitationID(ceres.Own().Member.Invitation), ErrNotFounder},
		"one that is not":   {earth, "0123456789abcdef", ErrNoInvitation},
		"too short an ID":   {earth, "a", ErrNoInvitation},
		"another overlay's": {earth, newTown(t).found("x").token(membership.InviteOptions{}).String(), membership.ErrWrongOverlay},
	} {
		if what == "another's" {
			if _, err := venus.Verify(ceres.Own().Chain, ceres.Self()); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.who.Withdraw(t.Context(), c.what); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Without the founder a delegate at least confirms nobody by it any more.
	w.cut(venus, earth)
	token := venus.token(membership.InviteOptions{})
	if err := venus.Withdraw(t.Context(), token.String()); err == nil || !strings.Contains(err.Error(), "no authority") {
		t.Errorf("the founder is away: %v", err)
	}
	p := w.intruder(token)
	for _, q := range p.neighbours() { // who would ask the founder
		if q != venus {
			w.cut(p, q)
		}
	}
	if err := p.Confirm(t.Context(), "p"); err == nil {
		t.Error("confirmed by who has withdrawn it")
	}
}

// A delegate cannot have the founder fill its list.
func TestWithdrawalsAreBounded(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
	meet(t, earth, venus)
	last := error(nil)
	for range withdrawalsMax + 1 {
		last = venus.Withdraw(t.Context(), venus.token(membership.InviteOptions{}).String())
	}
	if !errors.Is(last, ErrNotIssuer) {
		t.Errorf("after %d: %v", withdrawalsMax, last)
	}
	if n := len(earth.Revocations().Entries()); n != withdrawalsMax {
		t.Errorf("%d entries", n)
	}
	ceres := w.join(earth.token(membership.InviteOptions{}), "ceres")
	wish, err := membership.Withdrawal(earth.Overlay(), earth.token(membership.InviteOptions{}).Secret())
	if err != nil {
		t.Fatal(err)
	}
	for what, from := range map[string]*peer{"a member that is no delegate": ceres} {
		if _, err := earth.AnswerWithdraw(t.Context(), from.Own().Member, wish); !errors.Is(err, ErrNotIssuer) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := venus.AnswerWithdraw(t.Context(), ceres.Own().Member, wish); !errors.Is(err, ErrNotFounder) {
		t.Errorf("a delegate is asked: %v", err)
	}
}

// A delegate that fills what is remembered fills its own part.
func TestDelegateFillsItsOwnPart(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := newRegistry(nil, nil, now)
	member := func(delegate, invitation byte, n int, confirmed bool) *membership.Member {
		m := &membership.Member{Peer: peerid.ID{1: byte(n), 2: byte(n >> 8), 3: byte(n >> 16), 4: invitation}, Confirmed: confirmed, Invitation: membership.Key{invitation}, Uses: 1, Entry: now.Add(time.Hour), NotAfter: now.Add(time.Hour)}
		if delegate > 0 {
			m.Delegate = membership.Key{delegate}
		}
		return m
	}
	if err := r.enter(member(0, 1, 1, true), true, now); err != nil {
		t.Fatal(err)
	}
	for n := range invitationsMax + 10 {
		m := member(7, 2, n, true)
		m.Invitation = membership.Key{2, byte(n), byte(n >> 8), byte(n >> 16)}
		if err := r.enter(m, true, now); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3 * visitorsMax {
		m := member(8, 3, n, false)
		m.Uses = 0
		if err := r.enter(m, true, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.enter(member(0, 1, 2, false), true, now); !errors.Is(err, membership.ErrUsed) {
		t.Errorf("the founder's invitation is forgotten: %v", err)
	}
	if n := r.came.below[membership.Key{7}].invitations.Len(); n != invitationsMax {
		t.Errorf("%d invitations of one delegate", n)
	}
	if b := r.came.below[membership.Key{8}]; b.total != visitorsMax {
		t.Errorf("%d peers of one invitation", b.total)
	}
	r.sweep(now.Add(membership.LongestLife + 2*time.Hour))
	if len(r.came.below) != 0 {
		t.Errorf("%d issuers are remembered when all has ended", len(r.came.below))
	}
}

// The registry appends, and forgets what has ended: it is not written anew with each
// confirmation.
func TestRegistryAppends(t *testing.T) {
	t.Parallel()
	d := openDir(t)
	now := time.Now()
	log := slog.New(slog.DiscardHandler)
	r := newRegistry(d, log, now)
	label := func(n int) (string, confirmedLabel) {
		return "p" + strings.Repeat("x", n%7) + string(rune('a'+n%26)), confirmedLabel{Peer: peerid.ID{byte(n)}, Serial: uint64(n), NotAfter: now.Add(time.Hour), Named: n%2 == 0}
	}
	for n := range 3 * compactAbove {
		r.set(label(n))()
	}
	if r.records != 3*compactAbove {
		t.Errorf("%d records of %d", r.records, 3*compactAbove)
	}
	r.sweep(now)
	if r.records != len(r.labels) || r.records > 182 {
		t.Errorf("%d records after it was compacted, for %d labels", r.records, len(r.labels))
	}
	r.noteDelegate()()
	r.noteMade(membership.Key{1}, made{from: now.Truncate(time.Second).UTC(), end: now.Add(time.Hour).Truncate(time.Second).UTC(), uses: 3, roles: 1, label: "*", secret: [32]byte{9}})()
	want, wantMade := r.labels, r.made
	r.close()
	again := newRegistry(d, log, now)
	for label, c := range want {
		if got := again.labels[label]; got.Peer != c.Peer || got.Serial != c.Serial || got.Named != c.Named || got.NotAfter.Unix() != c.NotAfter.Unix() {
			t.Errorf("%s: %+v, want %+v", label, got, c)
		}
	}
	if again.made[membership.Key{1}] != wantMade[membership.Key{1}] || again.alone() || len(again.labels) != len(want) {
		t.Errorf("%+v", again.made)
	}
	again.sweep(now.Add(labelsKept + 2*time.Hour))
	if len(again.labels) != 0 {
		t.Errorf("%d labels whose holders ended long ago", len(again.labels))
	}
	again.close()
}
