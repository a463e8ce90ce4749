package overlay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
)

// council is an overlay of three authorities, of whom two have to agree, and of members
// that come and go, whose clocks all go by one that is set.
type council struct {
	age
	day     int
	up      map[string]*node
	away    map[string]*node // their keys and state stay
	revoked []*node          // they run on
	by      []string         // the authorities, of whom the first proposes and the second approves
}

// enter brings a new member in by a token.
func (c *council) enter(by *node, name string) *node {
	c.t.Helper()
	return c.with(by, name, InviteOptions{})
}

func (c *council) with(by *node, name string, opts InviteOptions) *node {
	c.t.Helper()
	token, err := by.Invite(opts)
	if err != nil {
		c.t.Fatalf("day %d: %v", c.day, err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	n := newNode(c.t, memory(c.t))
	n.run(Join(ctx, token, c.config(n, name)))
	c.meet(n)
	c.up[name] = n
	return n
}

// meet connects a node with the others that are up, as it would by itself within minutes:
// one that knows a single member, which is revoked then, hears of that only after that.
func (c *council) meet(n *node) {
	c.t.Helper()
	want := min(len(c.up), 3)
	await(c.t, fmt.Sprintf("%s has met others on day %d", n.Label(), c.day), patience, func() bool {
		for _, o := range c.up {
			if len(n.mesh.Members()) >= want && c.day > 0 {
				break
			}
			if _, ok := n.mesh.Member(mustID(c.t, o)); ok {
				continue
			}
			if ai, err := peer.AddrInfoFromString(o.addrs()[0]); err == nil {
				_, _ = n.mesh.Connect(c.t.Context(), *ai)
			}
		}
		return len(n.mesh.Members()) >= want
	})
}

func mustID(t *testing.T, n *node) peer.ID {
	t.Helper()
	ai, err := peer.AddrInfoFromString(n.addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	return ai.ID
}

// agree has the first authority propose and the second approve.
func (c *council) agree(what string, propose func(n *node) error) {
	c.t.Helper()
	first, second := c.up[c.by[0]], c.up[c.by[1]]
	if err := propose(first); !errors.Is(err, admission.ErrPending) {
		c.t.Fatalf("day %d: %s, by one of two: %v", c.day, what, err)
	}
	var id string
	for _, p := range first.roster.Proposals() {
		if p.Mine && (id == "" || !p.At.Before(c.clock.now().Add(-time.Hour))) {
			id = p.ID
		}
	}
	await(c.t, what+": the proposal", patience, func() bool {
		c.compare()
		return second.roster.Approve(id) == nil
	})
	c.settle()
}

// compare has all that are connected tell each other what they have of the authorities, as
// they do every twenty seconds.
func (c *council) compare() {
	for _, n := range c.up {
		for _, m := range n.mesh.Members() {
			n.roster.CompareLists(c.t.Context(), m.ID)
		}
	}
}

// settle waits until all who are up have one list.
func (c *council) settle() {
	c.t.Helper()
	await(c.t, "one list everywhere", patience, func() bool {
		var first *node
		for _, n := range c.up {
			if first == nil {
				first = n
			}
			if n.roster.Revocations().Digest() != first.roster.Revocations().Digest() {
				c.compare()
				return false
			}
		}
		return true
	})
}

// leave takes a member off; back brings it back by what it has saved.
func (c *council) leave(name string) {
	n := c.up[name]
	n.shut()
	delete(c.up, name)
	c.away[name] = n
}

func (c *council) back(name string) {
	c.t.Helper()
	old := c.away[name]
	delete(c.away, name)
	n := newNodeWith(c.t, old.key, old.state)
	n.run(Open(c.t.Context(), c.config(n, name)))
	await(c.t, name+" is a member again", patience, func() bool { return n.Member().NotAfter.After(c.clock.now()) && len(n.mesh.Members()) > 0 })
	c.meet(n)
	c.up[name] = n
}

// pass has days go by, in which those that are up renew what is due, and looks that nobody
// takes who was revoked for a member.
func (c *council) pass(until int) {
	c.t.Helper()
	const step = 12
	for c.day < until {
		days := min(step, until-c.day)
		c.day += days
		c.clock.ahead.Add(int64(time.Duration(days) * 24 * time.Hour))
		await(c.t, fmt.Sprintf("memberships renewed on day %d", c.day), patience, func() bool {
			ok := true
			for _, n := range c.up {
				n.roster.Renew(c.t.Context())
				ok = ok && n.Member().NotAfter.Sub(c.clock.now()) >= membership.MaxMember/2 && n.roster.Lapsed() == nil
			}
			return ok
		})
		c.settle()
		c.strangers()
	}
}

// strangers looks that who was revoked is a member for nobody, and reaches nobody.
func (c *council) strangers() {
	c.t.Helper()
	for _, out := range c.revoked {
		for name, n := range c.up {
			if _, ok := n.roster.Member(out.Self()); ok {
				c.t.Errorf("day %d: %s takes %s for a member, who was revoked", c.day, name, out.Label())
			}
			if err := n.roster.Check(out.chainNow(), out.Self()); err == nil {
				c.t.Errorf("day %d: %s takes the chain of %s, who was revoked", c.day, name, out.Label())
			}
		}
	}
}

// revoke has a member revoked, which runs on.
func (c *council) revoke(name string) {
	c.t.Helper()
	c.revoked = append(c.revoked, c.up[name])
	delete(c.up, name)
	c.agree("revoke "+name, func(n *node) error { return n.Revoke(c.t.Context(), name, admission.Scope{}) })
	c.strangers()
}

// TestCouncil: three authorities, of whom two have to agree. The founder's directory is lost
// on day 1. For 400 days members are invited by those that are left, revoked, given another
// key under their old name, and away for 1 to 200 days; grants change, an authority is
// promoted and another one removed. In the end every member that was not revoked speaks to
// every other one; who was revoked is a member for nobody, on no day.
func TestCouncil(t *testing.T) {
	t.Parallel()
	c := &council{age: age{t: t}, up: map[string]*node{}, away: map[string]*node{}, by: []string{"venus", "moon"}}
	c.earth = newNode(t, memory(t))
	c.earth.run(Create(t.Context(), "example.com", c.config(c.earth, "earth")))
	c.up["earth"] = c.earth
	for _, name := range []string{"venus", "moon", "a", "b", "d", "bad", "worse", "lost"} {
		c.enter(c.earth, name)
	}
	for _, name := range c.by {
		if err := c.earth.roster.Promote(t.Context(), c.up[name].Self(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.earth.roster.SetThreshold(2); err != nil {
		t.Fatal(err)
	}
	c.settle()
	c.pass(1)
	c.leave("earth")
	delete(c.away, "earth") // for good
	if err := c.up["venus"].Revoke(t.Context(), "b", admission.Scope{}); !errors.Is(err, admission.ErrPending) {
		t.Fatalf("one authority alone: %v", err)
	}
	for _, n := range c.up {
		if n.roster.Revoked(c.up["b"].Self()) {
			t.Fatal("one authority alone revokes")
		}
	}

	c.leave("a") // for 200 days
	c.pass(12)
	c.agree("demote founder", func(n *node) error { return n.roster.Demote("founder", false) })
	c.revoke("bad")
	c.leave("b")
	c.pass(13)
	c.back("b") // after a day
	c.pass(50)
	c.enter(c.up["moon"], "young")
	c.leave("d")
	c.pass(110) // for 60 days
	c.back("d")
	c.agree("set grants (1 lines)", func(n *node) error { return n.roster.SetPolicy("allow everybody to open tcp at everybody\n") })
	c.pass(150)

	// The device of lost is replaced: the name moves to another key.
	c.revoke("lost")
	c.with(c.up["venus"], "lost", InviteOptions{Name: "lost"})
	c.pass(212)
	c.back("a")
	c.leave("young")
	c.pass(260)
	c.agree("promote d", func(n *node) error { return n.roster.Promote(t.Context(), c.up["d"].Self(), "d") })
	c.revoke("worse")
	c.pass(300)
	c.agree("demote moon", func(n *node) error { return n.roster.Demote("moon", false) })
	c.by = []string{"d", "venus"}
	c.back("young")
	c.enter(c.up["d"], "younger")
	c.pass(400)

	for _, n := range c.up {
		if got := n.roster.Policy().Text(); got != "allow everybody to open tcp at everybody\n" {
			t.Errorf("%s has the grants %q", n.Label(), got)
		}
		all, threshold := n.roster.Authorities()
		var names []string
		for _, a := range all {
			names = append(names, a.Name)
		}
		if slices.Sort(names); !slices.Equal(names, []string{"d", "venus"}) || threshold != 2 {
			t.Errorf("%s: %d of %v", n.Label(), threshold, names)
		}
		if n.Member().Confirmed != true {
			t.Errorf("%s is not confirmed", n.Label())
		}
	}
	for _, n := range c.up {
		for _, o := range c.up {
			if n == o {
				continue
			}
			await(t, n.Label()+" speaks to "+o.Label(), patience, func() bool { // whose record is published anew, as the clock was set
				f, err := n.Resolve(t.Context(), o.Label())
				if err == nil && f.Peer == o.Self() {
					_, err = n.Connect(t.Context(), o.Self())
				}
				return err == nil && f.Peer == o.Self()
			})
		}
	}
	for _, out := range c.revoked {
		for _, n := range c.up {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if _, err := out.Connect(ctx, n.Self()); err == nil {
				t.Errorf("%s, who was revoked, speaks to %s", out.Label(), n.Label())
			}
			cancel()
		}
	}
}
