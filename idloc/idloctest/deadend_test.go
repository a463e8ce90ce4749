package idloctest_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/overlay/membership"
)

// containers is a host with Docker and libvirt, whose addresses come before the
// lab's public ones in numeric order.
func containers() []NodeOption {
	return []NodeOption{
		DeadEnd("docker0", netip.MustParsePrefix("10.17.0.1/16")), DeadEnd("br-0123456789ab", netip.MustParsePrefix("10.18.0.1/16")),
		DeadEnd("br-0123456789ac", netip.MustParsePrefix("10.19.0.1/16")), DeadEnd("virbr0", netip.MustParsePrefix("10.20.0.1/24")),
	}
}

// deadEnd is the address of the i-th interface of no use.
func deadEnd(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("10.%d.0.1/24", 100+i)) }

// deadEnds are n interfaces of no use. With named their names say so.
func deadEnds(n int, named bool) []NodeOption {
	var out []NodeOption
	for i := range n {
		name := fmt.Sprintf("eth%d", 10+i)
		if named {
			name = fmt.Sprintf("br-%012x", i)
		}
		out = append(out, DeadEnd(name, deadEnd(i)))
	}
	return out
}

// TestTokenOfAServerWithContainers: the addresses of bridges, whose numbers are
// smaller, do not push the public one out of the token.
func TestTokenOfAServerWithContainers(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth", containers()...)
	text, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := membership.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	public := "/ip4/" + earth.Host.Addrs()[0].String() + "/"
	if got := token.Addrs(); len(got) == 0 || !strings.HasPrefix(got[0], public) {
		t.Fatalf("the token has %v, want %s first", got, public)
	}
	mars := lab.Node("mars", append(containers(), BehindNAT(PortRestricted))...)
	echo(t, earth)
	if err := call(t.Context(), mars, earth, []byte("x")); err != nil {
		t.Error(err)
	}
	// What is remembered of it, and told to others, has the address too.
	venus := lab.Node("venus", append(containers(), BehindNAT(Symmetric))...)
	if err := call(t.Context(), venus, earth, []byte("x")); err != nil {
		t.Error(err)
	}
}

// TestPortBelow1024: a node on 443, as people choose it to get through
// firewalls, is dialled and dials.
func TestPortBelow1024(t *testing.T) {
	t.Parallel()
	lab := New(t)
	https := Config(func(c *idloc.Config) { c.Port = 443 })
	lab.Node("earth")
	mars := lab.Node("mars", https)
	venus := lab.Node("venus", BehindNAT(PortRestricted))
	pluto := lab.Node("pluto", https)
	if p := mars.Status().Self.Port; p != 443 {
		t.Fatalf("mars is on port %d", p)
	}
	for _, n := range []*Node{mars, venus, pluto} {
		echo(t, n)
	}
	for _, pair := range [][2]*Node{{venus, mars}, {mars, pluto}, {pluto, venus}} {
		if err := call(t.Context(), pair[0], pair[1], []byte("x")); err != nil {
			t.Error(err)
			continue
		}
		if kind := settled(pair[0], pair[1], true); kind != "direct" {
			t.Errorf("a path of kind %q", kind)
		}
	}
}

// TestFirstDialsWithDeadEnds: with fifteen interfaces of no use on both hosts,
// whose names tell it or do not, and which have the same addresses on both or
// others, the first dial after a join finds the direct path: there is no other
// one. Nothing is asked or checked from those interfaces beyond their subnets.
func TestFirstDialsWithDeadEnds(t *testing.T) {
	t.Parallel()
	for what, named := range map[string]bool{"bridges": true, "unknown": false} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			lab := New(t)
			lab.Node("earth")
			direct := Config(func(c *idloc.Config) { c.Paths = idloc.PathDirectOnly })
			var astray atomic.Int32
			dead := map[netip.Addr]netip.Prefix{}
			for i := range 15 {
				p := deadEnd(i)
				dead[p.Addr()] = p.Masked()
			}
			lab.Filter(func(p Packet) bool {
				if s, ok := dead[p.Src.Addr()]; ok && !s.Contains(p.Dst.Addr()) && p.Payload[0] < 4 {
					astray.Add(1)
				}
				return true
			})
			mars := lab.Node("mars", append(deadEnds(15, named), BehindNAT(PortRestricted), direct)...)
			venus := lab.Node("venus", append(deadEnds(15, named), BehindNAT(PortRestricted), direct)...)
			echo(t, venus)
			if err := call(t.Context(), mars, venus, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if p, ok := active(mars, venus); !ok || p.Kind != "direct" {
				t.Errorf("path %+v", p)
			}
			if n := astray.Load(); named && n > 0 {
				t.Errorf("%d STUN packets left bridges for elsewhere", n)
			}
		})
	}
}
