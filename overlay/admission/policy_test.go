package admission

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// A policy goes to all neighbours, from them to theirs, and is kept.
func TestPolicySpreads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.foundSaved("earth")
		all := []*peer{earth}
		for range 5 {
			p := w.newPeer(nil, openDir(t))
			all = append(all, w.joinAs(p, earth.token(membership.InviteOptions{}), "peer"))
		}
		for i, a := range all {
			for j, b := range all {
				if j > i+1 {
					w.cut(a, b)
				}
			}
		}
		for _, text := range []string{"allow venus to open tcp 80 at mars", "", "allow everybody to open tcp at everybody"} {
			if err := earth.SetPolicy(text); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			for i, p := range all {
				if p.Policy().Text() != text || p.Policy().Number() != earth.Policy().Number() {
					t.Errorf("place %d has %q, number %d", i, p.Policy().Text(), p.Policy().Number())
				}
			}
		}
		asked := w.asked[RevocationProtocol.Name]
		for _, p := range all {
			for _, n := range p.Neighbours() {
				p.HearNumber(n.Peer, p.Revocations().Rank())
			}
		}
		synctest.Wait()
		if more := w.asked[RevocationProtocol.Name] - asked; more != 0 {
			t.Errorf("%d questions where nobody has news", more)
		}
		for i, p := range all {
			s := p.document()
			again := w.newPeer(p.key, p.dir)
			p.leave()
			again.run(Resume(again.config(), &s, nil))
			if again.Policy().Text() != earth.Policy().Text() {
				t.Errorf("place %d has %q after a restart", i, again.Policy().Text())
			}
		}
	})
}

// Whoever asks, and whatever else is news, both have the newer policy afterwards.
func TestPolicyIsCompared(t *testing.T) {
	t.Parallel()
	for _, revokes := range []bool{false, true} {
		for _, asks := range []string{"earth", "mars"} {
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t)
				earth := w.found("earth")
				mars := w.join(earth.token(membership.InviteOptions{}), "mars")
				bad := w.join(earth.token(membership.InviteOptions{}), "bad")
				w.cut(earth, mars)
				bad.leave()
				if err := earth.SetPolicy("allow mars to open udp at earth"); err != nil {
					t.Fatal(err)
				}
				if revokes {
					if err := earth.Revoke(bad.Self(), Scope{}); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if mars.Policy() != nil {
					t.Fatal("mars has it already")
				}
				w.mend()
				if asks == "earth" {
					earth.CompareLists(t.Context(), mars.Self())
				} else {
					mars.CompareLists(t.Context(), earth.Self())
				}
				if mars.Policy().Text() != earth.Policy().Text() || mars.Revoked(bad.Self()) != revokes {
					t.Errorf("%s asks: %q; the list was learnt: %v", asks, mars.Policy().Text(), mars.Revoked(bad.Self()))
				}
			})
		}
	}
}

// Nobody but the founder sets one, an older one comes back to nobody, and what the
// founder has not signed is taken from nobody.
func TestPolicyAttacks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.join(earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		if err := venus.SetPolicy("allow venus to open tcp at mars"); !errors.Is(err, ErrNotFounder) {
			t.Errorf("a delegate sets one: %v", err)
		}
		if err := earth.SetPolicy("allow mars to open tcp at venus"); err != nil {
			t.Fatal(err)
		}
		old := earth.Revocations()
		time.Sleep(time.Second)
		if err := earth.SetPolicy("allow mars to open udp at venus"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		other := newTown(t).found("other")
		if err := other.SetPolicy("allow everybody to open everything at everybody"); err != nil {
			t.Fatal(err)
		}
		flipped := earth.Revocations().Bytes()
		flipped[len(flipped)/2] ^= 1
		for name, b := range map[string][]byte{"older": old.Bytes(), "another overlay's": other.Revocations().Bytes(), "flipped": flipped, "nothing": nil, "garbage": []byte("x")} {
			n := numbered{number: 1 << 60, digest: 1, list: b}
			if _, err := mars.AnswerList(t.Context(), venus.Own().Member, n.append(nil)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			w.lie(map[peerid.ID]map[string][]byte{venus.Self(): {RevocationProtocol.Name: n.append(nil)}})
			mars.CompareLists(t.Context(), venus.Self())
			if mars.Policy().Text() != earth.Policy().Text() {
				t.Fatalf("%s: %q", name, mars.Policy().Text())
			}
		}
		if n := strings.Count(mars.log(), "revocation list refused"); n == 0 {
			t.Error("nothing is said of what was refused")
		}
	})
}

// A founder that was restored from an older copy of its state learns the newer policy,
// and what it sets then stands.
func TestPolicyOfARestoredFounder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.foundSaved("earth")
		mars := w.join(earth.token(membership.InviteOptions{}), "mars")
		if err := earth.SetPolicy("first"); err != nil {
			t.Fatal(err)
		}
		backup := earth.document()
		time.Sleep(time.Hour)
		if err := earth.SetPolicy("second"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		earth.leave()
		again := w.newPeer(earth.key, openDir(t))
		again.run(Resume(again.config(), &backup, nil))
		if again.Policy().Text() != "first" {
			t.Fatalf("restored: %q", again.Policy().Text())
		}
		again.CompareLists(t.Context(), mars.Self())
		if again.Policy().Text() != "second" {
			t.Errorf("it has met mars: %q", again.Policy().Text())
		}
		if err := again.SetPolicy("third"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if mars.Policy().Text() != "third" {
			t.Errorf("mars has %q", mars.Policy().Text())
		}
	})
}

// A label counts for grants that somebody else has given, and that nobody has before.
func TestGrantee(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		tags := membership.Tags("db,web")
		mars := w.join(earth.token(membership.InviteOptions{Label: "mars", Tags: tags}), "")
		venus := w.join(earth.token(membership.InviteOptions{Tags: "web"}), "venus")
		meet(t, earth, mars, venus)
		for _, p := range []*peer{earth, venus, mars} {
			if label, got := p.Grantee(mars.Self()); label != "mars" || got != tags {
				t.Errorf("mars is %q %q", label, got)
			}
			if label, got := p.Grantee(venus.Self()); label != "venus" || got != "web" {
				t.Errorf("venus, confirmed, is %q %q", label, got)
			}
		}
		// One whom nobody has confirmed says what it likes.
		token := earth.token(membership.InviteOptions{Tags: "web"})
		self := w.newPeer(nil, nil)
		self.run(Enter(self.config(), token, "mars"))
		if _, err := venus.Verify(self.Own().Chain, self.Self()); err != nil {
			t.Fatal(err)
		}
		if label, got := venus.Grantee(self.Self()); label != "" || got != "web" {
			t.Errorf("who calls itself mars is %q %q", label, got)
		}
		// Two issuers have given one label: the first has it.
		rival := newKey(t)
		id, err := PeerID(rival)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		chain, err := earth.issuing().Issue(id, membership.MemberOptions{Label: "mars", Serial: uint64(time.Now().UnixMilli())}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := venus.Verify(chain, id); err != nil {
			t.Fatal(err)
		}
		if label, _ := venus.Grantee(id); label != "" {
			t.Errorf("the second mars is %q", label)
		}
		if label, _ := venus.Grantee(mars.Self()); label != "mars" {
			t.Errorf("the first mars is %q", label)
		}
	})
}
