package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// record is a name record as the database would give it, of a member that its
// own Roster holds.
func (p *peer) record(t *testing.T, label string, tombstone bool) *naming.Record {
	t.Helper()
	now := time.Now()
	rec := naming.Record{Label: label, Seq: naming.Seq(now, 0), Issued: now, Expires: now.Add(naming.MaxLife), Tombstone: tombstone, Chain: p.Own().Chain}
	value, err := rec.Sign(p.key, p.Overlay())
	if err != nil {
		t.Fatal(err)
	}
	v := &naming.Validator{Overlay: p.Overlay(), Revoked: p.Revocations}
	out, err := v.Open(naming.Key(p.Overlay().ID, label, 0), value)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Each of those who want a label gets one of its own, the founder's is not given
// away, and a peer that asks again keeps its own.
func TestTies(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	if own := earth.Own(); own.Label != "earth" || !own.Issuer || !own.Member.Confirmed || !earth.Founder() {
		t.Errorf("the founder: %+v", own)
	}
	tokens := make([]*membership.Token, 4)
	for i := range tokens {
		tokens[i] = earth.token(membership.InviteOptions{})
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for _, token := range tokens {
		wg.Go(func() {
			p := w.newPeer(nil, nil)
			r, err := Enter(p.config(), token, "Mars.local")
			if err != nil {
				t.Error(err)
				return
			}
			p.run(r, nil)
			if m := p.Own().Member; m.Confirmed || p.Own().Label != "mars" || p.Own().Issuer {
				t.Errorf("entered as %+v", p.Own())
			}
			if err := p.SettleName(t.Context(), token); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got[p.Own().Label]++
			if !p.Own().Member.Confirmed || p.renewals() != 1 {
				t.Errorf("%s: confirmed %v, told %d times", p.Own().Label, p.Own().Member.Confirmed, p.renewals())
			}
		})
	}
	wg.Wait()
	for _, want := range []string{"mars", "mars-2", "mars-3", "mars-4"} {
		if got[want] != 1 {
			t.Errorf("%d are %s: %v", got[want], want, got)
		}
	}
	other := w.join(earth.token(membership.InviteOptions{}), "earth")
	if other.Own().Label != "earth-2" {
		t.Errorf("the founder's label: %q", other.Own().Label)
	}
	serial := other.Own().Member.Serial
	if err := other.Confirm(t.Context(), other.Own().Label); err != nil || other.Own().Label != "earth-2" || other.Own().Member.Serial != serial {
		t.Errorf("once more: %+v, %v", other.Own(), err)
	}
}

func TestCleanLabel(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"mars": "mars", "MARS.example.org": "mars", "my host": "my-host", "--x--": "x", "": "peer", "...": "peer", "ü": "peer",
		strings.Repeat("a", 80): strings.Repeat("a", maxBaseLabel), strings.Repeat("a", 58) + "--b": strings.Repeat("a", 58),
	} {
		if got := cleanLabel(in); got != want || membership.CheckLabel(got) != nil {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	long := cleanLabel(strings.Repeat("a", 80))
	if err := membership.CheckLabel(tie(long, maxTies)); err != nil {
		t.Error(err)
	}
}

// A named token is for one peer: the second that uses it is refused, and so is
// who takes the label with it.
func TestNamedToken(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	token := earth.token(membership.InviteOptions{Label: "venus"})
	venus := w.join(token, "something")
	if venus.Own().Label != "venus" {
		t.Errorf("label %q", venus.Own().Label)
	}
	for want, token := range map[error]*membership.Token{membership.ErrUsed: token, ErrLabelTaken: earth.token(membership.InviteOptions{Label: "venus"})} {
		second := w.newPeer(nil, nil)
		second.run(Enter(second.config(), token, ""))
		err := second.SettleName(t.Context(), token)
		if !errors.Is(err, want) || strings.Count(err.Error(), want.Error()) != 1 {
			t.Errorf("second use: %v", err)
		}
		second.leave()
	}
	if !strings.Contains(earth.log(), "refusing to confirm") {
		t.Error("the founder does not say that it refuses")
	}
}

// Whoever reaches no issuer itself has its question passed on by a server, once.
func TestPassedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{}), "venus")
		far := w.join(earth.token(membership.InviteOptions{}), "far")
		w.serve(venus, far)
		w.cut(earth, far)
		token := earth.token(membership.InviteOptions{})
		mars := w.newPeer(nil, nil)
		mars.run(Enter(mars.config(), token, "mars"))
		w.cut(earth, mars)
		if err := mars.SettleName(t.Context(), token); err != nil || !mars.Own().Member.Confirmed {
			t.Errorf("through a server: confirmed %v, %v", mars.Own().Member.Confirmed, err)
		}
		w.cut(venus, mars)
		luna := w.newPeer(nil, nil)
		luna.run(Enter(luna.config(), token, "luna"))
		w.cut(earth, luna)
		w.cut(venus, luna)
		if err := luna.Confirm(t.Context(), "luna"); !errors.Is(err, errNobodyConfirms) {
			t.Errorf("two members away: %v", err)
		}
		b, err := venus.AnswerConfirm(t.Context(), mars.Own().Member, confirmQuestion{hops: 0, label: "x", chain: luna.Own().Chain}.append(nil))
		if a, e := readConfirmAnswer(b); err != nil || e != nil || a.status != confirmNobody {
			t.Errorf("a question that was passed on already: %+v, %v, %v", a, err, e)
		}
		if _, err := venus.AnswerConfirm(t.Context(), mars.Own().Member, []byte{9}); err == nil {
			t.Error("a malformed question is answered")
		}
	})
}

// A founder that says nothing keeps a joiner no longer than confirmTimeout, and
// other issuers keep it for tellTimeout.
func TestSilentIssuer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
		if !venus.Own().Issuer {
			t.Fatal("venus is no delegate")
		}
		w.hush(venus)
		start := time.Now()
		token := earth.token(membership.InviteOptions{})
		mars := w.newPeer(nil, nil)
		mars.run(Enter(mars.config(), token, "mars"))
		w.cut(mars, venus)
		if err := mars.Confirm(t.Context(), "mars"); err != nil || time.Since(start) != tellTimeout {
			t.Errorf("with a silent delegate: %v after %v", err, time.Since(start))
		}
		w.hush(earth)
		start = time.Now()
		if err := mars.Confirm(t.Context(), "mars"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != confirmTimeout {
			t.Errorf("with a silent founder: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := mars.SettleName(ctx, token); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// Delegates confirm without the founder, and issuers agree: what one has given is
// told to the others, and taken from nobody.
func TestIssuersAgree(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	if _, err := w.join(earth.token(membership.InviteOptions{}), "plain").Invite(membership.InviteOptions{}); !errors.Is(err, ErrNotIssuer) {
		t.Errorf("a plain member invites: %v", err)
	}
	venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
	mars := w.join(earth.token(membership.InviteOptions{}), "mars")
	if id, ok := venus.Holder("mars"); !ok || id != mars.Self() {
		t.Errorf("the delegate has %v, %v for mars", id, ok)
	}
	earth.leave()
	second := w.join(venus.token(membership.InviteOptions{}), "mars")
	if own := second.Own(); own.Label != "mars-2" || !own.Member.Confirmed || own.Member.Delegate.IsZero() {
		t.Errorf("confirmed by the delegate: %+v, %+v", own, own.Member)
	}
	// Two that could not see each other: the earlier serial stands.
	early := &membership.Member{Peer: peerid.ID{1}, Delegate: membership.Key{1}, Label: "pluto", Confirmed: true, Serial: 5, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	late := &membership.Member{Peer: peerid.ID{2}, Delegate: membership.Key{2}, Label: "pluto", Confirmed: true, Serial: 6, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	for _, order := range [][]*membership.Member{{early, late}, {late, early}} {
		for _, m := range order {
			venus.noteConfirmed(m)
		}
		if id, _ := venus.Holder("pluto"); id != early.Peer {
			t.Errorf("pluto is %v's", id)
		}
	}
	// Only what an issuer has confirmed is noted, whoever shows it.
	p := w.newPeer(nil, nil)
	p.run(Enter(p.config(), venus.token(membership.InviteOptions{}), "vesta"))
	for what, chain := range map[string][]byte{"provisional": p.Own().Chain, "no chain": {1, 2, 3}} {
		notice := append([]byte{byte(len(chain) >> 8), byte(len(chain))}, chain...)
		if b, err := venus.AnswerConfirmed(t.Context(), mars.Own().Member, notice); err == nil {
			t.Errorf("%s: answered %x", what, b)
		}
	}
	if _, err := venus.AnswerConfirmed(t.Context(), mars.Own().Member, []byte{0}); err == nil {
		t.Error("a malformed notice is answered")
	}
	if _, ok := venus.Holder("vesta"); ok {
		t.Error("a provisional label is held")
	}
}

// A delegate that confirms a key of its own under a label that the founder has
// given, with the serial 0 or with the lowest that is taken, replaces it nowhere: not
// with the founder, not with other delegates, and nobody prefers what it says of the
// holder itself.
func TestDelegateTakesNoLabel(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	bad := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "bad")
	venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
	mars := w.join(earth.token(membership.InviteOptions{Label: "mars"}), "mars")
	thief := newKey(t)
	id, err := PeerID(thief)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		peer peerid.ID
		opts membership.MemberOptions
	}{
		"another key":               {id, membership.MemberOptions{Label: "mars"}},
		"the holder without a name": {mars.Self(), membership.MemberOptions{Label: "nobody"}},
	} {
		chain, err := bad.issuing().Issue(c.peer, c.opts, time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		for _, issuer := range []*peer{earth, venus} {
			_, _ = issuer.AnswerConfirmed(t.Context(), bad.Own().Member, append([]byte{byte(len(chain) >> 8), byte(len(chain))}, chain...))
			if holder, ok := issuer.Holder("mars"); !ok || holder != mars.Self() {
				t.Errorf("%s, at %s: mars is %v's", what, issuer.Own().Label, holder)
			}
			if m, ok := issuer.Member(mars.Self()); !ok || m.Label != "mars" {
				t.Errorf("%s, at %s: the holder is %+v", what, issuer.Own().Label, m)
			}
		}
	}
}

// Who was confirmed by the founder asks the founder again, and a delegate only when
// there is not much time left.
func TestFoundersWordLasts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
		mars := w.join(earth.token(membership.InviteOptions{Label: "mars"}), "mars")
		meet(t, mars, earth, venus)
		w.cut(earth, mars)
		first := mars.Own().Member
		time.Sleep(membership.MaxMember/2 + time.Hour)
		if mars.Renew(t.Context()); mars.Own().Member != first {
			t.Errorf("given for %+v", mars.Own().Member)
		}
		time.Sleep(membership.MaxMember / 4)
		venus.Renew(t.Context())
		if mars.Renew(t.Context()); mars.Own().Member.Delegate.IsZero() {
			t.Error("not renewed in its last quarter")
		}
		w.mend()
		earth.Renew(t.Context())
		meet(t, mars, earth)
		time.Sleep(membership.MaxMember/2 + time.Hour)
		earth.Renew(t.Context())
		if mars.Renew(t.Context()); !mars.Own().Member.Delegate.IsZero() {
			t.Error("a delegate's word is preferred")
		}
	})
}

// A label whose holder was revoked, or whose certificate has ended, is given
// again; and one that another confirmed member has, as the members met or the
// database say, is not given by an issuer that is not the only one.
func TestLabelsGivenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		mars.leave()
		if err := earth.Revoke(mars.Self(), Scope{}); err != nil {
			t.Fatal(err)
		}
		second := w.join(earth.token(membership.InviteOptions{}), "mars")
		if second.Own().Label != "mars" {
			t.Errorf("after the revocation: %q", second.Own().Label)
		}
		second.leave()
		time.Sleep(time.Until(second.Own().Member.NotAfter) + time.Minute)
		earth.Renew(t.Context())
		third := w.join(earth.token(membership.InviteOptions{}), "mars")
		if third.Own().Label != "mars" {
			t.Errorf("after the end: %q", third.Own().Label)
		}
		venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
		// What the founder gave before is known to the delegate by meeting them, or
		// by the database.
		if _, ok := venus.Holder("mars"); ok {
			t.Fatal("the delegate was told of mars")
		}
		meet(t, venus, third)
		earth.leave()
		if got := w.join(venus.token(membership.InviteOptions{}), "mars").Own().Label; got != "mars-2" {
			t.Errorf("met: %q", got)
		}
		w.records["ceres"] = third.record(t, "mars", false)
		if got := w.join(venus.token(membership.InviteOptions{}), "ceres").Own().Label; got != "ceres-2" {
			t.Errorf("in the database: %q", got)
		}
		w.records["juno"] = third.record(t, "mars", true)
		if got := w.join(venus.token(membership.InviteOptions{}), "juno").Own().Label; got != "juno" {
			t.Errorf("given up in the database: %q", got)
		}
	})
}

// Without an issuer the database decides, and the membership is provisional.
func TestSettleWithoutIssuer(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	any, named := earth.token(membership.InviteOptions{}), earth.token(membership.InviteOptions{Label: "venus"})
	confirmed := w.join(earth.token(membership.InviteOptions{}), "pallas")
	provisional := w.newPeer(nil, nil)
	provisional.run(Enter(provisional.config(), any, "vesta"))
	for _, p := range []*peer{earth, confirmed, provisional} {
		p.leave()
	}
	for i, c := range []struct {
		what    string
		token   *membership.Token
		wish    string
		records map[string]*naming.Record
		want    string // "": ErrLabelTaken
	}{
		{"free", any, "mars", nil, "mars"},
		{"taken", any, "mars", map[string]*naming.Record{"mars": confirmed.record(t, "pallas", false)}, "mars-2"},
		{"claimed", any, "mars", map[string]*naming.Record{"mars": provisional.record(t, "vesta", false)}, "mars-2"},
		{"given up", any, "mars", map[string]*naming.Record{"mars": confirmed.record(t, "pallas", true)}, "mars"},
		{"named and free", named, "x", nil, "venus"},
		{"named and confirmed for another", named, "x", map[string]*naming.Record{"venus": confirmed.record(t, "pallas", false)}, ""},
		{"named and claimed by another", named, "x", map[string]*naming.Record{"venus": provisional.record(t, "vesta", false)}, "venus"},
	} {
		w.records = c.records
		p := w.newPeer(nil, nil)
		p.run(Enter(p.config(), c.token, c.wish))
		err := p.SettleName(t.Context(), c.token)
		p.leave()
		if c.want == "" && !errors.Is(err, ErrLabelTaken) || c.want != "" && (err != nil || p.Own().Label != c.want || p.Own().Member.Confirmed) {
			t.Errorf("%s: %q, %v", c.what, p.Own().Label, err)
		}
		if i == 0 && !strings.Contains(p.log(), "provisional") {
			t.Error("not said to be provisional")
		}
	}
	w.records = map[string]*naming.Record{}
	for n := 1; n <= maxTies; n++ {
		w.records[tie("mars", n)] = confirmed.record(t, "pallas", false)
	}
	p := w.newPeer(nil, nil)
	p.run(Enter(p.config(), any, "mars"))
	if err := p.SettleName(t.Context(), any); !errors.Is(err, ErrLabelTaken) || !strings.Contains(err.Error(), fmt.Sprint(maxTies)) {
		t.Errorf("all taken: %v", err)
	}
}

// A membership is renewed from half of its life on, when somebody can be asked,
// and saved.
func TestRenew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.newPeer(nil, openDir(t))
		w.joinAs(mars, earth.token(membership.InviteOptions{}), "mars")
		first := mars.Own()
		mars.Renew(t.Context())
		if mars.Own().Member != first.Member {
			t.Error("renewed at once")
		}
		time.Sleep(membership.MaxMember/2 + time.Hour)
		earth.Renew(t.Context()) // the founder needs nobody
		if !earth.Own().Member.NotBefore.After(first.Member.NotBefore) {
			t.Error("the founder's is not renewed")
		}
		w.cut(earth, mars)
		mars.Renew(t.Context())
		if mars.Own().Member != first.Member {
			t.Error("renewed by nobody")
		}
		w.mend()
		mars.Renew(t.Context())
		now := mars.Own()
		if !now.Member.NotAfter.After(first.Member.NotAfter) || now.Label != "mars" || now.Member.Serial != first.Member.Serial {
			t.Errorf("renewed: %+v", now.Member)
		}
		if s, err := Load(mars.dir); err != nil || s == nil || string(s.Chain) != string(now.Chain) {
			t.Errorf("saved: %v", err)
		}
		time.Sleep(membership.MaxMember/2 + time.Hour)
		mars.setClock(-membership.MaxMember)
		asked := w.asked[ConfirmProtocol.Name]
		mars.Renew(t.Context())
		if w.asked[ConfirmProtocol.Name] != asked {
			t.Error("asked while the clock is behind")
		}
	})
}

// A member that passes the question on cannot have the asker take itself for somebody of
// another name than that in its certificate.
func TestConfirmedByAnotherName(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	moon := w.join(earth.token(membership.InviteOptions{}), "moon")
	token := earth.token(membership.InviteOptions{})
	mars := w.newPeer(nil, nil)
	mars.run(Enter(mars.config(), token, "mars"))
	meet(t, moon, mars)
	given, err := earth.AnswerConfirm(t.Context(), moon.Own().Member, confirmQuestion{0, "mars", mars.Own().Chain}.append(nil))
	if err != nil {
		t.Fatal(err)
	}
	w.cut(earth, mars)
	w.lie(map[peerid.ID]map[string][]byte{moon.Self(): {ConfirmProtocol.Name: renamed(t, given, "bank")}})
	if err := mars.Confirm(t.Context(), "mars"); !errors.Is(err, errText) || mars.Own().Label != "mars" {
		t.Errorf("it is %q: %v", mars.Own().Label, err)
	}
	w.lie(nil)
	if err := mars.Confirm(t.Context(), "mars"); err != nil || mars.Own().Label != "mars" || !mars.Own().Member.Confirmed {
		t.Errorf("by a true answer it is %q: %v", mars.Own().Label, err)
	}
}

// A peer whose upkeep asks to be confirmed while it enters does not become provisional
// again, under the name that it asked for, when the first of the two answers comes late.
func TestConfirmedTwiceAtOnce(t *testing.T) {
	t.Parallel()
	for _, asks := range []string{"enters", "renews"} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t)
			earth := w.found("earth")
			mars := w.join(earth.token(membership.InviteOptions{}), "mars")
			token := earth.token(membership.InviteOptions{})
			p := w.newPeer(nil, nil)
			p.run(Enter(p.config(), token, "mars"))
			w.cut(p, mars) // nobody else is there to ask
			w.mu.Lock()
			w.late = func() {
				time.Sleep(2 * time.Second)
				p.Renew(t.Context())
			}
			w.mu.Unlock()
			switch asks {
			case "enters":
				if err := p.SettleName(t.Context(), token); err != nil {
					t.Fatal(err)
				}
			case "renews":
				if err := p.Confirm(t.Context(), "mars"); err != nil {
					t.Fatal(err)
				}
			}
			if own := p.Own(); !own.Member.Confirmed || own.Label != "mars-2" {
				t.Errorf("%s: %q, confirmed: %v", asks, own.Label, own.Member.Confirmed)
			}
		})
	}
}

// Nor when it was not confirmed at first, and is while it looks in the database.
func TestConfirmedDuringLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		token := earth.token(membership.InviteOptions{})
		p := w.newPeer(nil, nil)
		cfg := p.config()
		cfg.Lookup = func(context.Context, string) *naming.Record {
			w.mend()
			p.Renew(t.Context())
			return nil
		}
		p.run(Enter(cfg, token, "mars"))
		w.cut(p, mars)
		w.cut(p, earth)
		if err := p.SettleName(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		if own := p.Own(); !own.Member.Confirmed || own.Label != "mars-2" {
			t.Errorf("%q, confirmed: %v", own.Label, own.Member.Confirmed)
		}
	})
}
