package overlay

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/internal/yardstick"
)

// off is a clock that is wrong by d.
func off(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }

func (n *node) configOff(name string, d time.Duration) Config {
	cfg := n.config(name)
	cfg.clock = off(d)
	return cfg
}

// TestClocksApart: the clocks of any two of three peers may be four minutes
// wrong each, in either direction: they let each other in, resolve each other's
// names and make pipes.
func TestClocksApart(t *testing.T) {
	for _, wrong := range [][3]time.Duration{{4, -4, 4}, {-4, 4, -4}, {0, 4, -4}} {
		t.Run(fmt.Sprint(wrong), func(t *testing.T) {
			t.Parallel()
			var nodes [3]*node
			for i, name := range []string{"earth", "venus", "mars"} {
				n := newNode(t, nil)
				cfg := n.configOff(name, wrong[i]*time.Minute)
				if i == 0 {
					nodes[i] = n.run(Create(t.Context(), "example.com", cfg))
					continue
				}
				token, err := nodes[0].Invite(InviteOptions{})
				if err != nil {
					t.Fatal(err)
				}
				nodes[i] = n.run(Join(t.Context(), token, cfg))
				if !n.Member().Confirmed {
					t.Errorf("%s is not confirmed", name)
				}
			}
			for _, a := range nodes {
				for _, b := range nodes {
					if a == b {
						continue
					}
					if f, err := a.Resolve(t.Context(), b.Label()); err != nil || f.Peer != b.Self() {
						t.Errorf("%s asks for %s: %v, %v", a.Label(), b.Label(), f, err)
					}
					if _, err := a.Connect(t.Context(), b.Self()); err != nil {
						t.Errorf("%s connects to %s: %v", a.Label(), b.Label(), err)
					}
				}
			}
		})
	}
}

// TestClockADayOff: whoever's clock is a day wrong is told that it may be the
// clock: on joining, and when it has come in, on asking for a name.
func TestClockADayOff(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	earth.join(t, "mars")
	day := 24 * time.Hour
	for desc, d := range map[string]time.Duration{"behind": -day - time.Hour, "ahead": day + time.Hour} {
		token, err := earth.Invite(InviteOptions{Expires: 10 * day})
		if err != nil {
			t.Fatal(err)
		}
		n := newNode(t, nil)
		t.Cleanup(n.shut)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(yardstick.Slowness()*float64(10*time.Second))) // for one try at least
		_, err = Join(ctx, token, n.configOff("venus", d))
		cancel()
		if err == nil || !strings.Contains(err.Error(), "clock") {
			t.Errorf("joining a day %s: %v", desc, err)
		}
		t.Logf("a day %s: %v", desc, err)
	}
	// One that is a member already, and whose clock goes wrong then.
	dir := memory(t)
	venus := earth.joinWith(t, newNode(t, dir), "venus", InviteOptions{})
	venus.shut()
	again := newNodeWith(t, venus.key, dir)
	again.run(Open(t.Context(), again.configOff("venus", day)))
	await(t, "an error about the clock for a name asked for a day ahead", 20*time.Second, func() bool {
		_, err := again.Resolve(t.Context(), "mars")
		return err != nil && strings.Contains(err.Error(), "the clock is wrong")
	})
}

// TestAllBootstrapGone: everyone that a peer's token named, the founder among
// them, is down for good. Started again, the peer gets in through members that
// it only remembers, and finds and is found.
func TestAllBootstrapGone(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 3)
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	for _, p := range peers {
		p.directory.Serve()
	}
	await(t, "servers known", 20*time.Second, func() bool { return len(earth.directory.Servers()) == 3 })
	mars := newNode(t, dir)
	token, err := earth.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mars.run(Join(t.Context(), token, mars.config("mars")))
	await(t, "all members known to mars", 20*time.Second, func() bool {
		mars.mesh.AskPeers(t.Context())
		return len(mars.mesh.Known().AddrInfos()) == 4
	})
	mars.shut()
	earth.shut()
	peers[0].shut()
	again := newNodeWith(t, mars.key, dir)
	again.run(Open(t.Context(), again.config("mars")))
	await(t, "each other found", 30*time.Second, func() bool {
		f, err := again.Resolve(t.Context(), "peer2")
		g, err2 := peers[1].Resolve(t.Context(), "mars")
		return err == nil && err2 == nil && f.Peer == peers[2].Self() && g.Peer == again.Self()
	})
}
