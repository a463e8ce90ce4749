package overlay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
)

// age is an overlay of a founder, a member that stays, and others, whose clocks all go by
// one that can be set.
type age struct {
	t           *testing.T
	clock       handClock
	earth, moon *node
}

func (a *age) config(n *node, name string) Config {
	cfg := n.config(name)
	cfg.clock = a.clock.now
	return cfg
}

func (a *age) join(n *node, name string) *node {
	a.t.Helper()
	token, err := a.earth.Invite(InviteOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	return n.run(Join(ctx, token, a.config(n, name)))
}

func newAge(t *testing.T) *age {
	t.Helper()
	a := &age{t: t}
	a.earth = newNode(t, nil)
	a.earth.run(Create(t.Context(), "example.com", a.config(a.earth, "earth")))
	a.moon = a.join(newNode(t, nil), "moon")
	return a
}

// pass has days go by in steps in which those that are up renew what is due.
func (a *age) pass(days int) {
	a.t.Helper()
	const step = 12 * 24 * time.Hour
	for left := time.Duration(days) * 24 * time.Hour; left > 0; left -= step {
		a.clock.ahead.Add(int64(min(step, left)))
		await(a.t, "memberships renewed", patience, func() bool {
			for _, n := range []*node{a.earth, a.moon} {
				n.roster.Renew(a.t.Context())
				if n.Member().NotAfter.Sub(a.clock.now()) < membership.MaxMember/2 {
					return false
				}
			}
			return true
		})
	}
}

// TestYearInADrawer: a member whose certificate has ended long ago starts again without a
// token, by the founder or by a member that is connected to the founder, finds the others
// and is found. One that was revoked meanwhile does not get in, whomever it reaches.
func TestYearInADrawer(t *testing.T) {
	t.Parallel()
	for _, days := range []int{31, 366} {
		for _, by := range []string{"founder", "member"} {
			t.Run((time.Duration(days)*24*time.Hour).String()+" by a "+by, func(t *testing.T) {
				t.Parallel()
				a := newAge(t)
				mars := a.join(newNode(t, memory(t)), "mars")
				out := a.join(newNode(t, memory(t)), "out")
				for _, n := range []*node{mars, out} {
					for id, other := range map[string]*node{"founder": a.earth, "member": a.moon} {
						await(t, "the other met", patience, func() bool { // what is only heard of may be forgotten with who told it
							return slices.ContainsFunc(n.mesh.Known().List(), func(p mesh.KnownMember) bool { return p.Peer == other.Self() && p.By.IsZero() })
						})
						if id != by {
							n.mesh.Known().Forget(other.Self())
						}
					}
					n.shut()
				}
				if err := a.earth.Revoke(t.Context(), "out", admission.Scope{}); err != nil {
					t.Fatal(err)
				}
				a.pass(days)
				again := newNodeWith(t, mars.key, mars.state)
				cfg, log := again.configHeard("mars")
				cfg.clock = a.clock.now
				again.run(Open(t.Context(), cfg))
				await(t, "mars found and the others found", patience, func() bool {
					f, err := again.Resolve(t.Context(), "moon")
					g, err2 := a.moon.Resolve(t.Context(), "mars")
					return err == nil && err2 == nil && f.Peer == a.moon.Self() && g.Peer == again.Self()
				})
				if m := again.Member(); !m.Confirmed || again.Label() != "mars" || m.NotAfter.Before(a.clock.now()) {
					t.Errorf("back as %q: %+v", again.Label(), m)
				}
				if !strings.Contains(strings.Join(log.warnings(), ""), "has ended while it was away") {
					t.Error("that its membership had ended is not said")
				}
				if _, err := again.Connect(t.Context(), a.moon.Self()); err != nil {
					t.Error(err)
				}
				gone := newNodeWith(t, out.key, out.state)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				gone.run(Open(ctx, a.config(gone, "out")))
				await(t, "the revoked one is told so", patience, func() bool {
					_, why := gone.Alone()
					return strings.Contains(why, membership.ErrRevoked.Error())
				})
				if _, err := gone.Resolve(t.Context(), "moon"); !errors.Is(err, ErrUnavailable) {
					t.Errorf("the revoked one finds others: %v", err)
				}
			})
		}
	}
}

// TestFounderAway: the founder is off for 40 days, in which the members go on among
// themselves, and then for so long that all memberships end, and comes back
// at another address. The members, which have run all the time and know no way to it, are
// called by it, renewed, and with each other again.
func TestFounderAway(t *testing.T) {
	t.Parallel()
	a := &age{t: t}
	dir := memory(t)
	a.earth = newNode(t, dir)
	a.earth.run(Create(t.Context(), "example.com", a.config(a.earth, "earth")))
	moon, mars := a.join(newNode(t, nil), "moon"), a.join(newNode(t, nil), "mars")
	for _, n := range []*node{moon, mars} {
		await(t, "a member known", patience, func() bool { return len(a.earth.mesh.Known().Addrs(n.Self())) > 0 })
	}
	a.earth.shut()
	a.clock.ahead.Add(int64(40 * 24 * time.Hour))
	if _, err := moon.Connect(t.Context(), mars.Self()); err != nil {
		t.Errorf("nobody was there to renew them, and they do not speak to each other: %v", err)
	}
	a.clock.ahead.Add(int64(360 * 24 * time.Hour))
	for _, n := range []*node{moon, mars} {
		await(t, "nobody is a member of nobody's", patience, func() bool { return n.roster.Lapsed() != nil && len(n.mesh.Members()) == 0 })
	}
	await(t, "those that are no members any more do not speak to each other", patience, func() bool {
		_, err := moon.Connect(t.Context(), mars.Self())
		return err != nil
	})
	earth := newNodeWith(t, a.earth.key, dir)
	earth.run(Open(t.Context(), a.config(earth, "earth")))
	await(t, "both members again", patience, func() bool {
		f, err := moon.Resolve(t.Context(), "mars")
		g, err2 := mars.Resolve(t.Context(), "moon")
		return err == nil && err2 == nil && f.Peer == mars.Self() && g.Peer == moon.Self()
	})
	if _, err := moon.Connect(t.Context(), mars.Self()); err != nil {
		t.Error(err)
	}
}
