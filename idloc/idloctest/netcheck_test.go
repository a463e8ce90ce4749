package idloctest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/yardstick"
)

// knows waits until a node's Status says what it must.
func knows(t *testing.T, n *Node, what string, ok func(idloc.SelfStatus) bool) idloc.SelfStatus {
	t.Helper()
	var s idloc.SelfStatus
	defer func() {
		if t.Failed() {
			t.Logf("%s says NAT %q, UDP %q, reached %+v, mapped %v, probes %+v", n.Name(), s.NAT, s.UDP, s.ReachedBy, s.Mapped, s.Probes)
		}
	}()
	await(t, what, 20*time.Second, func() bool {
		s = n.Status().Self
		return ok(s)
	})
	return s
}

// TestStatusOfTheNetwork: what a node's Status says of the network around it,
// as far as there is anybody whom it can ask.
func TestStatusOfTheNetwork(t *testing.T) {
	t.Parallel()
	t.Run("alone", func(t *testing.T) {
		t.Parallel()
		s := New(t).Node("earth").Status().Self
		if s.NAT != "" || s.UDP != "" || s.Reached || len(s.Probes) > 0 || s.DialBack.Result != "" {
			t.Errorf("with nobody to ask: %+v", s)
		}
	})
	// Of two members that talk to each other both know, also the kind of NAT: who is asked
	// has a second port.
	for _, c := range []struct {
		name   string
		at     []NodeOption
		member string
	}{
		{"public", nil, "none"},
		{"full cone", []NodeOption{BehindNAT(FullCone)}, "endpoint-independent"},
		{"address-restricted", []NodeOption{BehindNAT(AddressRestricted)}, "endpoint-independent"},
		{"port-restricted", []NodeOption{BehindNAT(PortRestricted)}, "endpoint-independent"},
		{"symmetric", []NodeOption{BehindNAT(Symmetric)}, "endpoint-dependent"},
		{"one to one", []NodeOption{BehindNAT(OneToOne)}, "endpoint-independent"},
		{"two boxes", []NodeOption{BehindNAT(PortRestricted, PortRestricted)}, "endpoint-independent"},
	} {
		t.Run("founder and a member: "+c.name, func(t *testing.T) {
			t.Parallel()
			lab := New(t)
			earth := lab.Node("earth")
			mars := lab.Node("mars", c.at...)
			knows(t, mars, "mars knows", func(s idloc.SelfStatus) bool { return s.NAT == c.member && s.UDP == "works" })
			s := knows(t, earth, "earth knows", func(s idloc.SelfStatus) bool { return s.NAT == "none" && s.UDP == "works" && s.Reached })
			if s.ReachedBy.Local.Addr() != earth.Addrs()[0] || s.ReachedBy.At.IsZero() || !s.ReachedBy.From.IsValid() {
				t.Errorf("reached: %+v", s.ReachedBy)
			}
			for _, p := range earth.Status().Peers {
				if p.ID == mars.ID() && (p.Contact.Addr.Addr() != s.ReachedBy.From.Addr()) {
					t.Errorf("contact %+v, reached %+v", p.Contact, s.ReachedBy)
				}
			}
		})
	}
	// Two servers tell as well.
	for name, want := range map[string]struct {
		kind Kind
		nat  string
	}{
		"full cone": {FullCone, "endpoint-independent"}, "port-restricted": {PortRestricted, "endpoint-independent"}, "symmetric": {Symmetric, "endpoint-dependent"},
	} {
		t.Run("two to ask: "+name, func(t *testing.T) {
			t.Parallel()
			lab := New(t)
			lab.Node("earth")
			venus := lab.Node("venus").Status().Self.Addrs[0] // members answer STUN
			mars := lab.Node("mars", BehindNAT(want.kind), Config(func(c *idloc.Config) { c.ICEServers = []string{"stun:" + venus.String()} }))
			knows(t, mars, "mars knows the kind", func(s idloc.SelfStatus) bool { return s.NAT == want.nat })
		})
	}
}

// TestJoinSaysUDP: who cannot join since no UDP gets through hears that, and
// which addresses were tried.
func TestJoinSaysUDP(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth")
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	nowhere := lab.Host("nowhere")
	at := lab.Host("mars", ReachesOnly(nowhere))
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	n, err := idloc.Join(ctx, token, idloc.Config{Name: "mars", Net: at.Net()})
	if err == nil {
		n.Close()
		t.Fatal("joined through a firewall")
	}
	t.Log(err)
	for _, want := range []string{"nothing came back over UDP", earth.Addrs()[0].String(), "blocked"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

// TestAloneSaysUDP: a member that comes back to where no UDP gets through is up,
// and its Status says that it sent, to whom, and that nothing came back.
func TestAloneSaysUDP(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth")
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	at := lab.Host("mars")
	cfg := idloc.Config{Name: "mars", Net: at.Net(), Dir: t.TempDir()}
	first, err := idloc.Join(t.Context(), token, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	lab.Filter(func(p Packet) bool { return p.From != at })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	mars, err := idloc.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer mars.Close()
	// On a busy machine the five seconds may be over before it has sent anything.
	var s idloc.SelfStatus
	yardstick.Await(20*time.Second, func() bool {
		s = mars.Status().Self
		return s.UDP == "silent" && strings.Contains(s.AloneWhy, "nothing came back over UDP")
	})
	if s.UDP != "silent" || !s.Alone || !strings.Contains(s.AloneWhy, "nothing came back over UDP") || s.NAT != "" {
		t.Errorf("UDP %q, NAT %q, alone %v: %s", s.UDP, s.NAT, s.Alone, s.AloneWhy)
	}
	tried := false
	for _, p := range s.Probes {
		tried = tried || p.Addr.Addr() == earth.Addrs()[0] && !p.Heard && p.Error == ""
	}
	if !tried {
		t.Errorf("earth at %v is not among %+v", earth.Addrs(), s.Probes)
	}
}
