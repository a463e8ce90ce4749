//go:build linux

package kernellab

import (
	"testing"
	"time"
)

// TestLAN has a network without a router on which everybody's address has changed
// while nobody ran: two members with addresses that are all stale meet, and a token that
// names stale ones admits.
func TestLAN(t *testing.T) {
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
	for i, label := range []string{"earth", "mars", "venus"} {
		l.plug(label, "switch", net, 10+i)
		l.shell("ip -n " + label + " route del default")
	}
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Dir: l.dir("earth")})
	token := earth.invite("venus")
	mars := l.start("mars", "mars")
	mars.must(request{Op: "join", Name: "mars", Token: earth.invite("mars"), Dir: l.dir("mars")})
	l.kill(earth, mars)
	for i, label := range []string{"earth", "mars"} {
		l.renumber(label, net, 77+i)
		l.shell("ip -n " + label + " route del default")
	}
	const promise = 2 * time.Second
	earth, mars = l.start("earth", "earth"), l.start("mars", "mars")
	w := measure(t)
	together(t, w, promise, []*node{earth, mars}, func(n *node, _ time.Time) error {
		_, err := n.ask(request{Op: "open", Name: n.label, Dir: l.dir(n.label)})
		return err
	})
	t.Logf("two with stale addresses have met after %v", meet(t, w, promise, earth, mars))
	venus := l.start("venus", "venus")
	w = measure(t)
	venus.must(request{Op: "join", Name: "venus", Token: token})
	if took := w.took(); took > bound(promise) {
		t.Errorf("a stale token admits after %v", took)
	} else {
		t.Logf("a stale token admits after %v", took)
	}
	venus.must(request{Op: "call", Name: mars.name})
}
