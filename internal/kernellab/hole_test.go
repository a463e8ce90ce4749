//go:build linux

package kernellab

import (
	"fmt"
	"testing"
	"time"
)

// TestHoleIPv4 has two members behind routers that drop what is larger than
// the smallest links carry, and say nothing: they join, resume, are dialled and
// move a megabyte.
func TestHoleIPv4(t *testing.T) {
	l := newHoles(t)
	if l == nil {
		return
	}
	l.public("earth")
	l.unload("earth", "ext")
	for _, space := range []string{"mars", "venus"} {
		always(portRestricted)(l, space, "")
		l.unload(space, "ext")
		l.hole("box-"+space, 1228)
	}
	passHole(l)
}

// TestHoleIPv6 is the same where there is IPv6 only, at its smallest MTU.
func TestHoleIPv6(t *testing.T) {
	l := newHoles(t)
	if l == nil {
		return
	}
	l.public6("earth", "")
	l.unload("earth", "ext")
	for i, space := range []string{"mars", "venus"} {
		l.behind6(space, "box-"+space, fmt.Sprintf("2a0%d", i+1))
		l.unload(space, "ext")
		l.hole("box-"+space, 1280)
	}
	passHole(l)
}

// newHoles makes a lab for one of them, inside the namespaces only.
func newHoles(t *testing.T) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("waits for packets that do not come: not with -short")
	}
	t.Parallel()
	needs(t, "ethtool", "ethtool")
	if !inside(t) {
		return nil
	}
	return newLab(t)
}

// passHole is what must work.
func passHole(l *lab) {
	t := l.t
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	step := func(what string, n *node, q request) {
		a, err := n.ask(q)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		t.Logf("%-18s %6v %s", what, a.Took.Round(time.Millisecond), a.Path.Kind)
	}
	limit := patience(5 * time.Second)
	var up [2]*node
	for i, label := range []string{"mars", "venus"} {
		up[i] = l.start(label, label)
		step(label+" joins", up[i], request{Op: "join", Name: label, Token: earth.invite(label), Dir: l.dir(label), Within: limit})
	}
	if t.Failed() {
		return
	}
	mars, venus := up[0], up[1]
	step("mars to earth", mars, request{Op: "call", Name: earth.name, Within: limit})
	step("mars to venus", mars, request{Op: "call", Name: venus.name, Within: limit})
	l.kill(mars)
	mars = l.start("mars", "mars")
	step("mars resumes", mars, request{Op: "open", Name: "mars", Dir: l.dir("mars"), Within: limit})
	step("mars to venus", mars, request{Op: "call", Name: venus.name, Within: limit})
	step("earth to mars", earth, request{Op: "call", Name: mars.name, Within: limit})
	for _, peer := range []*node{earth, venus} {
		step("1 MB to "+peer.label, mars, request{Op: "bulk", Name: peer.name, Bytes: 1e6, Within: 2 * limit})
	}
	for _, box := range []string{"box-mars", "box-venus"} {
		n := l.swallowed(box)
		t.Logf("the hole of %s has swallowed %d packets", box, n)
		if n == 0 {
			t.Errorf("the hole of %s has swallowed nothing", box)
		}
	}
}

// space6 is a namespace on the internet with IPv6 only.
type space6 struct {
	name string
	at   string // its address there
	net  string // the /64 behind it
}

// public6 makes one, with a network behind it or none, and tells all of them
// the ways to the networks of the others.
func (l *lab) public6(space, net string) {
	l.t.Helper()
	l.public(space)
	s := space6{name: space, at: fmt.Sprintf("2a00:1::%x", l.next), net: net}
	l.shell(fmt.Sprintf(`ip -n %[1]s addr flush dev ext scope global
ip -n %[1]s addr add %[2]s/32 dev ext nodad`, space, s.at))
	way := func(from, to space6) {
		if to.net != "" {
			l.shell(fmt.Sprintf("ip -n %s -6 route add %s::/64 via %s", from.name, to.net, to.at))
		}
	}
	for _, other := range l.routers6 {
		way(other, s)
		way(s, other)
	}
	l.routers6 = append(l.routers6, s)
}

// behind6 makes a namespace with IPv6 only behind a router of its own, which
// translates nothing.
func (l *lab) behind6(space, box, net string) {
	l.t.Helper()
	l.public6(box, net)
	l.behind(space, box, inner)
	l.shell(fmt.Sprintf(`ip -n %[2]s addr flush dev in scope global
ip -n %[2]s addr add %[3]s::1/64 dev in nodad
ip -n %[1]s addr flush dev ext scope global
ip -n %[1]s addr add %[3]s::2/64 dev ext nodad
ip -n %[1]s -6 route add default via %[3]s::1
ip netns exec %[2]s sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
for space in %[1]s %[2]s; do # an address that is being checked for doubles does not serve yet
	while ip -n $space -6 addr show tentative | grep -q .; do sleep 0.1; done
done`, space, box, net))
}
