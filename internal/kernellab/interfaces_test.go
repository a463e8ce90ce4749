//go:build linux

package kernellab

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestUselessInterfaces has two homes with a docker0 and fourteen other
// interfaces that lead nowhere on each host. Both start and dial at once, as
// often as is asked for: each first dial takes a direct path within a second.
func TestUselessInterfaces(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes again and again: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	l := newLab(t)
	l.public("earth")
	l.public("moon")
	labels := []string{"mars", "venus"}
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	l.join(earth, "moon")
	for _, label := range labels {
		always(portRestricted)(l, label, "")
		l.useless(label, 15)
		n := l.start(label, label)
		n.must(request{Op: "join", Name: label, Token: earth.invite(label), Dir: l.dir(label)})
		l.leave(n)
	}
	var good, dials int
	var worst time.Duration
	for round := range *firstDials {
		var up [2]*node
		var wg sync.WaitGroup
		for i, label := range labels {
			up[i] = l.start(label, label)
			wg.Go(func() {
				_, err := up[i].ask(request{Op: "open", Name: label, Dir: l.dir(label)})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		from, to := up[round%2], up[1-round%2]
		w := measure(t)
		c := try(from, to, true)
		settled := w.took()
		worst = max(worst, settled)
		dials++
		if c.err == nil && c.kind == "direct" && settled <= bound(time.Second) {
			good++
		} else {
			t.Errorf("round %d, %s to %s: first echo after %v, %q after %v, %v", round, from.label, to.label,
				c.took.Round(time.Millisecond), c.kind, settled, c.err)
		}
		l.leave(from)
		l.leave(to)
		if dials-good > 4 {
			break // each takes long
		}
	}
	t.Logf("%d of %d first dials direct, the slowest after %v", good, dials, worst)
}

// TestTokenOfServer has a public server found an overlay, on which containers
// and virtual machines run: its tokens say where it can be reached.
func TestTokenOfServer(t *testing.T) {
	if testing.Short() {
		t.Skip("processes in namespaces: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	l := newLab(t)
	at := l.public("earth")
	l.useless("earth", 5)
	always(portRestricted)(l, "mars", "")
	l.useless("mars", 1)
	earth := l.start("earth", "earth")
	self := earth.must(request{Op: "create", Name: "earth"}).Self
	mars := l.start("mars", "mars")
	a, err := mars.ask(request{Op: "join", Name: "mars", Token: earth.invite("mars"), Within: patience(5 * time.Second)})
	if err != nil {
		t.Errorf("a server at %s, with addresses %v: %v", at, self.Addrs, err)
	}
	t.Logf("joined in %v; the server has %v", a.Took.Round(time.Millisecond), fmt.Sprint(self.Addrs))
}
