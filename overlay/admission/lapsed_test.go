package admission

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

const testDay = 24 * time.Hour

// sayHello is what a peer's hello to another does, and the next one if it is answered
// with a new membership.
func (p *peer) sayHello(to *peer) error {
	chain := p.Own().Chain
	_, err := to.Verify(chain, p.Self())
	if err == nil {
		return nil
	}
	answer, err := to.Readmit(p.town.t.Context(), chain, p.Self(), err)
	if err != nil {
		return err
	}
	if len(answer) > ConfirmProtocol.MaxAnswer {
		p.town.t.Errorf("an answer of %d bytes", len(answer))
	}
	if err := p.TakeReadmission(answer); err != nil {
		return err
	}
	_, err = to.Verify(p.Own().Chain, p.Self())
	return err
}

// resume starts a peer again from what it has saved, without a token.
func (p *peer) resume() error {
	s, err := Load(p.dir)
	if err != nil {
		return err
	}
	r, err := Resume(p.config(), s, nil)
	if err != nil {
		return err
	}
	p.run(r, nil)
	return nil
}

// saved joins a new peer that can be resumed.
func (w *town) saved(issuer *peer, name string, opts membership.InviteOptions) *peer {
	w.t.Helper()
	p := w.joinAs(w.newPeer(nil, openDir(w.t)), issuer.token(opts), name)
	if err := p.Save(); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// setClocks sets those of all that are given, and has them renew what is due.
func (w *town) setClocks(ahead time.Duration, peers ...*peer) {
	for _, p := range peers {
		p.setClock(ahead)
	}
	attend(peers...)
	for _, p := range peers {
		p.Renew(w.t.Context())
	}
}

// attend has peers have heard of issuers all the time until now.
func attend(peers ...*peer) {
	for _, p := range peers {
		p.heard.mu.Lock()
		p.heard.last, p.heard.before, p.heard.back = p.now(), time.Time{}, time.Time{}
		p.heard.mu.Unlock()
	}
}

// lapse takes peers away, and lets 40 days go by in which the others renew what is due.
func (w *town) lapse(away []*peer, up ...*peer) {
	w.t.Helper()
	for _, p := range away {
		p.leave()
	}
	w.setClocks(20*testDay, up...)
	w.setClocks(40*testDay, up...)
	for _, p := range away {
		p.setClock(40 * testDay)
	}
}

// TestComesBack: the founder, a delegate and a member stay; others are off for 1 to 400
// days. Each comes back without a token, by whomever it reaches, as who it was, and is a
// member for all. One that was revoked meanwhile, before or after its certificate has
// ended, comes back on no day, at nobody, and starts no more once it knows.
func TestComesBack(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.saved(earth, "venus", membership.InviteOptions{Roles: membership.RoleDelegate})
	moon := w.saved(earth, "moon", membership.InviteOptions{})
	up := []*peer{earth, venus, moon}
	meet(t, up...)
	w.serve(moon)

	type traveller struct {
		*peer
		off     int // days
		revoked int // on this day; 0: not
		back    bool
	}
	var away []*traveller
	for i, off := range []int{1, 20, 29, 31, 60, 200, 366, 395, 400} {
		away = append(away, &traveller{peer: w.saved(earth, fmt.Sprint("p", i), membership.InviteOptions{}), off: off})
	}
	for i, day := range []int{1, 10, 50, 300} {
		away = append(away, &traveller{peer: w.saved(earth, fmt.Sprint("r", i), membership.InviteOptions{}), off: day + 1, revoked: day})
	}
	serial := map[peerid.ID]uint64{}
	for _, p := range away {
		serial[p.Self()] = p.Own().Member.Serial
		p.leave()
	}
	rnd := rand.New(rand.NewPCG(19, 19))
	busy := map[int]bool{}
	for _, p := range away {
		busy[p.off], busy[p.revoked] = true, true
	}
	for day := 1; day <= 900; day++ {
		if day%7 != 0 && !busy[day] {
			continue
		}
		w.setClocks(time.Duration(day)*testDay, up...)
		if day%7 == 0 { // so that the list is made anew, and what has ended in it goes
			if _, err := earth.newList(); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range away {
			p.setClock(time.Duration(day) * testDay)
			switch {
			case p.revoked == day:
				if err := earth.Revoke(p.Self(), Scope{}); err != nil {
					t.Fatal(err)
				}
				w.wg.Wait()
			case p.off == day && p.revoked == 0:
				if err := p.resume(); err != nil {
					t.Fatalf("%d days off: %v", day, err)
				}
				at := up[rnd.IntN(len(up))]
				if err := p.sayHello(at); err != nil {
					t.Fatalf("%d days off, at %s: %v", day, at.Own().Label, err)
				}
				p.Renew(t.Context())
				if own := p.Own(); !own.Member.Confirmed || own.Label != own.Member.Label || own.Member.Serial != serial[p.Self()] && p.off < 30 {
					t.Errorf("%d days off: back as %+v", day, own)
				}
				p.back = true
				up = append(up, p.peer)
			case p.revoked > 0 && day > p.revoked:
				for _, at := range up[:3] {
					_, err := at.Verify(p.Own().Chain, p.Self())
					if err == nil {
						t.Fatalf("revoked on day %d, it is a member on day %d at %s", p.revoked, day, at.Own().Label)
					}
					if _, err := at.Readmit(t.Context(), p.Own().Chain, p.Self(), err); err == nil {
						t.Fatalf("revoked on day %d, it is renewed on day %d at %s", p.revoked, day, at.Own().Label)
					}
				}
			}
		}
	}
	for _, p := range away {
		if p.back == (p.revoked > 0) {
			t.Errorf("off for %d days: back %v", p.off, p.back)
		}
	}
	meet(t, up...)
}

// newList has the founder sign a list that has nothing new.
func (p *peer) newList() (*membership.RevocationList, error) {
	l, err := p.root.Revoke(p.Revocations(), p.now())
	if err == nil {
		p.adopt(l, p.self)
		p.town.wg.Wait()
	}
	return l, err
}

// Who was away for too long, who was revoked and has heard so, and who was never confirmed
// is told at once on starting that it needs a token.
func TestDoesNotStart(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	pluto := w.saved(earth, "pluto", membership.InviteOptions{})
	out := w.saved(earth, "out", membership.InviteOptions{})
	if err := earth.Revoke(out.Self(), Scope{}); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	out.Keep()
	never := w.newPeer(nil, openDir(t))
	never.run(Enter(never.config(), earth.token(membership.InviteOptions{}), "never"))
	if err := never.Save(); err != nil {
		t.Fatal(err)
	}
	for desc, c := range map[string]struct {
		p     *peer
		ahead time.Duration
		want  error
	}{
		"for 429 days": {mars, 429 * testDay, nil}, "for 431 days": {pluto, 431 * testDay, membership.ErrExpired},
		"revoked": {out, 40 * testDay, membership.ErrRevoked}, "never confirmed": {never, 40 * testDay, membership.ErrExpired},
	} {
		c.p.setClock(c.ahead)
		err := c.p.resume()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", desc, err, c.want)
		}
		if lapsed := c.want == nil && c.p.Lapsed() != nil; c.want == nil && (!lapsed || !strings.Contains(c.p.log(), "has ended while it was away")) {
			t.Errorf("%s: it takes itself for a member", desc)
		}
	}
	// A provisional chain, whose holder dates it itself, is renewed by nobody.
	earth.setClock(40 * testDay)
	_, err := earth.Verify(never.Own().Chain, never.Self())
	if _, err := earth.Readmit(t.Context(), never.Own().Chain, never.Self(), err); !errors.Is(err, membership.ErrExpired) {
		t.Errorf("a provisional one: %v", err)
	}
}

// What ends with a delegation: a member below a delegate that has ended is renewed by
// the founder if it has known it before. If not nobody can tell it from one that the
// delegate has made up afterwards.
func TestDelegationEnds(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.saved(earth, "venus", membership.InviteOptions{Roles: membership.RoleDelegate})
	meet(t, earth, venus)
	known := w.joinAs(w.newPeer(nil, openDir(t)), venus.token(membership.InviteOptions{}), "known")
	// Below the delegate, with the founder told of it or not.
	issue := func(p *peer, at time.Duration) []byte {
		chain, err := venus.issuing().Issue(p.Self(), membership.MemberOptions{Label: p.Own().Label, Serial: 1, Invitation: p.Own().Member.Invitation}, time.Now().Add(at))
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	unknown := w.newPeer(nil, nil)
	unknown.run(Enter(unknown.config(), venus.token(membership.InviteOptions{}), "unknown"))
	last := 365 * testDay
	for _, p := range []*peer{known, unknown} {
		chain := issue(p, last-10*testDay)
		p.setClock(last)
		if err := p.take(chain, p.Own().Label); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		day     int
		unknown bool // is renewed too
	}{{365, true}, {380, false}} { // 366 days is the delegation's life
		ahead := time.Duration(c.day) * testDay
		for _, p := range []*peer{earth, known, unknown} {
			p.setClock(ahead)
		}
		for p, want := range map[*peer]bool{known: true, unknown: c.unknown} {
			_, err := earth.Verify(p.Own().Chain, p.Self())
			if c.day == 365 {
				if err != nil {
					t.Errorf("while it lasts: %v", err)
				}
				continue
			}
			_, err = earth.Readmit(t.Context(), p.Own().Chain, p.Self(), err)
			if (err == nil) != want || !want && !errors.Is(err, errUnknown) {
				t.Errorf("on day %d, known %v: %v", c.day, p == known, err)
			}
		}
	}
}

// A delegate that was away is made one again by the founder. Another delegate, which can
// make it only less than it was, brings it to the founder or says so.
func TestDelegateComesBack(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.saved(earth, "venus", membership.InviteOptions{Roles: membership.RoleDelegate})
	mars := w.saved(earth, "mars", membership.InviteOptions{Roles: membership.RoleDelegate | membership.RoleRelay})
	meet(t, earth, venus, mars)
	w.lapse([]*peer{mars}, earth, venus)
	if err := mars.resume(); err != nil {
		t.Fatal(err)
	}
	attend(mars) // somebody has shown it what an authority has said
	w.cut(earth, venus)
	if err := mars.sayHello(venus); !errors.Is(err, errFounder) || mars.Lapsed() == nil {
		t.Errorf("at another delegate: %v", err)
	}
	w.mend()
	if err := mars.sayHello(venus); !errors.Is(err, errPaused) {
		t.Errorf("at once again: %v", err)
	}
	w.setClocks(40*testDay+readmitPause, earth, venus, mars)
	if err := mars.sayHello(venus); err != nil {
		t.Fatal(err)
	}
	own := mars.Own()
	if !own.Issuer || !own.Member.Roles.Has(membership.RoleDelegate|membership.RoleRelay) || !own.Member.Delegate.IsZero() || mars.Lapsed() != nil {
		t.Errorf("back as %+v", own)
	}
	if _, err := mars.Invite(membership.InviteOptions{}); err != nil {
		t.Error(err)
	}
}

// Who has come back and asks again and again, with the right key and the old chain, is
// given the same and costs no signature; who is refused is not asked for again at once,
// nor brings who passes it on to ask. When it is revoked the same is not given any more.
func TestReadmissionFlood(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	moon := w.saved(earth, "moon", membership.InviteOptions{})
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	pluto := w.saved(earth, "pluto", membership.InviteOptions{Label: "pluto"})
	meet(t, earth, moon)
	w.lapse([]*peer{mars, pluto}, earth, moon)
	earth.registry.set("pluto", confirmedLabel{Peer: moon.Self(), NotAfter: time.Now().Add(80 * testDay)}) // it is another's now
	count := func() int { return strings.Count(earth.log(), "is one again") }
	flood := func(p, at *peer) (answers map[string]bool, refused int) {
		answers = map[string]bool{}
		_, why := at.Verify(p.Own().Chain, p.Self())
		for range 1000 {
			b, err := at.Readmit(t.Context(), p.Own().Chain, p.Self(), why)
			if err != nil {
				refused++
			} else {
				answers[string(b)] = true
			}
		}
		return answers, refused
	}
	for _, at := range []*peer{moon, earth} {
		before := w.asked["confirm"]
		answers, refused := flood(mars, at)
		if len(answers) != 1 || refused != 0 || count() != 1 {
			t.Errorf("at %s: %d answers, %d refused, %d renewals", at.Own().Label, len(answers), refused, count())
		}
		if asked := w.asked["confirm"] - before; asked > 1 {
			t.Errorf("at %s: %d questions to others", at.Own().Label, asked)
		}
		before = w.asked["confirm"]
		if answers, refused := flood(pluto, at); len(answers) != 0 || refused != 1000 || w.asked["confirm"]-before > 1 {
			t.Errorf("one that is refused, at %s: %d answers, %d refused, %d questions", at.Own().Label, len(answers), refused, w.asked["confirm"]-before)
		}
	}
	if n := strings.Count(earth.log(), "refusing to confirm"); n > 1 {
		t.Errorf("the log has %d lines of it", n)
	}
	if err := earth.Revoke(mars.Self(), Scope{}); err != nil {
		t.Fatal(err)
	}
	w.wg.Wait()
	for _, at := range []*peer{moon, earth} {
		if answers, refused := flood(mars, at); len(answers) != 0 || refused != 1000 {
			t.Errorf("revoked, at %s: %d answers, %d refused", at.Own().Label, len(answers), refused)
		}
	}
}

// So many come back at a time, and of one invitation less; who is one too many is told
// to try again, and nothing stays behind of those whose answer does not come.
func TestReadmissionCrowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		moon := w.saved(earth, "moon", membership.InviteOptions{})
		token := earth.token(membership.InviteOptions{Uses: 20})
		var away []*peer
		for i := range 40 {
			p := w.newPeer(nil, nil)
			from := token
			if i >= 20 {
				from = earth.token(membership.InviteOptions{})
			}
			away = append(away, w.joinAs(p, from, fmt.Sprint("p", i)))
		}
		meet(t, earth, moon)
		w.lapse(away, earth, moon)
		w.mu.Lock()
		w.silent[earth.Self()] = true
		w.mu.Unlock()
		for round := range 2 {
			results := make(chan error, len(away))
			for _, p := range away {
				go func() {
					_, err := moon.Verify(p.Own().Chain, p.Self())
					_, err = moon.Readmit(t.Context(), p.Own().Chain, p.Self(), err)
					results <- err
				}()
			}
			crowded := 0
			for range away {
				if err := <-results; errors.Is(err, errCrowd) {
					crowded++
				} else if err == nil {
					t.Error("somebody was renewed by nobody")
				}
			}
			if round == 0 && crowded < len(away)-readmitMax-readmitOf {
				t.Errorf("%d of %d were too many", crowded, len(away))
			}
			time.Sleep(readmitPause)
		}
		w.mu.Lock()
		w.silent[earth.Self()] = false
		w.mu.Unlock()
		if l := moon.returning; l.running != 0 || l.of.Len() != 0 {
			t.Errorf("%d are under way when all is done, of %d invitations", l.running, l.of.Len())
		}
		for _, p := range away {
			if err := p.sayHello(moon); err != nil {
				t.Error(err)
			}
		}
	})
}

// Nobody takes a membership that is not its own, is none, or was not asked for, and none
// that is another's chain is renewed for who shows it.
func TestReadmissionRefused(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars := w.saved(earth, "mars", membership.InviteOptions{})
	pluto := w.saved(earth, "pluto", membership.InviteOptions{})
	for _, chain := range [][]byte{nil, pluto.Own().Chain} {
		if err := mars.TakeReadmission(confirmAnswer{text: "mars", chain: chain}.append(nil)); !errors.Is(err, errUnasked) {
			t.Errorf("one that was not asked for is taken: %v", err)
		}
	}
	old := mars.Own().Chain
	w.setClocks(40*testDay, earth)
	mars.setClock(40 * testDay)
	attend(mars) // somebody has shown it what an issuer has said
	_, why := earth.Verify(old, mars.Self())
	if _, err := earth.Readmit(t.Context(), old, pluto.Self(), why); !errors.Is(err, membership.ErrNotMember) {
		t.Errorf("shown by another: %v", err)
	}
	if _, err := earth.Readmit(t.Context(), old, mars.Self(), membership.ErrUsed); !errors.Is(err, membership.ErrUsed) {
		t.Errorf("refused for another reason: %v", err)
	}
	pluto.setClock(40 * testDay)
	if err := pluto.sayHello(earth); err != nil {
		t.Fatal(err)
	}
	answer, err := earth.Readmit(t.Context(), old, mars.Self(), why)
	if err != nil {
		t.Fatal(err)
	}
	for desc, b := range map[string][]byte{
		"nothing": nil, "cut": answer[:len(answer)-1], "another's": confirmAnswer{text: "pluto", chain: pluto.Own().Chain}.append(nil),
		"the old one": confirmAnswer{text: "mars", chain: old}.append(nil), "another name": renamed(t, answer, "moon"), "a refusal": confirmAnswer{status: confirmNobody}.append(nil),
	} {
		if err := mars.TakeReadmission(b); err == nil || mars.Lapsed() == nil {
			t.Errorf("%s is taken", desc)
		}
	}
	if err := mars.TakeReadmission(answer); err != nil || mars.Lapsed() != nil || bytes.Equal(mars.Own().Chain, old) {
		t.Errorf("its own is not: %v", err)
	}
	if s, err := Load(mars.dir); err != nil || !bytes.Equal(s.Chain, mars.Own().Chain) {
		t.Errorf("it is not saved: %v", err)
	}
}

// renamed is an answer whose text is another, as whoever passes it on may have it.
func renamed(t *testing.T, answer []byte, text string) []byte {
	t.Helper()
	a, err := readConfirmAnswer(answer)
	if err != nil {
		t.Fatal(err)
	}
	a.text = text
	return a.append(nil)
}
