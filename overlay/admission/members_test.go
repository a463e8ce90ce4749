package admission

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	w, other := newTown(t), newTown(t)
	earth := w.found("earth")
	mars := w.join(earth.token(membership.InviteOptions{}), "mars")
	venus := w.join(earth.token(membership.InviteOptions{}), "venus")
	sun := other.found("sun")
	for _, c := range []struct {
		what  string
		chain []byte
		from  peerid.ID
		err   error // nil: a member
	}{
		{"its own chain", mars.Own().Chain, mars.Self(), nil},
		{"another's chain", mars.Own().Chain, venus.Self(), membership.ErrNotMember},
		{"another overlay's", sun.Own().Chain, sun.Self(), membership.ErrWrongOverlay},
		{"no chain", nil, mars.Self(), membership.ErrNotMember},
		{"a part of one", mars.Own().Chain[:40], mars.Self(), membership.ErrNotMember},
	} {
		m, err := earth.Verify(c.chain, c.from)
		if c.err == nil && (err != nil || m.Peer != c.from) || c.err != nil && (!errors.Is(err, c.err) || !errors.Is(err, membership.ErrNotMember) || m != nil) {
			t.Errorf("%s: %v, %v", c.what, m, err)
		}
		if _, ok := earth.Member(sun.Self()); ok {
			t.Errorf("%s: another overlay's is remembered", c.what)
		}
	}
	if _, ok := earth.Member(earth.Self()); ok {
		t.Error("a peer is among the others")
	}
}

// Who has the role forwards for members, which are charged by invitation; names are
// those of certificates.
func TestRelayFor(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	relay := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleRelay}), "relay")
	mars := w.join(earth.token(membership.InviteOptions{}), "mars")
	stranger := newTown(t).found("sun")
	meet(t, relay, mars)
	for _, c := range []struct {
		at    *peer
		from  peerid.ID
		ok    bool
		name  string
		whose account.Account
	}{
		{relay, mars.Self(), true, "mars." + relay.Overlay().Domain, account.Account{Invitation: string(mars.Own().Member.Invitation[:])}},
		{relay, stranger.Self(), false, "", account.Account{}},
		{relay, relay.Self(), false, "relay." + relay.Overlay().Domain, account.Account{}},
		{mars, relay.Self(), false, "relay." + relay.Overlay().Domain, account.Account{}},
	} {
		account, ok := c.at.RelayFor(c.from)
		if name := c.at.FullName(c.from); ok != c.ok || account != c.whose || name != c.name {
			t.Errorf("%v for %v: %v, charged to %+v, named %q; want %+v", c.at.Own().Label, c.from, ok, account, name, c)
		}
	}
}

// A member is none from the moment on in which the list is adopted, for all who
// ask, and again one when it has a new membership: nobody has to drop anything
// before.
func TestRevokedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleRelay}), "venus")
		meet(t, earth, mars, venus)
		shown, _ := mars.Member(venus.Self())
		chain := venus.Own().Chain
		if mars.Check(chain, venus.Self()) != nil || !mars.Held("venus", mars.Self()) || mars.Held("venus", venus.Self()) || mars.LabelRevoked("venus") || mars.LabelRevoked(venus.Self().Label()) {
			t.Error("venus is no member before it was revoked")
		}
		if err := earth.Revoke(venus.Self(), Scope{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, p := range []*peer{earth, mars} {
			if _, ok := p.Member(venus.Self()); ok {
				t.Error("Member has it")
			}
			if _, ok := p.Current(shown); ok {
				t.Error("it is current")
			}
			if err := p.Check(chain, venus.Self()); !errors.Is(err, membership.ErrRevoked) {
				t.Errorf("Check: %v", err)
			}
			if _, err := p.Verify(chain, venus.Self()); !errors.Is(err, membership.ErrRevoked) || !errors.Is(err, membership.ErrNotMember) {
				t.Errorf("Verify: %v", err)
			}
			if slices.ContainsFunc(p.Members(), func(m *membership.Member) bool { return m.Peer == venus.Self() }) {
				t.Error("Members has it")
			}
			if p.Held("venus", mars.Self()) {
				t.Error("its label is held")
			}
			if !p.Revoked(venus.Self()) || !p.LabelRevoked("venus") || !p.LabelRevoked(venus.Self().Label()) {
				t.Error("it is not known to be revoked")
			}
			if p.Revoked(earth.Self()) || p.LabelRevoked("earth") || p.LabelRevoked("pluto") {
				t.Error("others are")
			}
			if p.changed != 1 {
				t.Errorf("Changed was called %d times", p.changed)
			}
			got := p.Sweep()
			if len(got) != 1 || got[0] != (Departure{venus.Self(), "venus", true}) {
				t.Errorf("Sweep: %+v", got)
			}
			if got := p.Sweep(); len(got) != 0 {
				t.Errorf("Sweep again: %+v", got)
			}
		}
		venus.leave()
		// Another peer may have the label: it is not one that was taken back.
		again := w.join(earth.token(membership.InviteOptions{}), "venus")
		meet(t, earth, mars, again)
		if again.Own().Label != "venus" || mars.LabelRevoked("venus") || earth.LabelRevoked("venus") {
			t.Errorf("another venus is %q, revoked at mars %v, at earth %v", again.Own().Label, mars.LabelRevoked("venus"), earth.LabelRevoked("venus"))
		}
		if !mars.LabelRevoked(venus.Self().Label()) {
			t.Error("the ID of the first is not revoked any more")
		}
	})
}

// What an invitation or a delegate has brought in goes with it, and who was never
// met is told of all the same.
func TestSweepByKind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
		earth.leave()
		mars := w.join(venus.token(membership.InviteOptions{}), "mars") // the delegate confirms it
		earth.run(earth.Roster, nil)
		meet(t, earth, venus, mars)
		stranger := peerid.ID{1, 2, 3}
		l, err := earth.root.Revoke(nil, time.Now(),
			membership.Revocation{Kind: membership.RevokeDelegate, Key: membership.KeyOf(venus.Self()), Until: time.Now().Add(membership.LongestLife)},
			membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(stranger), Until: time.Now().Add(membership.LongestLife)})
		if err != nil {
			t.Fatal(err)
		}
		earth.adopt(l, earth.Self())
		synctest.Wait()
		if _, ok := earth.Member(venus.Self()); !ok {
			t.Error("the delegate itself is no member, though the founder has confirmed it")
		}
		if _, ok := earth.Member(mars.Self()); ok {
			t.Error("who was confirmed by the delegate is a member")
		}
		got := earth.Sweep()
		slices.SortFunc(got, func(a, b Departure) int { return a.Peer.Compare(b.Peer) })
		want := []Departure{{stranger, "", true}, {mars.Self(), "mars", false}}
		slices.SortFunc(want, func(a, b Departure) int { return a.Peer.Compare(b.Peer) })
		if !slices.Equal(got, want) {
			t.Errorf("Sweep: %+v, want %+v", got, want)
		}
		if got := earth.Sweep(); len(got) != 0 {
			t.Errorf("again: %+v", got)
		}
	})
}

// A certificate that ends makes a peer no member, by itself; a newer one makes it
// one again, and the next end is told of as well.
func TestSweepExpired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		for range 2 {
			if _, err := earth.Verify(mars.Own().Chain, mars.Self()); err != nil {
				t.Fatal(err)
			}
			if got := earth.Sweep(); len(got) != 0 {
				t.Errorf("too soon: %+v", got)
			}
			time.Sleep(time.Until(mars.Own().Member.NotAfter) + membership.Tolerance - time.Minute)
			if _, ok := earth.Member(mars.Self()); !ok {
				t.Error("no member within the tolerance")
			}
			time.Sleep(2 * time.Minute)
			if _, ok := earth.Member(mars.Self()); ok {
				t.Error("a member after its certificate's end")
			}
			if got := earth.Sweep(); len(got) != 1 || got[0] != (Departure{mars.Self(), "mars", false}) {
				t.Errorf("Sweep: %+v", got)
			}
			if earth.Revoked(mars.Self()) || earth.LabelRevoked("mars") {
				t.Error("that is no revocation")
			}
			chain, err := earth.root.Issuer().Issue(mars.Self(), membership.MemberOptions{Label: "mars", Serial: 2}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if err := mars.take(chain, "mars"); err != nil {
				t.Fatal(err)
			}
			if err := earth.Check(chain, mars.Self()); err != nil {
				t.Errorf("by its new certificate: %v", err)
			}
		}
	})
}

// Of two memberships the better one counts, whichever is seen last, unless it
// holds no more.
func TestNoteKeepsTheBetter(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	now := time.Now()
	of := func(confirmed bool, begins time.Duration, label string) *membership.Member {
		return &membership.Member{Peer: peerid.ID{7}, Confirmed: confirmed, NotBefore: now.Add(begins), NotAfter: now.Add(time.Hour), Label: label}
	}
	ended := of(true, -2*time.Hour, "ended")
	ended.NotAfter = now.Add(-time.Hour)
	for _, c := range []struct {
		first, second *membership.Member
		want          string
	}{
		{of(false, -2*time.Minute, "a"), of(false, -time.Minute, "b"), "b"},
		{of(false, -time.Minute, "a"), of(false, -2*time.Minute, "b"), "a"},
		{of(true, -2*time.Minute, "a"), of(false, -time.Minute, "b"), "a"},
		{of(false, -time.Minute, "a"), of(true, -2*time.Minute, "b"), "b"},
		{of(true, -time.Minute, "a"), of(true, -time.Minute, "b"), "b"},
		{ended, of(false, -time.Minute, "b"), "b"},
		{of(true, membership.Tolerance+time.Minute, "a"), of(false, -time.Minute, "b"), "b"}, // dated by a clock that was wrong
	} {
		r, err := newRoster(w.newPeer(nil, nil).config(), earth.Overlay())
		if err != nil {
			t.Fatal(err)
		}
		r.Note(c.first)
		r.Note(c.second)
		if m, ok := r.Member(peerid.ID{7}); !ok || m.Label != c.want {
			t.Errorf("%+v, then %+v: %+v, want %s", c.first, c.second, m, c.want)
		}
		if m, ok := r.Current(c.second); !ok || m.Label != c.want {
			t.Errorf("%+v, then %+v: current is %+v, want %s", c.first, c.second, m, c.want)
		}
	}
}

// More members than are remembered put none out: who has something open has shown
// its chain for it. It used to be that all were forgotten at once when there were
// too many, and that relays then forwarded for nobody.
func TestMoreThanAreRemembered(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	piped := w.join(earth.token(membership.InviteOptions{}), "piped")
	met := w.join(earth.token(membership.InviteOptions{}), "met")
	meet(t, earth, piped, met)
	w.wg.Wait() // for questions about them, which look at who asks
	evidence, _ := earth.Member(met.Self())
	earth.shown[piped.Self()] = piped.Own().Chain
	busy := peerid.ID{0xff}
	now := time.Now()
	fill := func(n int) {
		for i := range n {
			m := &membership.Member{NotBefore: now, NotAfter: now.Add(time.Hour)}
			binary.BigEndian.PutUint32(m.Peer[:], uint32(i+1))
			earth.Note(m)
		}
	}
	fill(10)
	earth.Note(&membership.Member{Peer: busy, NotBefore: now, NotAfter: now.Add(time.Hour)})
	fill(membersMax / 2)
	if _, ok := earth.Member(busy); !ok {
		t.Error("forgotten before there were too many")
	}
	fill(membersMax - 2)
	if n := len(earth.Members()); n != membersMax {
		t.Errorf("%d remembered", n)
	}
	if _, ok := earth.remembered(piped.Self()); ok {
		t.Error("the oldest is remembered: does this test still fill the Roster?")
	}
	if m, ok := earth.Member(piped.Self()); !ok || m.Label != "piped" {
		t.Errorf("a member with a pipe is %+v, %v", m, ok)
	}
	if _, ok := earth.Member(met.Self()); ok {
		t.Error("a member that is remembered nowhere is known")
	}
	if m, ok := earth.Current(evidence); !ok || m.Peer != met.Self() {
		t.Errorf("a member with a connection is %+v, %v", m, ok)
	}
	if _, ok := earth.Member(met.Self()); !ok {
		t.Error("its evidence is not remembered")
	}
	if err := earth.Revoke(piped.Self(), Scope{}); err != nil {
		t.Fatal(err)
	}
	if _, ok := earth.Member(piped.Self()); ok {
		t.Error("a revoked member is one by its pipe")
	}
}

// All of it at once, for the race detector: a revoked member is none in any
// answer that begins after Revoke has returned.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	var peers []*peer
	for range 8 {
		peers = append(peers, w.join(earth.token(membership.InviteOptions{}), "peer"))
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, p := range peers {
		chain, id := p.Own().Chain, p.Self()
		p.leave()
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				revoked := earth.Revoked(id)
				m, err := earth.Verify(chain, id)
				if err == nil && revoked {
					t.Errorf("%v is revoked and a member", id)
				}
				if err == nil {
					_, _ = earth.Current(m)
				}
				_, _ = earth.Member(id)
				earth.Members()
				earth.Sweep()
				earth.HearTime(id, uint64(time.Now().Unix()))
				_ = earth.Own()
			}
		})
	}
	for _, p := range peers {
		if err := earth.Revoke(p.Self(), Scope{}); err != nil {
			t.Error(err)
		}
		if err := earth.Check(p.Own().Chain, p.Self()); err == nil {
			t.Error("a member after Revoke")
		}
	}
	close(stop)
	wg.Wait()
	if n := len(earth.Members()); n != 0 {
		t.Errorf("%d members", n)
	}
	if l := earth.Revocations(); l.Seq() != 8 {
		t.Errorf("list %d", l.Seq())
	}
}
