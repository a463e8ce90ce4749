//go:build linux

package kernellab

import (
	"fmt"
	"testing"
	"time"
)

// TestFounderMoves changes the founder's address on a network that has nothing
// else, at once after somebody has joined: the two find each other again.
func TestFounderMoves(t *testing.T) {
	if testing.Short() {
		t.Skip("processes in namespaces: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	const net = "192.168.5"
	l := newLab(t)
	l.box("switch")
	l.lan("switch", net)
	l.plug("earth", "switch", net, 10)
	l.plug("mars", "switch", net, 11)
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	mars := l.join(earth, "mars")
	l.renumber("earth", net, 77)
	const promise = 10 * time.Second
	w := measure(t)
	took := meet(t, w, promise, earth, mars)
	tick := time.NewTicker(20 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	for _, n := range []*node{earth, mars} {
		for members := 0; members == 0; <-tick.C {
			if members = n.must(request{Op: "self"}).Self.Members; members == 0 && w.took() > bound(promise) {
				t.Fatalf("%s is connected to no member after %v", n.label, w.took())
			}
		}
	}
	t.Logf("reached again after %v, members again after %v", took, w.took())
}

// TestFounderDies kills the founder soon after two others have joined: they
// dial each other as if it were there.
func TestFounderDies(t *testing.T) {
	if testing.Short() {
		t.Skip("processes in namespaces: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	l := newLab(t)
	for i, after := range []time.Duration{0, 3 * time.Second} {
		space := func(label string) string { return fmt.Sprint(label, i) }
		for _, label := range []string{"earth", "mars", "venus"} {
			l.public(space(label))
		}
		earth := l.start(space("earth"), "earth")
		earth.must(request{Op: "create", Name: "earth"})
		mars, venus := l.join(earth, space("mars")), l.join(earth, space("venus"))
		time.Sleep(after) // so long it lives
		l.kill(earth)
		took := meet(t, measure(t), time.Second, mars, venus)
		t.Logf("killed %v after the joins: the first dials, both ways, after %v", after, took)
	}
}
