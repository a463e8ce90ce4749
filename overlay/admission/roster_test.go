package admission

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
)

func TestPeerID(t *testing.T) {
	t.Parallel()
	if id, err := PeerID(nil); err == nil || !id.IsZero() {
		t.Errorf("no key is %v", id)
	}
	if _, err := Found(Config{}, "example.com", "x"); err == nil {
		t.Error("founded without a key")
	}
	if _, err := Found(Config{Key: newKey(t)}, "no domain", "x"); err == nil {
		t.Error("founded for no domain")
	}
}

// What is saved makes the same member again: the founder, a delegate, a plain one.
func TestResume(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.newPeer(nil, openDir(t))
	earth.run(Found(earth.config(), "Example.COM", "earth"))
	venus := w.newPeer(nil, openDir(t))
	w.joinAs(venus, earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
	mars := w.newPeer(nil, openDir(t))
	w.joinAs(mars, earth.token(membership.InviteOptions{}), "mars")
	if s, err := Load(openDir(t)); s != nil || err != nil {
		t.Errorf("loaded %+v, %v", s, err)
	}
	if s, err := Load(nil); s != nil || err != nil {
		t.Errorf("loaded %+v, %v", s, err)
	}
	luna := w.join(earth.token(membership.InviteOptions{}), "luna")
	luna.leave()
	for _, id := range []peerid.ID{{1}, luna.Self()} {
		if err := earth.Revoke(id, Scope{}); err != nil {
			t.Fatal(err)
		}
	}
	w.wg.Wait()
	for _, p := range []*peer{earth, venus, mars} {
		if err := p.Save(); err != nil {
			t.Fatal(err)
		}
		s, err := Load(p.dir)
		if err != nil || s == nil || s.Founder() != p.Founder() || s.Overlay() != p.Overlay() {
			t.Fatalf("%+v, %v", s, err)
		}
		r, err := Resume(p.config(), s, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		own, was := r.Own(), p.Own()
		if r.Self() != p.Self() || own.Label != was.Label || own.Issuer != was.Issuer || string(own.Chain) != string(was.Chain) || r.Founder() != p.Founder() || r.Overlay() != p.Overlay() {
			t.Errorf("%s is %+v", was.Label, own)
		}
		if !r.Revoked(peerid.ID{1}) || len(r.Sweep()) != 0 {
			t.Errorf("%s: list %d; what was revoked before is no news", was.Label, r.Revocations().Seq())
		}
		if r.LabelRevoked("luna") != was.Issuer {
			t.Errorf("%s: luna's label revoked %v: issuers know whose it was", was.Label, r.LabelRevoked("luna"))
		}
		if _, err := r.Invite(membership.InviteOptions{}); (err == nil) != was.Issuer {
			t.Errorf("%s invites: %v", was.Label, err)
		}
	}
	if id, ok := earth.Holder("mars"); !ok || id != mars.Self() {
		t.Error("the founder has forgotten mars")
	}
	s, _ := Load(earth.dir)
	for what, damage := range map[string]func(*Saved){
		"another root":        func(s *Saved) { s.RootKey[0] ^= 1 },
		"no root":             func(s *Saved) { s.Root = s.Root[:3] },
		"another's root":      func(s *Saved) { r, _ := membership.NewRoot("example.org"); s.Root = r.Marshal() },
		"a list cut short":    func(s *Saved) { s.Revocation = s.Revocation[:9] },
		"no domain":           func(s *Saved) { s.Domain = "" },
		"another peer's":      func(s *Saved) { s.Chain, s.Root = mars.Own().Chain, nil },
		"a chain cut short":   func(s *Saved) { s.Chain, s.Root = s.Chain[:9], nil },
		"another's overlay's": func(s *Saved) { s.Domain = "example.org" },
	} {
		damaged := *s
		damaged.Root, damaged.Revocation, damaged.Chain = append([]byte(nil), s.Root...), append([]byte(nil), s.Revocation...), append([]byte(nil), s.Chain...)
		damage(&damaged)
		if _, err := Resume(earth.config(), &damaged, nil); err == nil {
			t.Errorf("%s: resumed", what)
		}
	}
}

// A chain that has ended: a token that admits still makes another, the founder
// makes its own, everybody else goes on for as long as somebody may renew it; but not who
// was revoked, token or not.
func TestResumeEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.foundSaved("earth")
		token := earth.token(membership.InviteOptions{Expires: 90 * 24 * time.Hour})
		mars := w.newPeer(nil, openDir(t))
		w.joinAs(mars, token, "mars")
		if err := errors.Join(earth.Save(), mars.Save()); err != nil {
			t.Fatal(err)
		}
		resume := func(cfg Config, s *Saved, token *membership.Token) (*Roster, error) {
			r, err := Resume(cfg, s, token)
			if err == nil {
				defer r.Close()
			}
			return r, err
		}
		time.Sleep(membership.MaxMember + time.Hour)
		founder, _ := Load(earth.dir)
		if r, err := resume(earth.config(), founder, nil); err != nil || !r.Own().Member.NotAfter.After(time.Now()) || r.Own().Label != "earth" {
			t.Errorf("the founder: %v", err)
		}
		s, _ := Load(mars.dir)
		if r, err := resume(mars.config(), s, nil); err != nil || r.Lapsed() != nil {
			t.Errorf("without a token, where no issuer was heard of: %v", err)
		} else if r.heardOfAuthorities(time.Now()); r.Lapsed() != nil {
			t.Error("it has ended at once when an issuer was heard of")
		} else if time.Sleep(renewFor); !errors.Is(r.Lapsed(), membership.ErrExpired) {
			t.Errorf("a day after an issuer was heard of: %v", r.Lapsed())
		}
		if r, err := resume(mars.config(), s, token); err != nil || r.Own().Member.Confirmed || r.Own().Label != "mars" {
			t.Errorf("with the token: %v", err)
		}
		l, err := earth.root.Revoke(nil, time.Now(), membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(mars.Self())})
		if err != nil {
			t.Fatal(err)
		}
		s.Revocation = l.Bytes()
		if r, err := resume(mars.config(), s, token); err == nil {
			t.Errorf("revoked: resumed as %+v", r.Own())
		}
		s.Revocation = nil
		time.Sleep(membership.RenewFor)
		if _, err := resume(mars.config(), s, nil); !errors.Is(err, membership.ErrExpired) {
			t.Errorf("without a token, for too long: %v", err)
		}
	})
}

// What was made later than it is by the clock is kept, with all its signatures
// checked, until the clock is set; that is said once.
func TestResumeClockBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.foundSaved("earth")
		if err := earth.Save(); err != nil {
			t.Fatal(err)
		}
		s, _ := Load(earth.dir)
		again := w.newPeer(earth.key, earth.dir)
		again.setClock(-365 * 24 * time.Hour)
		again.run(Resume(again.config(), s, nil))
		if string(again.Own().Chain) != string(s.Chain) {
			t.Error("another chain was made by a clock that is behind")
		}
		if got := warnings(again.log()); len(got) != 1 || !strings.Contains(got[0], "clock is behind") {
			t.Errorf("said: %q", got)
		}
	})
}

// A token that has not begun, or seems to be long over, makes a provisional
// member that others can take; one that is just over does not, nor one that is
// over by the others' clocks too.
func TestEnterUntimely(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what  string
		ahead time.Duration // of the clock of who enters
		ok    bool
	}{
		{"now", 0, true},
		{"behind by a year", -365 * 24 * time.Hour, true},
		{"just over", 24*time.Hour + 30*time.Minute, false},
		{"over for a day, or the clock is ahead", 48 * time.Hour, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t)
			earth := w.found("earth")
			token := earth.token(membership.InviteOptions{})
			p := w.newPeer(nil, nil)
			p.setClock(c.ahead)
			r, err := Enter(p.config(), token, "mars")
			if (err == nil) != c.ok {
				t.Fatalf("%s: %v", c.what, err)
			}
			if err != nil {
				if !errors.Is(err, membership.ErrExpired) {
					t.Errorf("%s: %v", c.what, err)
				}
				return
			}
			if _, err := earth.Verify(r.Own().Chain, r.Self()); err != nil {
				t.Errorf("%s: the founder does not take it: %v", c.what, err)
			}
			// Nobody has told the time yet; then somebody with the right one does.
			if err := r.CheckToken(token); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			r.HearTime(earth.Self(), uint64(time.Now().Unix()))
			if err := r.CheckToken(token); err != nil {
				t.Errorf("%s, while the others have another time: %v", c.what, err)
			}
			// The clock is set.
			p.setClock(0)
			r.clocks.forget()
			r.HearTime(earth.Self(), uint64(time.Now().Unix()))
			if err := r.CheckToken(token); err != nil {
				t.Errorf("%s, the clock is set: %v", c.what, err)
			}
			if m := r.Own().Member; membership.CheckTimes("", m.NotBefore, m.NotAfter, time.Now()) != nil {
				t.Errorf("%s: from %v to %v", c.what, m.NotBefore, m.NotAfter)
			}
			time.Sleep(48 * time.Hour)
			r.HearTime(earth.Self(), uint64(time.Now().Unix()))
			if err := r.CheckToken(token); !errors.Is(err, membership.ErrExpired) {
				t.Errorf("%s: the token is over by all clocks: %v", c.what, err)
			}
		})
	}
}

// An issuer whose list of labels is damaged asks the database before it gives one
// to anybody; and it is put aside and said.
func TestLabelsDamaged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "earth")
	open := func() *state.Dir {
		d, err := state.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	w := newTown(t)
	earth := w.newPeer(nil, open())
	earth.run(Found(earth.config(), "example.com", "earth"))
	mars := w.join(earth.token(membership.InviteOptions{}), "mars")
	if err := errors.Join(earth.Save(), earth.dir.Close(), os.Truncate(filepath.Join(path, DocLabels+".journal"), 9)); err != nil {
		t.Fatal(err)
	}
	earth.leave()
	again := w.newPeer(earth.key, open())
	defer again.dir.Close()
	s, err := Load(again.dir)
	if err != nil {
		t.Fatal(err)
	}
	again.run(Resume(again.config(), s, nil))
	if got := warnings(again.log()); len(got) != 1 || !strings.Contains(got[0], DocLabels) {
		t.Errorf("said: %q", got)
	}
	w.records["mars"] = mars.record(t, "mars", false)
	if got := w.join(again.token(membership.InviteOptions{}), "mars").Own().Label; got != "mars-2" {
		t.Errorf("another peer is %s", got)
	}
}

// A disk that takes nothing stops nobody who is in, and lets nobody in.
func TestDiskTakesNothing(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.foundSaved("earth")
	earth.dir.Break(syscall.ENOSPC)
	if err := earth.Save(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("saved: %v", err)
	}
	w.join(earth.token(membership.InviteOptions{}), "mars")
	if err := earth.Revoke(peerid.ID{1}, Scope{}); err != nil || !earth.Revoked(peerid.ID{1}) {
		t.Errorf("revoked: %v", err)
	}
	said := strings.Join(warnings(earth.log()), "")
	for _, name := range []string{DocOverlay, DocLabels} {
		if strings.Count(said, "name="+name) != 1 {
			t.Errorf("%s: said\n%s", name, said)
		}
	}
}
